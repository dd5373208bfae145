"""What was planned beside what a stage took: in the record of each stage, the summary, the status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine import ROOT, config, r1pipe

from r1pipe.config.loader import load
from r1pipe.run.planning import grading
from r1pipe.run.status import status_lines


def record(wall_s: float, memory: float, planned_s: float = 100.0, planned_gib: float = 40.0) -> dict:
    planned = {"wall_s": planned_s, "memory_gib": planned_gib}
    return {"wall_s": wall_s, "gpu": {"memory_gib": memory}, "predicted": planned}


def test_within_thirty_percent_nothing_is_said():
    grade = grading.graded(record(125.0, 35.0))
    assert grade["measured"] == {"wall_s": 125.0, "memory_gib": 35.0}
    assert grade["off"] == {}
    assert grading.remark(record(125.0, 35.0)) == ""


def test_more_than_thirty_percent_says_so():
    assert grading.graded(record(140.0, 60.0))["off"] == {"wall_s": 1.4, "memory_gib": 1.5}
    said = grading.remark(record(140.0, 60.0))
    assert said == "took 2 min, 2 min were planned; used 60.0 GiB of a GPU, 40.0 were planned"
    assert grading.graded(record(60.0, 40.0))["off"] == {"wall_s": 0.6}


def test_what_pytorch_counted_goes_before_nvidia_smi():
    """RL on a GPU had 45 GiB allocated, and nvidia-smi showed 122: freed memory that nobody else wanted."""
    seen = {"wall_s": 100.0, "gpu": {"memory_gib": 122.0, "peak_gib": 45.0}}
    planned = {"wall_s": 100.0, "peak_gib": 42.0, "memory_gib": 43.0}
    assert grading.graded(seen | {"predicted": planned})["off"] == {}


def test_a_few_seconds_are_no_news():
    assert grading.graded(record(4.0, 0.0, planned_s=1.5))["off"] == {}


def test_a_record_without_a_plan_has_no_grade():
    assert grading.graded({"wall_s": 3.0}) == {}


def test_a_stage_that_waits_for_a_service_has_no_plan_of_its_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "p.jsonl").write_text('{"prompt": "1+1?", "answer": "2", "domain": "math"}\n')
    monkeypatch.setenv("R1_PROBLEMS", str(tmp_path / "p.jsonl"))
    monkeypatch.setenv("R1_STUDENT", str(ROOT / "r1pipe/embedded/data/student"))
    planned = grading.predictions(load(ROOT / "configs" / "synthetic.yaml"))
    assert set(planned) == {"problems", "distillation-set", "distill"}


def test_a_run_records_what_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config(tmp_path)
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/t/summary.json").read_text())
    for stage in summary["stages"]:
        assert stage["predicted"]["wall_s"] > 0
        assert stage["measured"]["wall_s"] == stage["wall_s"]
    status = json.loads(r1pipe(tmp_path, "status", "t", "--json").stdout)
    assert status["stages"][0]["predicted"] == summary["stages"][0]["predicted"]


def test_status_shows_what_is_off():
    stage = {
        "name": "r1-zero",
        "state": "done",
        "wall_s": 140.0,
        "gates": [],
        **grading.graded(record(140.0, 41.0)),
    }
    lines = status_lines({"run": "t", "folder": "t", "driver": None, "stages": [stage], "scores": {}})
    assert "planned: 1.4 x" in lines[1]


def test_predictions_are_those_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    planned = grading.predictions(load(ROOT / "configs/r1.yaml"))
    # On two cores it took 187 s (2026-11-29).
    assert 60 < planned["reasoning-rl"]["wall_s"] < 600
    assert planned["reasoning-prompts"]["wall_s"] < 5
