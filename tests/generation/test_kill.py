"""kill -9 at random moments of a stage that samples from a service with whims: what it ends with is what an undisturbed one ends with."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from service import output, rows, run_stage, sampling, stats, writer

IN_FLIGHT, KILLS, COUNT, N = 8, 20, 40, 8


def _run(folder: Path, base_url: str, stop_after: int | None) -> None:
    run_stage(folder, base_url, COUNT, stop_after=stop_after, prefer="diverse", sampling=sampling(base_url, "wild", N, max_in_flight=IN_FLIGHT))


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [None, 3])
def test_twenty_kills_lose_and_repeat_nothing(tmp_path: Path, stop_after: int | None) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["r1pipe.rewards", "r1pipe.data.candidates", "r1pipe.generation.sampling", "r1pipe.generation.openai", "httpx2"])
    with writer() as base_url:
        process = processes.Process(target=_run, args=(tmp_path / "whole", base_url, stop_after))
        started = time.monotonic()
        process.start()
        process.join()
        assert process.exitcode == 0
        seconds = time.monotonic() - started
    rng, kills = random.Random(stop_after), 0
    with writer() as base_url:
        while kills < KILLS:
            process = processes.Process(target=_run, args=(tmp_path / "killed", base_url, stop_after))
            process.start()
            process.join(rng.uniform(0.1, max(0.3, 2.5 * seconds / KILLS)))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
            else:
                assert process.exitcode == 0
                break
        process = processes.Process(target=_run, args=(tmp_path / "killed", base_url, stop_after))
        process.start()
        process.join()
        assert process.exitcode == 0
        served = stats(base_url)["served"]
    assert kills >= KILLS // 2, "it was over too soon to be killed often"
    assert output(tmp_path / "killed") == output(tmp_path / "whole")
    drawn = [json.loads(line)["key"] for line in (tmp_path / "killed/work/samples-0-of-1.jsonl").read_text().splitlines()]
    assert len(drawn) == len({tuple(key) for key in drawn}), "no sample stands twice"
    assert {key[0] for key in drawn} == {row["id"] for row in rows(COUNT)}
    if stop_after is None:
        assert len(drawn) == COUNT * N
    assert sum(served.values()) <= len(drawn) + kills * IN_FLIGHT, "only what was in flight is asked again"
