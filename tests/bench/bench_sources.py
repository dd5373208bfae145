"""How fast rows are read and drawn from JSON lines, and how much memory that takes.

    python tests/bench/bench_sources.py [ROWS]

Writes ROWS rows (default 100,000) of about 1 KB, then draws all of them and 1,000 of them, each in a process of its
own. The peak is the largest resident memory of the process minus what it had before it read the rows.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def resident_peak() -> int:
    """The largest resident memory of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def work(path: Path, count: int | None) -> tuple[int, float, float]:
    """Draw rows; returns their number, the seconds, and the MiB."""
    from r1pipe.artifacts import Chats
    from r1pipe.data.sources import Source, load

    # What is imported at first use is not measured.
    load(Source(path=path.with_name("few.jsonl")), Chats, seed=0)

    before = resident_peak()
    started = time.perf_counter()
    rows = load(Source(path=path, count=count), Chats, seed=0).rows
    seconds = time.perf_counter() - started
    return len(rows), seconds, (resident_peak() - before) / 1024


def write_chats(path: Path, rows: int) -> None:
    with path.open("w") as stream:
        for number in range(rows):
            messages = [
                {"role": "user", "content": f"question {number} " + "words " * 50},
                {"role": "assistant", "content": "so " * 200 + str(number)},
            ]
            row = {"id": f"r{number}", "domain": "general", "messages": messages}
            stream.write(json.dumps(row) + "\n")


def main(total: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chats.jsonl")
        write_chats(path, total)
        write_chats(path.with_name("few.jsonl"), 10)
        print(f"{total:,} rows, {path.stat().st_size / 2**20:.0f} MiB\n")

        print("drawn      seconds  us a row read  peak MiB")
        context = multiprocessing.get_context("spawn")
        for count in (None, 1000):
            with ProcessPoolExecutor(1, context) as pool:
                drawn, seconds, peak = pool.submit(work, path, count).result()
            print(f"{drawn:<9,}  {seconds:7.1f}  {seconds / total * 1e6:13.1f}  {peak:8.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
