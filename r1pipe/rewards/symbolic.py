"""Equality of answers that need algebra, by math-verify in a few processes with hard limits.

math-verify's own time limits are signals, which work in the main thread only and are silently off elsewhere; and no signal
handler interrupts one long C call. Here each pair has a limit of CPU time in another process, which the kernel enforces. The
processes start when the first pair comes, by exec (safe beside threads), and end with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_WORKER = Path(__file__).with_name("_symbolic_worker.py")
_AT_A_TIME = 4  # pairs
_LONG = re.compile(
    r"!|\\(?:int|sum|prod)\b|\^\{[^{}]*[{^]"
)  # factorials, integrals and sums, exponents that hold another
_WALL_S = 60.0


class Pool:
    """At most `size` worker processes, each busy with one pair at a time.

    Args:
        size: processes.
        plain: math-verify as it is, without _symbolic_speed.py.
    """

    def __init__(self, size: int, plain: bool = False) -> None:
        self.size, self.plain, self.pid = size, plain, os.getpid()
        self.lock = threading.Lock()
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        # -P: this folder holds modules named like the standard library's and must not come first on the path.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        while len(self.workers) < min(count, self.size):
            command = [sys.executable, "-P", str(_WORKER), *(["--plain"] if self.plain else [])]
            # A session of its own: Ctrl-C is for us, and a worker is ended with whatever it forked.
            pipe, none = subprocess.PIPE, subprocess.DEVNULL
            worker = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=none, env=environment, bufsize=0, start_new_session=True
            )
            self.workers.append(worker)

    def close(self) -> None:
        for worker in self.workers:
            if self.pid == os.getpid():
                _end(worker)
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
            _pool = Pool(
                max(
                    1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
                )
            )
            atexit.register(_pool.close)
        return _pool


def equal(pairs: Sequence[tuple[str, str]], timeout: float = 1.0, pool: Pool | None = None) -> list[float | None]:
    """Verdicts for (gold, found) pairs: 1.0, 0.0, or None where the gold does not parse or the time ran out.

    Args:
        pairs: answer strings without dollar signs around them.
        timeout: seconds of CPU time a pair. Twenty times that and a minute of wall time end a worker that does not answer.
        pool: processes other than this process's own.
    """
    if not pairs:
        return []
    pool = pool or _current()
    verdicts: list[float | None] = [None] * len(pairs)
    todo: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    # Pairs of one gold answer go to one worker, which has parsed it then; a few at a time, so that all workers end together.
    # Those that may run into the limit come first and alone: at the end they would keep one worker busy while the others wait.
    by_gold: dict[str, list[int]] = {}
    for i, (gold, found) in enumerate(pairs):
        if _LONG.search(found):
            todo.put([i])
        else:
            by_gold.setdefault(gold, []).append(i)
    for same in by_gold.values():
        for start in range(0, len(same), _AT_A_TIME):
            todo.put(same[start : start + _AT_A_TIME])

    def drive(worker: subprocess.Popen[bytes]) -> None:
        while True:
            try:
                places = todo.get_nowait()
            except queue.Empty:
                return
            while places:
                i = places.pop(0)
                try:
                    verdicts[i] = _ask(worker, *pairs[i], timeout)
                except (OSError, ValueError):  # the whole worker died; its pair stays unjudged, the others go on
                    _end(worker)
                    if places:
                        todo.put(places)
                    return

    with pool.lock:
        while not todo.empty():
            pool.start(todo.qsize())
            threads = [threading.Thread(target=drive, args=(worker,), daemon=True) for worker in pool.workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return verdicts


def _ask(worker: subprocess.Popen[bytes], gold: str, found: str, timeout: float) -> float | None:
    requests, replies = worker.stdin, worker.stdout
    assert requests is not None and replies is not None
    requests.write(json.dumps({"gold": gold, "found": found, "timeout": timeout}).encode() + b"\n")
    # The limit of CPU time says nothing about a process that is stopped or waits.
    deadline, line = time.monotonic() + 20 * timeout + _WALL_S, b""
    ready = select.poll()
    ready.register(replies, select.POLLIN)
    while not line.endswith(b"\n"):
        chunk = os.read(replies.fileno(), 1 << 16) if ready.poll(max(0.0, deadline - time.monotonic()) * 1000) else b""
        if not chunk:
            raise OSError("the worker ended or does not answer")
        line += chunk
    return json.loads(line)["verdict"]


def _end(worker: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it may have ended by itself
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
