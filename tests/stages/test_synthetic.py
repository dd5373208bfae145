"""configs/synthetic.yaml against a real server: killed twice, ended by its budget, no row lost or twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from engine import ROOT, r1pipe, start
from real_server import BASE, DRAWN, server

__all__ = ["server"]
pytestmark = pytest.mark.slow

PROBLEMS, SAMPLES = 40, 4


@pytest.fixture
def arguments(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from r1pipe.embedded.world import problems
    from r1pipe.text.rendering import TEMPLATES

    rows = problems("train", ("math",), PROBLEMS, 0, ("en",))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("R1_PROBLEMS", str(tmp_path / "p.jsonl"))
    monkeypatch.setenv("R1_STUDENT", str(BASE))
    endpoint = {"base_url": server, "model": str(BASE), "max_in_flight": 2, "extra": DRAWN}
    sets = {
        "teacher.sampling.temperature": 1.0,
        "teacher.sampling.max_tokens": 80,
        "teacher.sampling.endpoint": endpoint,
        "teacher.template": str(TEMPLATES / "embedded-zero.txt"),
        "teacher.filters": {"form": "auto", "min_language": None},
        "distill.sft": {"max_length": 160, "batch_size": 8, "epochs": 1},
    }
    given = [str(ROOT / "configs" / "synthetic.yaml"), "--run", "s"]
    for key, value in sets.items():
        given += ["--set", f"stages.{key}={json.dumps(value)}"]
    return given


def drawn(folder: Path) -> int:
    journal = folder / "runs/s/teacher/workdir/samples-0-of-1.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def kill_after(folder: Path, arguments: list[str], samples: int) -> None:
    process = start(folder, "run-all", *arguments)
    deadline = time.monotonic() + 120
    while drawn(folder) < samples:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_killed_twice_and_ended_by_its_budget_no_row_is_lost_or_twice(
    arguments: list[str], tmp_path: Path
) -> None:
    rng = random.Random(0)
    kill_after(tmp_path, arguments, rng.randint(4, 10))
    kill_after(tmp_path, arguments, rng.randint(14, 24))
    kept = drawn(tmp_path)

    budget = ["--set", "stages.teacher.sampling.endpoint.budget_tokens=2400"]
    done = r1pipe(tmp_path, "run-all", *arguments, *budget, timeout=300)
    assert done.returncode == 1 and "budget_tokens is used up" in done.stderr, done.stderr
    assert kept <= drawn(tmp_path) < PROBLEMS * SAMPLES

    done = r1pipe(tmp_path, "run-all", *arguments, timeout=300)
    assert done.returncode == 0, done.stderr

    run = tmp_path / "runs" / "s"
    traces = run / "teacher" / "out" / "chats"
    right = read(traces / "rows.jsonl")
    wrong = read(traces / "dropped.jsonl")
    ids = [row["id"] for row in right]
    assert len(set(ids)) == len(ids)
    # a problem is sampled until one sample is right, and four times where none is
    by_problem: dict[str, int] = {}
    for row in wrong:
        by_problem[row["id"]] = by_problem.get(row["id"], 0) + 1
    assert len({*ids, *by_problem}) == PROBLEMS
    assert all(by_problem[name] == SAMPLES for name in set(by_problem) - set(ids))
    (shard,) = (run / "distillation-set" / "out" / "chats").glob("*.parquet")
    assert pyarrow.parquet.read_table(shard).num_rows == len(right)
    assert (run / "distill" / "out" / "checkpoint" / "config.json").is_file()
