"""Reports of other people's: what is no report is refused with its file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from r1pipe.errors import InputError
from r1pipe.evaluation.comparison import read_report

LINE = {"id": "a", "sample": 0, "response": "4"}


@pytest.mark.parametrize("content", ["", "[", "[]", "3", "null", "[" * 100_000, '{"other": {}}'])
def test_scores_of_another_shape_are_refused(tmp_path: Path, content: str) -> None:
    """They ended the stage with a traceback."""
    (tmp_path / "rows.jsonl").write_text(json.dumps(LINE) + "\n")
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(InputError, match="report"):
        read_report(tmp_path, "m")


@pytest.mark.parametrize("name", ["id", "sample", "response"])
def test_a_line_that_is_none_of_a_report_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "scores.json").write_text('{"m": {}}')
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(LINE)}\n{json.dumps(LINE | {name: None})}\n")
    with pytest.raises(InputError, match="no id, sample and response") as refused:
        read_report(tmp_path, "m")
    assert refused.value.where.endswith("rows.jsonl:2")


def test_rows_that_are_a_pipe_are_no_wait(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"m": {}}')
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match="named pipe"):
        read_report(tmp_path, "m")
