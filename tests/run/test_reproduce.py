"""`r1pipe reproduce`: a run is made again, and where it differs first is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from engine import config, edit_manifest, r1pipe

from r1pipe.run.file_differences import first_difference
from r1pipe.run.lock import LOCK

# The second stage writes the number of its process, so that no repetition is the same.
FIGURE = """
stages:
  exam: {kind: prompts, source: [{world: math, count: 4}], outputs: {prompts: exam}}
  mine: {kind: r1pipe_fakes.rows, inputs: {source: exam}, outputs: {rows: mine}}
"""


@pytest.fixture
def done(tmp_path: Path) -> Path:
    config(tmp_path, FIGURE)
    made = r1pipe(tmp_path, "run-all", "t.yaml", "--only", "exam", "--set", "stages.exam.seed=7")
    assert made.returncode == 0, made.stderr
    return tmp_path


def lock(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs/t" / LOCK).read_text())


def test_the_lock_says_how_a_run_was_made(done: Path) -> None:
    told = lock(done)
    assert told["config"] == {"file": str(done / "t.yaml"), "sets": ["stages.exam.seed=7"]}
    exam = told["stages"]["exam"]
    assert exam["seed"] == 7 and exam["device"] and exam["versions"]["torch"]
    assert list(exam["outputs"]) == ["prompts"]


def test_a_run_that_repeats_is_equal(done: Path) -> None:
    again = r1pipe(done, "reproduce", "t")
    assert again.returncode == 0, again.stderr + again.stdout
    assert again.stdout.splitlines()[-1] == "equal: all 1 stages made the same"
    assert (done / "runs/t-again/exam/manifest.json").is_file()


def test_the_first_difference_is_said_with_other_versions(done: Path) -> None:
    assert r1pipe(done, "run-all", "t.yaml", "--set", "stages.exam.seed=7").returncode == 0
    edit_manifest(done, "mine", lambda manifest: manifest["versions"].update(torch="1.0"))
    again = r1pipe(done, "reproduce", "t", "--run", "other", "--json")
    assert again.returncode == 1, again.stderr
    told = json.loads(again.stdout)
    assert told["stages"] == ["exam", "mine"] and not told["equal"]
    assert list(told["first"]) == ["mine"]
    assert told["first"]["mine"].startswith("rows/rows.jsonl, row 1 (0), pid: ")
    assert told["other"][0].startswith("torch: 1.0 then, ")


def test_another_config_is_refused(done: Path) -> None:
    config(done, FIGURE.replace("count: 4", "count: 5"))
    again = r1pipe(done, "reproduce", "t")
    assert again.returncode == 2
    assert "exam would be made from something else than it was: source.0.count: 4 -> 5" in again.stderr
    assert not (done / "runs/t-again").exists()


def test_a_run_without_a_whole_lock_is_refused(done: Path) -> None:
    (done / "runs/t" / LOCK).write_text('{"config": ')
    again = r1pipe(done, "reproduce", "t")
    assert again.returncode == 2 and "has no whole lock.json" in again.stderr


# --- files ------------------------------------------------------------------------------------------------------------


def test_tensors(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    then = tmp_path / "then.safetensors"
    now = tmp_path / "now.safetensors"
    same = torch.ones(3)
    save_file({"a": same, "b": torch.zeros(4, dtype=torch.bfloat16)}, then)
    save_file({"a": same, "b": torch.tensor([0, 0.5, 0, -2], dtype=torch.bfloat16)}, now)
    assert first_difference(then, then) == ""
    assert first_difference(then, now) == "tensor b: 2 numbers differ, by at most 2"
    save_file({"a": same, "b": torch.zeros(2, 2, dtype=torch.bfloat16)}, now)
    assert first_difference(then, now) == "tensor b: BF16 [4] then, BF16 [2, 2] now"
    save_file({"a": same}, now)
    assert first_difference(then, now) == "tensor b: only then"


def test_rows_json_and_bytes(tmp_path: Path) -> None:
    then = tmp_path / "then.jsonl"
    now = tmp_path / "now.jsonl.gz"
    then.write_text('{"id": "a", "messages": [{"content": "x"}]}\n{"id": "b"}\n')
    now.write_bytes(gzip.compress(b'{"id": "a", "messages":[{"content": "y"}]}\n{"id": "b"}\n'))
    assert first_difference(then, now) == 'row 1 (a), messages.0.content: "x" then, "y" now'
    now.write_bytes(gzip.compress(b'{"id": "a", "messages":[{"content": "x"}]}\n'))
    assert first_difference(then, now) == "row 2: there are fewer rows now"

    one = tmp_path / "one.json"
    other = tmp_path / "other.json"
    one.write_text('{"math": {"n": 1}, "rest": NaN}')
    other.write_text('{"rest": NaN, "math": {"n": true}}')
    assert first_difference(one, other) == "math.n: 1 then, true now"
    other.write_text('{"math": {"n": 1},\n"rest": NaN}')
    assert first_difference(one, other) == ""
    other.write_text("{")
    assert first_difference(one, other) == "byte 1"
