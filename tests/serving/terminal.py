"""A command in a terminal of its own: what it shows, and keys for it."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import environment


class Terminal:
    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._seen = ""

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def until(self, mark: str, seconds: float = 60) -> str:
        """Wait for a text behind the last one that was waited for; what stood before it."""
        deadline = time.monotonic() + seconds
        while mark not in self._seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{mark!r} is not in {self._seen!r}"
            if select.select([self._descriptor], [], [], left)[0]:
                self._seen += os.read(self._descriptor, 65536).decode(errors="replace")
        before, _, self._seen = self._seen.partition(mark)
        return before

    def exit_code(self) -> int:
        """Wait for the command's end."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@contextmanager
def terminal(folder: Path, *arguments: str) -> Iterator[Terminal]:
    """Run Python with these arguments; it has ended when the block ends."""
    pid, descriptor = pty.fork()
    if pid == 0:
        os.chdir(folder)
        told = environment(TERM="xterm-256color", CI="")
        os.execve(sys.executable, [sys.executable, *arguments], told)
    try:
        yield Terminal(pid, descriptor)
    finally:
        os.close(descriptor)
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            # It has left by itself.
            pass
