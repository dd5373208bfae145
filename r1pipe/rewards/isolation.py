"""Bubblewrap around a warm Python: whether it works here, what is visible inside, one runner and how to talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import select
import shutil
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

_INSIDE = Path(__file__).with_name("sandboxed")
_START = "import sys; sys.path.append('/opt/runner'); from sandboxed.runner import main; main()"
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


def available() -> str | None:
    """None if programs can be isolated here, else the reason, with what to install. Cheap after the first call."""
    return probe(shutil.which("bwrap"))


@lru_cache(maxsize=8)
def probe(bwrap: str | None) -> str | None:
    """`available` for one bubblewrap, cached: starts it and runs a program."""
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
        reply = runner.ask(
            {"source": "def ready(): return 42", "entry_point": None, "partial": False}, tests, Limits(cpu_s=10)
        )
    except OSError:
        why = runner.complaint()
        return f"bubblewrap does not start here{': ' + why if why else ''} (unprivileged user namespaces may be switched off)"
    finally:
        runner.close()
    return (
        None
        if reply.get("passed") == 1
        else f"a program inside bubblewrap does not run: {reply.get('why') or reply.get('broken')}"
    )


def _command(bwrap: str) -> list[str]:
    """The sandbox as bubblewrap's arguments: nothing is there but what is named here."""
    python = os.path.realpath(sys.executable)
    folders = {
        os.path.realpath(sys.base_prefix),
        os.path.realpath(sys.base_exec_prefix),
        os.path.dirname(os.path.dirname(python)),
    }
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
    command += ["--ro-bind", str(_INSIDE), "/opt/runner/sandboxed"]
    command += (
        ["--size", str(_TMP_MB << 20), "--tmpfs", "/tmp"]
        if _can_limit_tmp(bwrap)
        else ["--tmpfs", "/tmp", "--remount-ro", "/tmp"]
    )
    return [*command, "--remount-ro", "/", "--chdir", "/tmp", "--", python, "-P", "-S", "-s", "-B", "-c", _START]


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
        told, tell = os.pipe()
        try:
            command = [bwrap, "--info-fd", str(tell), *_command(bwrap)[1:]]
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, cwd="/", pass_fds=[tell]
            )
        except OSError:
            os.close(told)
            raise
        finally:
            os.close(tell)
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.input, self.output, self.errors = self.process.stdin, self.process.stdout, self.process.stderr
        self.info: int | None = told
        os.set_blocking(self.input.fileno(), False)
        self.fresh = True

    def ask(self, header: dict[str, Any], tests: Mapping[str, Any] | None, limits: Limits) -> dict[str, Any]:
        """Run one job. Raises OSError where the runner ends or does not answer in time; it is of no use then."""
        request = _frame({**header, "limits": {**asdict(limits), "wall_s": limits.wall_s}}) + (
            _frame(tests) if tests is not None else b""
        )
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
        self.kill()
        lines = self.errors.read().decode("utf8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def kill(self) -> None:
        """End everything inside: the kernel does when the first process of the namespace dies. Killing bubblewrap alone would not
        do, and its --die-with-parent would end the sandbox with the thread that started it."""
        if self.info is not None:
            # Written before the runner starts; empty where bubblewrap failed.
            if (
                select.select([self.info], [], [], 1.0)[0]
                and (text := os.read(self.info, 1 << 16))
                and self.process.poll() is None
            ):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    os.kill(int(json.loads(text)["child-pid"]), signal.SIGKILL)
            os.close(self.info)
            self.info = None
        self.process.kill()
        self.process.wait()

    def close(self, kill: bool = True) -> None:
        if kill:
            self.kill()
        elif self.info is not None:
            os.close(self.info)
        for stream in (self.input, self.output, self.errors):
            stream.close()


def _frame(content: Any) -> bytes:
    data = json.dumps(content).encode()
    return struct.pack("<Q", len(data)) + data
