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

A runner (bubblewrap with a warm Python, _sandbox_runner.py) forks for each program, so a small test costs milliseconds.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import queue
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError, MissingToolError

_RUNNER = Path(__file__).with_name("_sandbox_runner.py")
_START_S = 30.0  # seconds a runner may take to start on a busy machine
_TMP_MB = 64


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_s: seconds of CPU time, rounded up to whole ones by the kernel; for stdio of each run.
        memory_mb: address space, MiB.
        file_mb: size of one written file, MiB.
        output_mb: standard output of one run, MiB.
    """

    cpu_s: float = 10.0
    memory_mb: int = 512
    file_mb: int = 16
    output_mb: int = 8

    @property
    def wall_s(self) -> float:
        """Seconds of wall time: twice the CPU time and one more, since cores may be shared."""
        return 2 * self.cpu_s + 1


@dataclass(frozen=True)
class CodeJob:
    """One program and its tests.

    Attributes:
        program: Python source.
        tests: {"kind": "asserts", "setup", "asserts": [str]}: each assert counts (MBPP);
            {"kind": "check", "code"}: defines check(candidate) (HumanEval);
            {"kind": "calls", "inputs": [[args]], "outputs": [value] or "reference": source, "atol"}: values compared (MBPP+);
            {"kind": "stdio", "inputs": [str], "outputs": [str]}: one run each, output compared.
        entry_point: the function that check and calls are about.
    """

    program: str
    tests: Mapping[str, Any]
    entry_point: str | None = None


# --- availability -----------------------------------------------------------------------------------------------------------


def available() -> str | None:
    """None if programs can be isolated here, else the reason, with what to install. Cheap after the first call."""
    return _probe(shutil.which("bwrap"))


@lru_cache(maxsize=8)
def _probe(bwrap: str | None) -> str | None:
    if not sys.platform.startswith("linux"):
        return f"isolation needs Linux (this is {sys.platform})"
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"the system call filter is not written for {platform.machine()}"
    if bwrap is None:
        return "bubblewrap is not installed (the package is called `bubblewrap`, the program `bwrap`)"
    try:
        runner = Runner(bwrap)
    except OSError as error:
        return f"bubblewrap cannot be started: {error}"
    try:
        tests = {"kind": "asserts", "setup": "", "asserts": ["assert ready() == 42"]}
        reply = runner.ask({"source": "def ready(): return 42", "entry_point": None, "partial": False}, tests, Limits(cpu_s=10))
    except OSError:
        why = runner.complaint()
        return f"bubblewrap does not start here{': ' + why if why else ''} (unprivileged user namespaces may be switched off)"
    finally:
        runner.close()
    return None if reply.get("passed") == 1 else f"a program inside bubblewrap does not run: {reply.get('why') or reply.get('broken')}"


def _command(bwrap: str) -> list[str]:
    python = os.path.realpath(sys.executable)
    folders = {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix), os.path.dirname(os.path.dirname(python))}
    command = [bwrap, "--unshare-all", "--new-session", "--clearenv", "--cap-drop", "ALL", "--hostname", "sandbox"]
    for name, value in {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "HOME": "/tmp"}.items():
        command += ["--setenv", name, value]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in ("/lib", "/lib64", "/lib32", "/bin"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    for path in ("/etc/ld.so.cache", "/etc/localtime"):
        if os.path.exists(path):
            command += ["--ro-bind", path, path]
    for folder in sorted(folders):
        if not folder.startswith("/usr/") and folder != "/usr":
            command += ["--ro-bind", folder, folder]
    for device in ("null", "zero", "urandom", "random"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    command += ["--ro-bind", str(_RUNNER), "/runner.py"]
    command += ["--size", str(_TMP_MB << 20), "--tmpfs", "/tmp"] if _can_limit_tmp(bwrap) else ["--tmpfs", "/tmp", "--remount-ro", "/tmp"]
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--", python, "-P", "-S", "-s", "-B", "/runner.py"]


@lru_cache(maxsize=8)
def _can_limit_tmp(bwrap: str) -> bool:
    try:
        return "--size" in subprocess.run([bwrap, "--help"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False


# --- one runner ---------------------------------------------------------------------------------------------------------------


class Runner:
    """A bubblewrap with a warm interpreter in it; one job at a time."""

    def __init__(self, bwrap: str) -> None:
        self.process = subprocess.Popen(_command(bwrap), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd="/")
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.input, self.output, self.errors = self.process.stdin, self.process.stdout, self.process.stderr
        os.set_blocking(self.input.fileno(), False)
        self.fresh = True

    def ask(self, header: dict[str, Any], tests: Mapping[str, Any] | None, limits: Limits) -> dict[str, Any]:
        """Run one job. Raises OSError where the runner ends or does not answer in time; it is of no use then."""
        request = _frame({**header, "limits": {**asdict(limits), "wall_s": limits.wall_s}}) + (_frame(tests) if tests is not None else b"")
        deadline = time.monotonic() + limits.wall_s + 5 + (_START_S if self.fresh else 0)
        left = memoryview(request)
        while left:
            if not select.select([], [self.input], [], max(0.0, deadline - time.monotonic()))[1]:
                raise OSError("the runner does not read")
            left = left[os.write(self.input.fileno(), left[: 1 << 16]) :]
        (size,) = struct.unpack("<Q", self._read(8, deadline))
        reply = json.loads(self._read(size, deadline))
        self.fresh = False
        return reply

    def _read(self, size: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while size:
            if not select.select([self.output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise OSError("the runner does not answer")
            chunk = os.read(self.output.fileno(), min(size, 1 << 20))
            if not chunk:
                raise OSError("the runner ended")
            parts.append(chunk)
            size -= len(chunk)
        return b"".join(parts)

    def complaint(self) -> str:
        """The last line that bubblewrap or Python wrote to stderr before it ended."""
        self.process.kill()
        self.process.wait()
        lines = self.errors.read().decode("utf8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def close(self, kill: bool = True) -> None:
        if kill:
            self.process.kill()  # bubblewrap's death ends its process namespace, and with it everything inside
            self.process.wait()
        for stream in (self.input, self.output, self.errors):
            stream.close()


def _frame(content: Any) -> bytes:
    data = json.dumps(content).encode()
    return struct.pack("<Q", len(data)) + data


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


def run_tests(jobs: Sequence[CodeJob], limits: Limits | None = None, *, partial: bool = False, workers: int | None = None) -> list[float | None]:
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
        raise MissingToolError(f"untrusted programs are not run: {reason}", fix="install bubblewrap and allow user namespaces, or leave the code tasks out")
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    limits = limits or Limits()
    for job in jobs:
        _check_shape(job)
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


def _judge(bwrap: str, runner: Runner | None, job: CodeJob, limits: Limits, partial: bool) -> tuple[float | None, Runner | None]:
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
    _probe.cache_clear()
    return (0.0 if _probe(bwrap) is None else None), None


_COLUMNS = {"asserts": ("asserts",), "check": ("code",), "calls": ("inputs",), "stdio": ("inputs", "outputs")}


def _check_shape(job: CodeJob) -> None:
    kind = job.tests.get("kind")
    if kind not in _COLUMNS:
        raise InputError(f"tests of kind {kind!r} are not known", fix=f"kind is one of {', '.join(_COLUMNS)}")
    if missing := [column for column in _COLUMNS[kind] if job.tests.get(column) is None]:
        raise InputError(f"tests of kind {kind!r} lack {', '.join(missing)}", fix="see r1pipe.rewards.sandbox.CodeJob for the shapes")
    if kind in ("check", "calls") and not job.entry_point:
        raise InputError(f"tests of kind {kind!r} need the column entry_point", fix="name the function that the tests call")


def _verdict(runner: Runner, job: CodeJob, limits: Limits, partial: bool) -> float | None:
    tests = job.tests
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
    if [line.rstrip() for line in got.rstrip().splitlines()] == [line.rstrip() for line in expected.rstrip().splitlines()]:
        return True
    ours, theirs = got.split(), expected.split()
    return len(ours) == len(theirs) and all(a == b or ("." in b and _near(a, b)) for a, b in zip(ours, theirs, strict=True))


def _near(a: str, b: str) -> bool:
    try:
        x, y = float(a), float(b)
    except ValueError:
        return False
    return abs(x - y) <= 1e-6 * max(1.0, abs(y))
