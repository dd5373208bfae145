"""kill -9 at random moments of a stage that samples from an unreliable service changes nothing in the result."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from preloaded import processes
from service import output, rows, run_stage, sampling, stats, writer

IN_FLIGHT, KILLS, WHILE_DRAWING, COUNT, N = 8, 20, 15, 40, 8
# On a machine that stalls, an attempt may be over before its kill. Then all begins again.
TRIES = 5


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


def _started(folder: Path, base_url: str, stop_after: int | None) -> Any:
    process = processes().Process(target=_run, args=(folder, base_url, stop_after))
    process.start()
    return process


def _whole(folder: Path, base_url: str, stop_after: int | None) -> float:
    """An attempt to its end, and its seconds."""
    started = time.monotonic()
    process = _started(folder, base_url, stop_after)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


def _killed(process: Any) -> bool:
    """Kill it; False where it was over before."""
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == -signal.SIGKILL


def _killed_while_drawing(
    folder: Path, base_url: str, stop_after: int | None, points: list[int], rng: random.Random
) -> bool:
    """Kill an attempt a little after each of these numbers of samples; False where one was over before."""
    for point in points:
        process = _started(folder, base_url, stop_after)
        while _lines(folder) < point and process.is_alive():
            time.sleep(0.001)
        process.join(rng.uniform(0, 0.03))
        if not _killed(process):
            return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [None, 3])
def test_twenty_kills_lose_and_repeat_nothing(tmp_path: Path, stop_after: int | None) -> None:
    """Most kills come while samples are drawn, at random places; the rest while all is read, judged and written."""
    whole = tmp_path / "whole"
    with writer() as base_url:
        _whole(whole, base_url, stop_after)
        # from its files
        seconds = _whole(whole, base_url, stop_after)
    total = _lines(whole)
    rng = random.Random(stop_after)
    points = sorted(rng.sample(range(int(0.9 * total)), WHILE_DRAWING))
    for number in range(TRIES):
        folder = tmp_path / f"killed-{number}"
        with writer() as base_url:
            if not _killed_while_drawing(folder, base_url, stop_after, points, rng):
                continue
            assert _lines(folder) < total, "all was drawn before the last kill"
            _whole(folder, base_url, stop_after)
            kills = WHILE_DRAWING
            while kills < KILLS:
                process = _started(folder, base_url, stop_after)
                process.join(rng.uniform(0, 0.8 * seconds))
                kills += _killed(process)
            _whole(folder, base_url, stop_after)
            found = stats(base_url)
        break
    else:
        pytest.fail(f"{TRIES} times an attempt was over before its kill")
    assert output(folder) == output(whole)
    drawn = [
        json.loads(line)["key"] for line in (folder / "work/samples-0-of-1.jsonl").read_text().splitlines()
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
