"""Equality of answers that need algebra, by math-verify in a few processes with hard limits.

math-verify's own time limits are signals, which work in the main thread only and are silently off elsewhere; and no signal
handler interrupts one long C call. Here each pair has a limit of CPU time in another process, which the kernel enforces. The
processes start when the first pair comes, by exec (safe beside threads), and end with this process.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

_WORKER = Path(__file__).with_name("_symbolic_worker.py")


class Pool:
    """At most `size` worker processes, each busy with one pair at a time."""

    def __init__(self, size: int) -> None:
        self.size, self.pid = size, os.getpid()
        self.lock = threading.Lock()
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        # -P: this folder holds modules named like the standard library's and must not come first on the path.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        while len(self.workers) < min(count, self.size):
            command = [sys.executable, "-P", str(_WORKER)]
            self.workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment))

    def close(self) -> None:
        for worker in self.workers:
            if self.pid == os.getpid():
                worker.kill()
                worker.wait()
            for stream in (worker.stdin, worker.stdout):
                if stream:
                    stream.close()
        self.workers = []


_pool: Pool | None = None
_making = threading.Lock()


def _current() -> Pool:
    global _pool
    with _making:
        # After a fork the parent's pool is not ours: two processes on one pipe would read each other's verdicts.
        if _pool is None or _pool.pid != os.getpid():
            if _pool is not None:
                _pool.close()
            _pool = Pool(max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)))
            atexit.register(_pool.close)
        return _pool


def equal(pairs: Sequence[tuple[str, str]], timeout: float = 1.0) -> list[float | None]:
    """Verdicts for (gold, found) pairs: 1.0, 0.0, or None where the gold does not parse or the CPU time ran out.

    Args:
        pairs: answer strings without dollar signs around them.
        timeout: seconds of CPU time a pair.
    """
    if not pairs:
        return []
    pool = _current()
    verdicts: list[float | None] = [None] * len(pairs)
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for i in range(len(pairs)):
        todo.put(i)

    def drive(worker: subprocess.Popen[bytes]) -> None:
        requests, replies = worker.stdin, worker.stdout
        assert requests is not None and replies is not None
        while True:
            try:
                i = todo.get_nowait()
            except queue.Empty:
                return
            try:
                verdicts[i] = _ask(requests, replies, *pairs[i], timeout)
            except (OSError, ValueError):  # the whole worker died; its pair stays unjudged, the others go on
                worker.kill()
                return

    with pool.lock:
        while not todo.empty():
            pool.start(len(pairs))
            threads = [threading.Thread(target=drive, args=(worker,), daemon=True) for worker in pool.workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return verdicts


def _ask(requests: IO[bytes], replies: IO[bytes], gold: str, found: str, timeout: float) -> float | None:
    requests.write(json.dumps({"gold": gold, "found": found, "timeout": timeout}).encode() + b"\n")
    requests.flush()
    line = replies.readline()
    if not line:
        raise OSError("the worker ended")
    return json.loads(line)["verdict"]
