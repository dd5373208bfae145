"""Verifying while sampling: wall time against the larger of the two alone.

    python tests/bench/bench_overlap.py

A local server answers after 200 ms. A verdict takes 20 ms of CPU, either in another process, where symbolic answers and
programs are verified (`worker`), or in this process (`here`), which then also makes the requests, about 2 ms each. With
few requests in flight sampling is the larger part, with many verifying is.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from service import rows, sampling, writer

from r1pipe.data.candidates import Candidate
from r1pipe.generation.sampling import sample, sample_and_verify
from r1pipe.here import Here
from r1pipe.schema import Sampling

ROWS = 64
N = 4
CPU_S = 0.020
BAR = 1.1


def burn(verdicts: int) -> None:
    for _ in range(verdicts):
        until = time.thread_time() + CPU_S
        while time.thread_time() < until:
            pass


def measure(where: str, verify: Callable[[list[Candidate]], list[Candidate]]) -> float:
    """The worst ratio."""
    worst = 0.0
    for in_flight in (4, 8, 10, 16, 64):
        with writer() as base_url, tempfile.TemporaryDirectory() as folder:
            here = Here(
                "bench", Path(folder), Path(folder) / "metrics.jsonl", Path(folder) / "progress.jsonl"
            )
            settings = Sampling(**sampling(base_url, "slow", N, max_in_flight=in_flight, timeout=30))

            started = time.monotonic()
            samples = sample(None, rows(ROWS), settings, "chat", here=here, seed=0, label="alone")
            drawn = time.monotonic() - started

            candidates = [Candidate({}, drawn.text, "sampled") for of_row in samples for drawn in of_row]
            started = time.monotonic()
            verify(candidates)
            verified = time.monotonic() - started

            started = time.monotonic()
            sample_and_verify(
                None, rows(ROWS), settings, "chat", here=here, seed=0, source="sampled", verify=verify
            )
            both = time.monotonic() - started
        ratio = both / max(drawn, verified)
        worst = max(worst, ratio)
        print(
            f"{where:>8} {in_flight:>10} {drawn:>11.2f} {verified:>12.2f} {both:>8.2f} {ratio:>6.2f}",
            flush=True,
        )
    return worst


def main() -> None:
    print(f"{ROWS * N} samples of 200 ms, verdicts of {CPU_S * 1000:.0f} ms of CPU")
    print(
        f"{'verdicts':>8} {'in flight':>10} {'sampling s':>11} {'verifying s':>12} {'both s':>8} {'ratio':>6}"
    )
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(burn, 1).result()

        def in_worker(candidates: list[Candidate]) -> list[Candidate]:
            pool.submit(burn, len(candidates)).result()
            return candidates

        worst = measure("worker", in_worker)
    print(f"asked at most {BAR} in a worker: {'met' if worst <= BAR else 'MISSED'}")

    def in_here(candidates: list[Candidate]) -> list[Candidate]:
        burn(len(candidates))
        return candidates

    measure("here", in_here)


if __name__ == "__main__":
    main()
