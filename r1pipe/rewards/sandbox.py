"""Runs untrusted programs against tests, in bubblewrap.

What is covered
- No network, no other processes, no home, no environment, no /proc; the system and the interpreter read-only, a private
  /tmp of limited size (or none where bubblewrap is too old to limit it) that is emptied after every program.
- Limits on CPU time, wall time, address space, file size, open files and output.
- A system call filter: no new process (threads are allowed), no exec, no signal to another process, no socket, mount,
  trace, shared memory. So there is no fork bomb, no daemon, and no other process to kill.
- The verdict: tests are evaluated in a process that the program cannot reach, on plain data that the program returns.
  Builtins, modules and the question's own helpers are not the program's there. Redefining ==, builtins or assert,
  leaving with any exit status, raising, printing, and reading frames or memory for the tests do not help.
- The end of this process: the kernel kills the sandboxes with it, also where it is killed itself.
What is not covered
- A hole in the Linux kernel; side channels (timing, caches).
- A program that returns objects of its own class decides itself whether a test finds two of them equal.
- A helper that the tests use is the program's where neither they nor the question define or import it and it is no
  builtin and no `module.name`. So is a builtin's name where asserts use no other: the function under test has it then.
- Programs that need subprocesses, sockets or packages beyond the standard library fail.
- Memory of all workers together: at most workers x (memory_mb of the program + 1 GiB of the checker).

A runner (isolation.py, sandboxed/runner.py) forks for each program, so a small test costs milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from r1pipe.errors import InputError, MissingToolError
from r1pipe.rewards.bubblewrap import find_bwrap
from r1pipe.rewards.isolation import Limits, Runner, available, probe

# How many programs run at a time unless `workers` says otherwise.
_MAX_WORKERS = 16


@dataclass(frozen=True)
class CodeJob:
    """One program and its tests.

    Attributes:
        program: Python source.
        tests: one of {"kind": "asserts", "setup", "asserts": [str]}: each assert counts (MBPP); {"kind": "check",
            "code"}: the code defines check(candidate) (HumanEval); {"kind": "calls", "inputs": [[args]], "outputs":
            [value] or "reference": source, "atol"}: values are compared (MBPP+); args may be a string, the Python
            literal of a list or tuple, where JSON lacks the type; {"kind": "stdio", "inputs": [str], "outputs": [str]}:
            one run for each input, the output is compared. Any of them may hold "timeout", seconds of CPU time, where
            less than the limit is enough.
        entry_point: the function that check and calls are about.
    """

    program: str
    tests: Mapping[str, Any]
    entry_point: str | None = None


# kind of tests -> the keys that it needs
_REQUIRED_KEYS = {
    "asserts": ("asserts",),
    "check": ("code",),
    "calls": ("inputs",),
    "stdio": ("inputs", "outputs"),
}
_SEE_SHAPES = "see r1pipe.rewards.sandbox.CodeJob for the shapes"


def check_shape(job: CodeJob) -> None:
    """Check that the tests have one of the shapes of CodeJob.

    Raises:
        InputError: they do not.
    """
    tests = job.tests
    if not isinstance(tests, Mapping):
        raise InputError(f"tests are a mapping with `kind`, not {type(tests).__name__}", fix=_SEE_SHAPES)
    kind = tests.get("kind")
    if kind not in _REQUIRED_KEYS:
        raise InputError(
            f"tests of kind {kind!r} are not known", fix=f"kind is one of {', '.join(_REQUIRED_KEYS)}"
        )
    missing = [key for key in _REQUIRED_KEYS[kind] if tests.get(key) is None]
    if missing:
        raise InputError(f"tests of kind {kind!r} lack {', '.join(missing)}", fix=_SEE_SHAPES)
    lengths = {len(tests[key]) for key in ("inputs", "outputs") if tests.get(key) is not None}
    if len(lengths) > 1:
        raise InputError(
            f"tests of kind {kind!r} do not have the same number of inputs and outputs",
            fix="give one output an input",
        )
    if kind == "stdio":
        texts = [*tests["inputs"], *tests["outputs"]]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(
                "tests of kind 'stdio' hold a value that is not a string",
                fix="write inputs and outputs as the text that a program reads and prints",
            )
    if kind in ("check", "calls") and not job.entry_point:
        raise InputError(
            f"tests of kind {kind!r} need the column entry_point", fix="name the function that the tests call"
        )


# --- the pool of runners ----------------------------------------------------------------------------------------------

_idle: list[Runner] = []
_owner = os.getpid()
_lock = threading.Lock()


def _take(bwrap: str) -> Runner:
    global _owner
    with _lock:
        if _owner != os.getpid():
            # This process was forked: the runners are its parent's.
            for runner in _idle:
                runner.close(kill=False)
            _idle.clear()
            _owner = os.getpid()
        if _idle:
            return _idle.pop()
    return Runner(bwrap)


def _give_back(runner: Runner) -> None:
    with _lock:
        _idle.append(runner)


@atexit.register
def close() -> None:
    """End the idle runners; the next batch starts new ones."""
    with _lock:
        for runner in _idle:
            runner.close(kill=_owner == os.getpid())
        _idle.clear()


# --- running tests ----------------------------------------------------------------------------------------------------


def run_tests(
    jobs: Sequence[CodeJob],
    limits: Limits | None = None,
    *,
    partial: bool = False,
    workers: int | None = None,
) -> list[float | None]:
    """Run every job; equal ones once.

    Args:
        jobs: programs with their tests.
        limits: for each program.
        partial: the share of the tests that pass, instead of all (1.0) or nothing (0.0).
        workers: programs at a time; none = the number of this process's cores, at most 16.

    Returns:
        a verdict for each job: 0.0 also where the program runs out of time or memory; None where the tests themselves
        are broken or the sandbox fails.

    Raises:
        MissingToolError: programs cannot be isolated on this machine.
        InputError: tests of an unknown shape.
    """
    if not jobs:
        return []
    reason = available()
    if reason:
        raise MissingToolError(
            f"untrusted programs are not run: {reason}",
            fix="install bubblewrap and allow user namespaces, or leave the code tasks out",
        )
    bwrap = find_bwrap()
    assert bwrap is not None
    limits = limits or Limits()
    for job in jobs:
        check_shape(job)

    # The responses of a group are often the same program.
    places: dict[str, list[int]] = {}
    for i, job in enumerate(jobs):
        key = json.dumps([job.program, job.entry_point, job.tests], default=str)
        places.setdefault(key, []).append(i)
    todo: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for same in places.values():
        todo.put(same)
    verdicts: list[float | None] = [None] * len(jobs)

    def work() -> None:
        """Take jobs until there are none left, on one runner."""
        runner = None
        while True:
            try:
                same = todo.get_nowait()
            except queue.Empty:
                break
            verdict, runner = _judge(
                bwrap,
                runner,
                jobs[same[0]],
                limits,
                partial,
            )
            for i in same:
                verdicts[i] = verdict
        if runner is not None:
            _give_back(runner)

    count = min(workers or min(_MAX_WORKERS, _cores()), len(places))
    with ThreadPoolExecutor(count) as threads:
        for future in [threads.submit(work) for _ in range(count)]:
            # An error in a thread is ours and not a verdict: raise it here.
            future.result()
    return verdicts


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _judge(
    bwrap: str,
    runner: Runner | None,
    job: CodeJob,
    limits: Limits,
    partial: bool,
) -> tuple[float | None, Runner | None]:
    """(the verdict, the runner for the next job).

    A runner that dies is replaced by a new one and the job tried once more: idle ones may have been killed as well, by
    a system that is short of memory. If the new one dies too and a harmless program runs, the job is the cause: 0.0.
    """
    for start in (_take, Runner):
        try:
            runner = runner or start(bwrap)
            return _verdict(runner, job, limits, partial), runner
        except OSError:
            if runner is not None:
                runner.close()
            runner = None
    # The sandbox worked once, but may not any more (memory, processes).
    probe.cache_clear()
    sandbox_works = probe(bwrap) is None
    return (0.0 if sandbox_works else None), None


def _verdict(
    runner: Runner,
    job: CodeJob,
    limits: Limits,
    partial: bool,
) -> float | None:
    tests = job.tests
    # Tests may ask for less time than the limit, not for more.
    if tests.get("timeout"):
        limits = replace(limits, cpu_s=min(limits.cpu_s, float(tests["timeout"])))
    if tests.get("kind") == "stdio":
        return _stdio_verdict(runner, job, limits, partial)
    header = {
        "source": job.program,
        "setup": tests.get("setup"),
        "entry_point": job.entry_point,
        "partial": partial,
    }
    reply = runner.ask(header, tests, limits)
    # Broken tests say nothing about the program.
    if "broken" in reply or reply.get("total") == 0:
        return None
    # A program that fails before any test has no `total`.
    share = reply["passed"] / reply["total"] if reply["passed"] else 0.0
    return share if partial else float(share == 1.0)


def _stdio_verdict(
    runner: Runner,
    job: CodeJob,
    limits: Limits,
    partial: bool,
) -> float | None:
    inputs = job.tests["inputs"]
    outputs = job.tests["outputs"]
    if not inputs:
        return None
    passed = 0
    for given, expected in zip(inputs, outputs, strict=True):
        reply = runner.ask({"source": job.program, "stdin": given}, None, limits)
        if reply["ok"] and same_output(reply["out"], expected):
            passed += 1
        elif not partial:
            # One failure decides; the other runs are saved.
            return 0.0
    return passed / len(inputs)


def same_output(output: str, expected: str) -> bool:
    """Whether two outputs are equal up to white space at the ends of lines and of the text, or token by token.

    Token by token, numbers that the expected output writes with a decimal point may differ by 1e-6. Where a list, an
    object or a truth value is expected (`[0,1]`, `true`), Python's way to print it is as good as JSON's.

    >>> same_output("[0, 1]", "[0,1]"), same_output("True", "true"), same_output("1 0", "0 1")
    (True, True, False)
    """
    lines = [line.rstrip() for line in output.rstrip().splitlines()]
    expected_lines = [line.rstrip() for line in expected.rstrip().splitlines()]
    if lines == expected_lines:
        return True
    tokens = output.split()
    expected_tokens = expected.split()
    if expected_tokens and expected_tokens[0].startswith(_VALUES):
        return _as_json(output) == _as_json(expected)
    if len(tokens) != len(expected_tokens):
        return False
    return all(a == b or ("." in b and _is_near(a, b)) for a, b in zip(tokens, expected_tokens, strict=True))


# How lists, objects and truth values begin.
_VALUES = ("[", "{", "true", "false", "null", "True", "False", "None")
_SPACE_IN_VALUES = re.compile(r"(?<=[\[{,:])\s+|\s+(?=[\]},])")


def _as_json(text: str) -> str:
    """Spelled as JSON does, without spaces between values. Not parsed: the text may be anything."""
    for python, json_word in (("True", "true"), ("False", "false"), ("None", "null"), ("'", '"')):
        text = text.replace(python, json_word)
    return _SPACE_IN_VALUES.sub("", text.strip())


def _is_near(number: str, expected: str) -> bool:
    try:
        a = float(number)
        b = float(expected)
    except ValueError:
        return False
    return abs(a - b) <= 1e-6 * max(1.0, abs(b))


__all__ = ["CodeJob", "Limits", "available", "check_shape", "close", "run_tests", "same_output"]
