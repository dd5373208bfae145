"""`r1pipe clean`: what nothing needs is shown, and removed only when that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine import config, r1pipe, states

from r1pipe.run.cleaning import removable
from r1pipe.run.store import RunFolder

UNNEEDED = {
    ".old/rows.1",
    ".summary.json.4711",
    "rows/.manifest.json.12",
    "rows/workdir",
    "score/out.partial",
    "score/workdir/trainer/.partial",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with a stage that was redone, one that is done, one that goes on from a checkpoint, and leftovers."""
    config(tmp_path)
    assert r1pipe(tmp_path, "run-all", "t.yaml", "--until", "more").returncode == 0
    assert r1pipe(tmp_path, "run-all", "t.yaml", "--only", "rows", "--rebuild", "rows").returncode == 0
    run = tmp_path / "runs/t"
    for name in (
        ".summary.json.4711",
        "rows/.manifest.json.12",
        "rows/workdir/half",
        "score/stage.json",
        "score/out.partial/report/rows.jsonl",
        "score/workdir/trainer/checkpoint-4/model.safetensors",
        "score/workdir/trainer/.partial/checkpoint-6/model.safetensors",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x" * 100)
    return tmp_path


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder / "runs/t")) for path in (folder / "runs/t").rglob("*")}


def test_it_shows_what_it_would_remove_and_removes_nothing(folder: Path) -> None:
    before = left(folder)
    told = r1pipe(folder, "clean", "t")
    assert told.returncode == 0 and "nothing was removed; --yes removes it" in told.stdout
    assert "stage that was redone" in told.stdout
    assert left(folder) == before


def test_what_a_stage_goes_on_from_and_what_is_published_stays(folder: Path) -> None:
    before = left(folder)
    told = r1pipe(folder, "clean", "t", "--yes", "--json")
    assert told.returncode == 0, told.stderr
    removed = json.loads(told.stdout)
    names = {str(Path(entry["path"]).relative_to(folder / "runs/t")) for entry in removed["entries"]}
    assert names == UNNEEDED
    assert removed["bytes"] >= 500
    gone = before - left(folder)
    assert all(any(name == top or name.startswith(f"{top}/") for top in UNNEEDED) for name in gone)
    assert "score/workdir/trainer/checkpoint-4/model.safetensors" in left(folder)
    assert states(folder)["rows"] == "done"
    assert r1pipe(folder, "clean", "t").stdout == "run t: nothing can be removed\n"


def test_not_while_another_command_works_on_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = RunFolder("t")
    with run:
        told = r1pipe(folder, "clean", "t", "--yes")
        assert told.returncode == 2 and "another command works on the run" in told.stderr
        assert len(removable(run)) == len(UNNEEDED)
