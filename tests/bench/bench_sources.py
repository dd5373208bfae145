"""How fast rows are read and drawn from JSON lines, and how much memory that takes.

    python tests/bench/bench_sources.py [ROWS]

Writes ROWS rows (default 100,000) of about 1 KB, then draws all of them and 1,000 of them, each in a process of its own. Peak is the process's largest
resident memory less what it had before reading.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path


def work(path: Path, count: int | None, queue: multiprocessing.Queue) -> None:
    from r1pipe.artifacts import Chats
    from r1pipe.data.sources import Source, load

    source = Source(path=path, count=count)
    load(Source(path=path.with_name("few.jsonl")), Chats, seed=0)  # imports
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    rows = load(source, Chats, seed=0).rows
    queue.put(
        (len(rows), time.perf_counter() - started, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    )


def main(total: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "chats.jsonl")
        for name, rows in ((path, total), (path.with_name("few.jsonl"), 10)):
            with name.open("w") as stream:
                for number in range(rows):
                    messages = [
                        {"role": "user", "content": f"question {number} " + "words " * 50},
                        {"role": "assistant", "content": "so " * 200 + str(number)},
                    ]
                    stream.write(json.dumps({"id": f"r{number}", "domain": "general", "messages": messages}) + "\n")
        print(f"{total:,} rows, {path.stat().st_size / 2**20:.0f} MiB\n\ndrawn      seconds  us a row read  peak MiB")
        context = multiprocessing.get_context("spawn")
        for count in (None, 1000):
            queue = context.Queue()
            process = context.Process(target=work, args=(path, count, queue))
            process.start()
            drawn, seconds, peak = queue.get()
            process.join()
            print(f"{drawn:<9,}  {seconds:7.1f}  {seconds / total * 1e6:13.1f}  {peak:8.0f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
