"""Equality of answers that need algebra, by math-verify in a few processes with hard limits.

math-verify's own time limits are signals: they work in the main thread only, are silently off in other threads, and no
signal handler interrupts one long C call. Here each pair has a limit of CPU time in another process, which the kernel
enforces. The processes start when the first pair comes, by exec (safe beside threads), and end with this process.
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

from r1pipe.rewards.answers import is_constant
from r1pipe.rewards.bound import start_bound

_WORKER = Path(__file__).with_name("_symbolic_worker.py")
_MAX_WORKERS = 8
# Pairs that a worker takes at a time.
_BATCH = 4
# Answers that may take long: factorials, integrals and sums, exponents that hold another.
_SLOW = re.compile(r"!|\\(?:int|sum|prod)\b|\^\{[^{}]*[{^]")
# Why _symbolic_worker.py gives no verdict, where the answer is the reason.
_STALLS = ("out of time", f"ended by signal {signal.SIGPROF:d}", "MemoryError", "RecursionError")
# Seconds of wall time, beside 20 times the CPU limit, after which a worker counts as dead.
_WALL_S = 60.0


class Pool:
    """At most `size` worker processes, each busy with one pair at a time.

    Args:
        size: number of processes.
        plain: math-verify as it is, without _symbolic_speed.py.
    """

    def __init__(self, size: int, plain: bool = False) -> None:
        self.size = size
        self.plain = plain
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Start workers until `count` of them are alive, or as many as the pool may have."""
        self.workers = [worker for worker in self.workers if worker.poll() is None]
        # -P: this folder holds modules named like the standard library's and must not come first on the path.
        command = [sys.executable, "-P", str(_WORKER)]
        if self.plain:
            command.append("--plain")
        # One thread each: the processes are the parallelism, and none of them needs a GPU.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        while len(self.workers) < min(count, self.size):
            worker = start_bound(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                bufsize=0,
                # A session of its own: Ctrl-C reaches only us, and a worker is killed together with its forks.
                start_new_session=True,
            )
            self.workers.append(worker)

    def close(self) -> None:
        for worker in self.workers:
            if self.pid == os.getpid():
                _kill(worker)
            for stream in (worker.stdin, worker.stdout):
                if stream:
                    stream.close()
        self.workers = []


_pool: Pool | None = None
_pool_lock = threading.Lock()


def _current_pool() -> Pool:
    """This process's pool."""
    global _pool
    with _pool_lock:
        # After a fork the parent's pool is not ours: two processes on one pipe would read each other's verdicts.
        if _pool is None or _pool.pid != os.getpid():
            if _pool is not None:
                _pool.close()
            _pool = Pool(max(1, min(_MAX_WORKERS, _cores())))
            atexit.register(_pool.close)
        return _pool


def start_workers() -> None:
    """Start this process's workers now. They import for two seconds before they compare anything."""
    pool = _current_pool()
    with pool.lock:
        pool.start(pool.size)


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def equal(
    pairs: Sequence[tuple[str, str]],
    timeout: float = 1.0,
    pool: Pool | None = None,
) -> list[float | None]:
    """Verdicts on (gold, answer) pairs: 1.0, 0.0, or None where the gold answer does not parse or the time ran out.

    Where the gold answer is a number, an answer whose algebra stalls is 0.0: the answer could have been a number, too.

    Args:
        pairs: answer strings without dollar signs around them.
        timeout: seconds of CPU time for each pair. A worker that does not answer is killed after twenty times that and
            a minute of wall time.
        pool: processes to use instead of this process's own.
    """
    if not pairs:
        return []
    pool = pool or _current_pool()
    verdicts: list[float | None] = [None] * len(pairs)
    todo = _batches(pairs)

    def work(worker: subprocess.Popen[bytes]) -> None:
        """Take batches until there are none left."""
        while True:
            try:
                batch = todo.get_nowait()
            except queue.Empty:
                return
            while batch:
                i = batch.pop(0)
                try:
                    gold, answer = pairs[i]
                    verdict, why = _ask(worker, gold, answer, timeout)
                    is_stalled = verdict is None and why in _STALLS
                    verdicts[i] = 0.0 if is_stalled and is_constant(gold) else verdict
                except (OSError, ValueError):
                    # The whole worker died: its pair stays unjudged, the rest of its batch goes to another one.
                    _kill(worker)
                    if batch:
                        todo.put(batch)
                    return

    # A worker serves one caller at a time. The loop starts workers in the place of those that died.
    with pool.lock:
        while not todo.empty():
            pool.start(todo.qsize())
            threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in pool.workers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return verdicts


def _batches(pairs: Sequence[tuple[str, str]]) -> queue.SimpleQueue[list[int]]:
    """Indices of pairs, in the batches in which workers take them.

    Pairs of one gold answer go to one worker, which parses it once; a few at a time, so that all workers end together.
    Pairs that may run into the limit come first and alone: at the end one of them would keep a worker busy while the
    others wait.
    """
    batches: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    by_gold: dict[str, list[int]] = {}
    for i, (gold, answer) in enumerate(pairs):
        if _SLOW.search(answer):
            batches.put([i])
        else:
            by_gold.setdefault(gold, []).append(i)
    for same in by_gold.values():
        for start in range(0, len(same), _BATCH):
            batches.put(same[start : start + _BATCH])
    return batches


def _ask(
    worker: subprocess.Popen[bytes],
    gold: str,
    answer: str,
    timeout: float,
) -> tuple[float | None, str]:
    """(verdict, why there is none)."""
    requests = worker.stdin
    replies = worker.stdout
    assert requests is not None and replies is not None
    request = {
        "gold": gold,
        "answer": answer,
        "timeout": timeout,
    }
    requests.write(json.dumps(request).encode() + b"\n")

    # The limit of CPU time does not end a process that is stopped or waits; this one does.
    deadline = time.monotonic() + 20 * timeout + _WALL_S
    ready = select.poll()
    ready.register(replies, select.POLLIN)
    line = b""
    while not line.endswith(b"\n"):
        milliseconds = 1000 * max(0.0, deadline - time.monotonic())
        chunk = os.read(replies.fileno(), 1 << 16) if ready.poll(milliseconds) else b""
        if not chunk:
            raise OSError("the worker ended or does not answer")
        line += chunk
    reply = json.loads(line)
    return reply["verdict"], reply["why"]


def _kill(worker: subprocess.Popen[bytes]) -> None:
    # It may have ended by itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
