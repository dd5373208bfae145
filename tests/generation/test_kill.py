"""kill -9 at random moments of a stage that samples from an unreliable service changes nothing in the result."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from service import output, rows, run_stage, sampling, stats, writer

IN_FLIGHT, KILLS, WHILE_DRAWING, COUNT, N = 8, 20, 15, 40, 8


def _run(folder: Path, base_url: str, stop_after: int | None) -> None:
    run_stage(
        folder,
        base_url,
        COUNT,
        stop_after=stop_after,
        prefer="diverse",
        sampling=sampling(base_url, "wild", N, max_in_flight=IN_FLIGHT),
    )


def _lines(folder: Path) -> int:
    path = folder / "work/samples-0-of-1.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [None, 3])
def test_twenty_kills_lose_and_repeat_nothing(tmp_path: Path, stop_after: int | None) -> None:
    """Most kills come while samples are drawn, at random places; the rest while all is read, judged and written."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        [
            "r1pipe.rewards",
            "r1pipe.data.candidates",
            "r1pipe.generation.sampling",
            "r1pipe.generation.openai",
            "httpx2",
        ]
    )

    def spawned(name: str, base_url: str) -> Any:
        process = processes.Process(target=_run, args=(tmp_path / name, base_url, stop_after))
        process.start()
        return process

    def whole(name: str, base_url: str) -> float:
        started, process = time.monotonic(), spawned(name, base_url)
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - started

    def kill(process: Any) -> None:
        assert process.exitcode is None, "it was over too soon to be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL

    with writer() as base_url:
        whole("whole", base_url)
        seconds = whole("whole", base_url)  # from its files
    total, rng = _lines(tmp_path / "whole"), random.Random(stop_after)
    with writer() as base_url:
        for point in sorted(rng.sample(range(int(0.9 * total)), WHILE_DRAWING)):
            process = spawned("killed", base_url)
            while _lines(tmp_path / "killed") < point and process.is_alive():
                time.sleep(0.001)
            process.join(rng.uniform(0, 0.03))
            kill(process)
        reached = _lines(tmp_path / "killed")
        assert reached < total, "all was drawn before the last kill"
        whole("killed", base_url)
        kills = WHILE_DRAWING
        while kills < KILLS:
            process = spawned("killed", base_url)
            process.join(rng.uniform(0, 0.8 * seconds))
            if process.exitcode is None:
                kill(process)
                kills += 1
        whole("killed", base_url)
        found = stats(base_url)
    assert output(tmp_path / "killed") == output(tmp_path / "whole")
    drawn = [
        json.loads(line)["key"]
        for line in (tmp_path / "killed/work/samples-0-of-1.jsonl").read_text().splitlines()
    ]
    assert len(drawn) == len({tuple(key) for key in drawn}), "no sample stands twice"
    assert {key[0] for key in drawn} == {row["id"] for row in rows(COUNT)}
    if stop_after is None:
        assert len(drawn) == COUNT * N
    assert sum(found["served"].values()) <= len(drawn) + KILLS * IN_FLIGHT, (
        "only what was in flight is asked again"
    )
    assert all(found["troubles"][fault] for fault in ("429", "500", "html", "half", "hangs")), found[
        "troubles"
    ]
