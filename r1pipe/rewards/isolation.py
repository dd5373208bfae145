"""Bubblewrap around a warm Python: whether it works on this machine, what is visible inside, and one runner."""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1pipe.rewards.bound import start_bound
from r1pipe.rewards.bubblewrap import find_bwrap, why_not

_SANDBOXED = Path(__file__).with_name("sandboxed")
_START = "import sys; sys.path.append('/opt/runner'); from sandboxed.runner import main; main()"
# Seconds that a runner may take to start on a busy machine.
_START_S = 30.0
# Seconds beyond the program's wall time after which a runner counts as dead.
_GRACE_S = 5
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


def available() -> str | None:
    """None if programs can be isolated on this machine, else the reason. Fast after the first call."""
    return probe(find_bwrap())


@lru_cache(maxsize=8)
def probe(bwrap: str | None) -> str | None:
    """`available` for one bubblewrap, cached: starts it and runs a program."""
    if not sys.platform.startswith("linux"):
        return f"isolation needs Linux (this is {sys.platform})"
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"there is no system call filter for {platform.machine()}"
    if bwrap is None:
        return why_not()
    try:
        runner = Runner(bwrap)
    except OSError as error:
        return f"bubblewrap cannot be started: {error}"

    # A whole round: namespaces, limits, filter and the way back.
    header = {
        "source": "def ready(): return 42",
        "entry_point": None,
        "partial": False,
    }
    tests = {
        "kind": "asserts",
        "setup": "",
        "asserts": ["assert ready() == 42"],
    }
    try:
        reply = runner.ask(header, tests, Limits(cpu_s=10))
    except OSError:
        complaint = runner.last_complaint()
        reason = f": {complaint}" if complaint else ""
        return f"bubblewrap does not start here{reason} (unprivileged user namespaces may be switched off)"
    finally:
        runner.close()
    if reply.get("passed") != 1:
        return f"a program inside bubblewrap does not run: {reply.get('why') or reply.get('broken')}"
    return None


def _command(bwrap: str) -> list[str]:
    """The sandbox as bubblewrap's arguments: inside it nothing exists but what is named here."""
    command = [
        bwrap,
        # See bound.py for what this asks of the thread that starts it.
        "--die-with-parent",
        "--unshare-all",
        "--new-session",
        "--clearenv",
        "--cap-drop",
        "ALL",
        "--hostname",
        "sandbox",
    ]
    for name, value in {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "HOME": "/tmp",
    }.items():
        command += ["--setenv", name, value]

    # The system, read-only.
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in ("/lib", "/lib64", "/lib32", "/bin"):
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    for path in ("/etc/ld.so.cache", "/etc/localtime"):
        if os.path.exists(path):
            command += ["--ro-bind", path, path]

    # The interpreter, which may be outside of /usr.
    python = os.path.realpath(sys.executable)
    python_folders = {
        os.path.realpath(sys.base_prefix),
        os.path.realpath(sys.base_exec_prefix),
        os.path.dirname(os.path.dirname(python)),
    }
    for folder in sorted(python_folders):
        if folder != "/usr" and not folder.startswith("/usr/"):
            command += ["--ro-bind", folder, folder]

    for device in ("null", "zero", "urandom", "random"):
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    command += ["--ro-bind", str(_SANDBOXED), "/opt/runner/sandboxed"]
    if _can_limit_tmp(bwrap):
        command += ["--size", str(_TMP_MB << 20), "--tmpfs", "/tmp"]
    else:
        # A /tmp without a limit could fill the machine's memory.
        command += ["--tmpfs", "/tmp", "--remount-ro", "/tmp"]
    return [
        *command,
        "--remount-ro",
        "/",
        "--chdir",
        "/tmp",
        "--",
        python,
        "-P",
        "-S",
        "-s",
        "-B",
        "-c",
        _START,
    ]


@lru_cache(maxsize=8)
def _can_limit_tmp(bwrap: str) -> bool:
    try:
        return (
            "--size"
            in subprocess.run(
                [bwrap, "--help"],
                capture_output=True,
                text=True,
                timeout=10,
            ).stdout
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


# --- one runner -------------------------------------------------------------------------------------------------------


class Runner:
    """A bubblewrap with a warm interpreter in it; one job at a time. It ends with this process, however that ends."""

    def __init__(self, bwrap: str) -> None:
        pipe = subprocess.PIPE
        self.process = start_bound(
            _command(bwrap),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            cwd="/",
            process_group=0,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.input = self.process.stdin
        self.output = self.process.stdout
        self.errors = self.process.stderr
        # A runner that hangs while it reads must not hang us: `ask` writes with a deadline.
        os.set_blocking(self.input.fileno(), False)
        self.is_fresh = True

    def ask(
        self,
        header: dict[str, Any],
        tests: Mapping[str, Any] | None,
        limits: Limits,
    ) -> dict[str, Any]:
        """Run one job and return the reply.

        Raises:
            OSError: the runner ends or does not answer in time; it cannot be used any more.
        """
        request = _frame({**header, "limits": {**asdict(limits), "wall_s": limits.wall_s}})
        if tests is not None:
            request += _frame(tests)
        deadline = time.monotonic() + limits.wall_s + _GRACE_S + (_START_S if self.is_fresh else 0)
        left = memoryview(request)
        while left:
            _, writable, _ = select.select([], [self.input], [], _seconds_until(deadline))
            if not writable:
                raise OSError("the runner does not read")
            left = left[os.write(self.input.fileno(), left[: 1 << 16]) :]
        (size,) = struct.unpack("<Q", self._read(8, deadline))
        reply = json.loads(self._read(size, deadline))
        self.is_fresh = False
        return reply

    def _read(self, size: int, deadline: float) -> bytes:
        chunks: list[bytes] = []
        while size:
            readable, _, _ = select.select([self.output], [], [], _seconds_until(deadline))
            if not readable:
                raise OSError("the runner does not answer")
            chunk = os.read(self.output.fileno(), min(size, 1 << 20))
            if not chunk:
                raise OSError("the runner ended")
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def last_complaint(self) -> str:
        """The last line that bubblewrap or Python wrote to stderr before it ended."""
        self.kill()
        # An inside that was just set up ends with its input, and only then is all written.
        self.input.close()
        lines = self.errors.read().decode("utf8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """End everything inside the sandbox: bubblewrap's processes die with each other (--die-with-parent).

        In its first milliseconds they do not yet: the inside then waits for the outside, and would wait for ever. So
        the two are killed as a group, which they are until the inside is set up.
        """
        # Once the outside was waited for, its number may be another process's.
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self, kill: bool = True) -> None:
        """Close the pipes.

        Args:
            kill: end the processes as well; a forked process must not end those of its parent.
        """
        if kill:
            self.kill()
        for stream in (self.input, self.output, self.errors):
            stream.close()


def _seconds_until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _frame(content: Any) -> bytes:
    data = json.dumps(content).encode()
    return struct.pack("<Q", len(data)) + data
