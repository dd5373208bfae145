"""The attacks of docs/attacks.md on configs, secrets, models and runs: the page names each with its verdict."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from r1pipe.config.loader import load
from r1pipe.errors import ConfigError, InputError
from r1pipe.run.digests import Digests
from r1pipe.run.plan import make_plan
from r1pipe.run.store import RunFolder
from tests.config.test_secrets import HIDDEN
from tests.config.test_yaml_nodes import BOMBS
from tests.run.test_model_folder_attacks import ATTACKS, LOADED

ROOT = Path(__file__).parents[2]

PAGE = ROOT / "docs" / "attacks.md"
EXAM = """stages:
  NAME: {kind: prompts, source: [{SOURCE, columns: {prompt: p}, domain: math}], outputs: {prompts: exam}}
"""

# A run's own files, each a test of test_records.py.
RUN_FOLDERS = {
    "a manifest that is cut off": "test_a_damaged_manifest_is_named_and_not_done_again",
    "a manifest of another shape": "test_a_damaged_manifest_is_named_and_not_done_again",
    "a manifest that was edited": "test_a_manifest_that_was_edited_does_not_count",
    "a pipe for a manifest": "test_a_manifest_that_cannot_be_read_is_no_wait",
    "a manifest that names files outside": "test_a_manifest_names_files_that_are_gone",
    "a record of a start that is a list": "test_a_damaged_record_of_a_stage_that_was_started_is_named",
    "hashes of another shape": "test_one_remembered_hash_that_is_damaged_is_made_anew",
    "a config of a run whose stages leave it": "test_a_damaged_config_of_a_run_is_said",
    "progress of another shape": "test_progress_of_another_shape_is_not_shown",
    "a socket for metrics": "test_a_stage_does_not_start_over_what_it_would_wait_for",
    "a device for a journal": "test_a_stage_does_not_start_over_what_it_would_wait_for",
    "a file for a stage": "test_a_file_in_the_place_of_a_stage_is_said",
    "a folder for the lock": "test_a_lock_that_is_no_file_is_said",
    "a lock of brackets": "test_a_lock_of_another_shape_is_taken_over",
    "an output that became a pipe": "test_a_published_file_that_became_a_pipe_is_no_wait",
}


@pytest.mark.parametrize(
    "name",
    [
        "summary.json",
        "Manifest.JSON",
        "config.json",
        "artifacts",
        "out",
        "workdir",
        "logs",
        "a" * 101,
        "..",
        "../x",
    ],
)
def test_a_stage_is_not_called_like_a_run_s_own_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(EXAM.replace("NAME", f'"{name}"').replace("SOURCE", "path: ./rows.jsonl"))
    with pytest.raises(ConfigError, match="a stage cannot be called|is not a name for a stage"):
        load(path)


def test_names_that_differ_in_capitals_alone_are_refused_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk that does not tell them apart, two stages would write into one folder."""
    monkeypatch.chdir(tmp_path)
    twins = "stages:\n"
    for stage, output in {"exam": "first", "Exam": "second", "other": "First"}.items():
        twins += f"  {stage}: {{kind: prompts, source: [{{world: math}}], outputs: {{prompts: {output}}}}}\n"
    path = tmp_path / "c.yaml"
    path.write_text(twins)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert "stages 'exam' and 'Exam'" in str(refused.value) and "c.yaml:3" in str(refused.value)
    assert "outputs 'first' and 'First'" in str(refused.value)

    (tmp_path / "rows.jsonl").write_text('{"p": "1+1"}\n')
    path.write_text(EXAM.replace("NAME", "exam").replace("SOURCE", "path: rows.jsonl"))
    (tmp_path / "runs/C").mkdir(parents=True)
    with pytest.raises(ConfigError, match="runs 'C' and 'c'"):
        make_plan(load(path))
    make_plan(load(path, run="C"))


# name -> what the config names
PATHS = {
    "rows from a pipe": "./pipe.jsonl",
    "rows from a device": "./zero.jsonl",
    "rows from a link to itself": "./circle.jsonl",
    "a path of a thousand characters": "./" + "x" * 1000,
    "a path with a null character": '"./a\\0b.jsonl"',
}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_cannot_be_read_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "circle.jsonl").symlink_to("circle.jsonl")
    path = tmp_path / "c.yaml"
    path.write_text(EXAM.replace("NAME", "exam").replace("SOURCE", f"path: {PATHS[name]}"))
    with pytest.raises(ConfigError, match="cannot be read") as refused:
        load(path)
    assert "c.yaml:2" in refused.value.where


def test_a_config_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="cannot read the config"):
        load(tmp_path / "c.yaml")


def test_rows_that_become_a_pipe_are_no_wait(tmp_path: Path) -> None:
    from r1pipe.data.files import read_raw

    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(InputError, match="named pipe"):
            list(read_raw(tmp_path / name))
        with pytest.raises(InputError, match="named pipe"):
            Digests(RunFolder("t", tmp_path)).path(tmp_path / name)


def test_the_page_lists_every_attack() -> None:
    rows = re.findall(r"^\| (?!attack|---)([^|]+?) \| ([^|]+?) \|", PAGE.read_text(encoding="utf8"), re.M)
    listed = dict(rows)
    assert len(listed) == len(rows), "no name stands twice"
    attacks = [*BOMBS, *HIDDEN, *ATTACKS, *LOADED, *RUN_FOLDERS, *PATHS]
    assert len(attacks) == len(set(attacks)) and len(attacks) > 70
    assert {name for name in attacks if listed.get(name) != "holds"} == set()
    records = (Path(__file__).parent / "test_records.py").read_text(encoding="utf8")
    assert all(f"def {test}(" in records for test in RUN_FOLDERS.values())
