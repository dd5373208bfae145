"""Runs untrusted programs against tests, in bubblewrap.

What is covered
- No network, no other processes, no home, no environment, no /proc; the system and the interpreter read-only, a private /tmp of
  limited size (or none where bubblewrap is too old to limit it) that is emptied after every program.
- Limits on CPU time, wall time, address space, file size, open files and output.
- A system call filter: no new process (threads are allowed), no exec, no signal to another process, no socket, mount, trace,
  shared memory. So there is no fork bomb, no daemon, and nobody to kill.
- The verdict: tests are evaluated in a process that the program cannot reach, on plain data that the program returns. Redefining ==,
  builtins or assert, leaving with any exit status, printing, and reading frames or memory for the tests do not help.
What is not covered
- A hole in the Linux kernel; side channels (timing, caches).
- A program that returns an object of its own class decides itself what two such objects are worth when a test compares them; and
  a helper that the tests use without defining or importing it (other than a builtin or `module.name`) is the program's.
- Programs that need subprocesses, sockets or packages beyond the standard library fail.
- Memory of all workers together: at most workers x (memory_mb of the program + 1 GiB of the checker).

A runner (isolation.py, sandboxed/runner.py) forks for each program, so a small test costs milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import shutil
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from r1pipe.errors import InputError, MissingToolError
from r1pipe.rewards.isolation import Limits, Runner, available, probe


@dataclass(frozen=True)
class CodeJob:
    """One program and its tests.

    Attributes:
        program: Python source.
        tests: {"kind": "asserts", "setup", "asserts": [str]}: each assert counts (MBPP);
            {"kind": "check", "code"}: defines check(candidate) (HumanEval);
            {"kind": "calls", "inputs": [[args]], "outputs": [value] or "reference": source, "atol"}: values compared (MBPP+); args
            may be a string, the Python literal of a list or tuple, where JSON lacks the type;
            {"kind": "stdio", "inputs": [str], "outputs": [str]}: one run each, output compared.
            Any of them may hold "timeout", seconds of CPU time, where less than the limit is enough.
        entry_point: the function that check and calls are about.
    """

    program: str
    tests: Mapping[str, Any]
    entry_point: str | None = None


# --- the pool -------------------------------------------------------------------------------------------------------------------

_idle: list[Runner] = []
_owner = os.getpid()
_lock = threading.Lock()


def _take(bwrap: str) -> Runner:
    global _owner
    with _lock:
        if _owner != os.getpid():  # forked: the runners are our parent's
            for runner in _idle:
                runner.close(kill=False)
            _idle.clear()
            _owner = os.getpid()
        if _idle:
            return _idle.pop()
    return Runner(bwrap)


def _give(runner: Runner) -> None:
    with _lock:
        _idle.append(runner)


@atexit.register
def close() -> None:
    """End the idle runners; the next batch starts new ones."""
    with _lock:
        for runner in _idle:
            runner.close(kill=_owner == os.getpid())
        _idle.clear()


def run_tests(
    jobs: Sequence[CodeJob], limits: Limits | None = None, *, partial: bool = False, workers: int | None = None
) -> list[float | None]:
    """Run every job; equal ones once.

    Args:
        jobs: programs with their tests.
        limits: for each program.
        partial: the share of the tests that pass in place of all (1.0) or nothing (0.0).
        workers: programs at a time; none = this process's cores, at most 16.

    Returns:
        A verdict a job: 0.0 also where the program runs out of time or memory; None where the tests themselves are broken or
        the sandbox fails.

    Raises:
        MissingToolError: there is no isolation here.
        InputError: tests of a shape that is not known.
    """
    if not jobs:
        return []
    if reason := available():
        raise MissingToolError(
            f"untrusted programs are not run: {reason}",
            fix="install bubblewrap and allow user namespaces, or leave the code tasks out",
        )
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    limits = limits or Limits()
    for job in jobs:
        check_shape(job)
    places: dict[str, list[int]] = {}
    for i, job in enumerate(jobs):
        places.setdefault(json.dumps([job.program, job.entry_point, job.tests], default=str), []).append(i)
    verdicts: list[float | None] = [None] * len(jobs)
    todo: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for same in places.values():
        todo.put(same)

    def drive() -> None:
        runner = None
        while True:
            try:
                same = todo.get_nowait()
            except queue.Empty:
                break
            verdict, runner = _judge(bwrap, runner, jobs[same[0]], limits, partial)
            for i in same:
                verdicts[i] = verdict
        if runner is not None:
            _give(runner)

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(workers or min(16, cores), len(places))
    with ThreadPoolExecutor(count) as threads:
        for future in [threads.submit(drive) for _ in range(count)]:
            future.result()  # an error in a thread is ours, not a verdict
    return verdicts


def _judge(
    bwrap: str, runner: Runner | None, job: CodeJob, limits: Limits, partial: bool
) -> tuple[float | None, Runner | None]:
    """The verdict, and the runner to go on with. A runner that dies is replaced and the job tried once more; if it dies again and
    a harmless program runs, it is the job's doing: 0.0."""
    for _ in range(2):
        try:
            runner = runner or _take(bwrap)
            return _verdict(runner, job, limits, partial), runner
        except OSError:
            if runner is not None:
                runner.close()
            runner = None
    probe.cache_clear()
    return (0.0 if probe(bwrap) is None else None), None


_COLUMNS = {"asserts": ("asserts",), "check": ("code",), "calls": ("inputs",), "stdio": ("inputs", "outputs")}


def check_shape(job: CodeJob) -> None:
    """Raises InputError for tests of a shape that is not known."""
    if not isinstance(job.tests, Mapping):
        raise InputError(
            f"tests are a mapping with `kind`, not {type(job.tests).__name__}",
            fix="see r1pipe.rewards.sandbox.CodeJob for the shapes",
        )
    kind = job.tests.get("kind")
    if kind not in _COLUMNS:
        raise InputError(f"tests of kind {kind!r} are not known", fix=f"kind is one of {', '.join(_COLUMNS)}")
    if missing := [column for column in _COLUMNS[kind] if job.tests.get(column) is None]:
        raise InputError(
            f"tests of kind {kind!r} lack {', '.join(missing)}", fix="see r1pipe.rewards.sandbox.CodeJob for the shapes"
        )
    if len({len(job.tests[column]) for column in ("inputs", "outputs") if job.tests.get(column) is not None}) > 1:
        raise InputError(
            f"tests of kind {kind!r} have more inputs than outputs, or fewer", fix="give one output an input"
        )
    if kind == "stdio" and not all(
        isinstance(text, str) for column in ("inputs", "outputs") for text in job.tests[column]
    ):
        raise InputError(
            "tests of kind 'stdio' hold something that is no string",
            fix="write inputs and outputs as the text that a program reads and prints",
        )
    if kind in ("check", "calls") and not job.entry_point:
        raise InputError(
            f"tests of kind {kind!r} need the column entry_point", fix="name the function that the tests call"
        )


def _verdict(runner: Runner, job: CodeJob, limits: Limits, partial: bool) -> float | None:
    tests = job.tests
    if tests.get("timeout"):
        limits = replace(limits, cpu_s=min(limits.cpu_s, float(tests["timeout"])))
    if tests.get("kind") == "stdio":
        passed, total = 0, len(tests["inputs"])
        for runs, (given, expected) in enumerate(zip(tests["inputs"], tests["outputs"], strict=True), 1):
            reply = runner.ask({"source": job.program, "stdin": given}, None, limits)
            passed += bool(reply["ok"] and same_output(reply["out"], expected))
            if passed < runs and not partial:
                return 0.0
        return None if not total else passed / total if partial else float(passed == total)
    header = {"source": job.program, "setup": tests.get("setup"), "entry_point": job.entry_point, "partial": partial}
    reply = runner.ask(header, tests, limits)
    if "broken" in reply or reply.get("total") == 0:
        return None
    share = reply["passed"] / reply["total"] if reply["passed"] else 0.0
    return share if partial else float(share == 1.0)


def same_output(got: str, expected: str) -> bool:
    """Equal up to white space at line ends and the end, or token by token with 1e-6 for numbers that the expected output writes
    with a decimal point."""
    if [line.rstrip() for line in got.rstrip().splitlines()] == [
        line.rstrip() for line in expected.rstrip().splitlines()
    ]:
        return True
    ours, theirs = got.split(), expected.split()
    return len(ours) == len(theirs) and all(
        a == b or ("." in b and _near(a, b)) for a, b in zip(ours, theirs, strict=True)
    )


def _near(a: str, b: str) -> bool:
    try:
        x, y = float(a), float(b)
    except ValueError:
        return False
    return abs(x - y) <= 1e-6 * max(1.0, abs(y))


__all__ = ["CodeJob", "Limits", "available", "check_shape", "close", "run_tests", "same_output"]
