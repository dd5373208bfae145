"""A stage that hangs: noticed by what it does not write, and where each rank stands is written to its log.

A sign of life is any change of the stage's progress, metrics, notes, workdir or unpublished output, and the files
`alive.<rank>`, which long work without output touches (r1pipe/here.py: alive). Logs are none: libraries go on to print
there that they wait. Ages are measured by this process's own clock, so a step of the system's clock changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from r1pipe.launch.neighbours import stat_columns

# A file in a stage's folder that asks the ranks of all machines for their stacks.
DUMP = "dump-stacks"
LOOK_EVERY_S = 5.0
# Until a stage's first sign of life, at least (our choice).
START_S = 600.0
# Until the ranks have written their stacks: here by a signal, elsewhere they look for the file.
DUMP_S = 2.0
DUMP_ELSEWHERE_S = 15.0


class Watchdog:
    """Whether a stage still gives signs of life.

    Args:
        folder: the stage's.
        minutes: without a sign after which it hangs; None = it never does.
        clock: seconds that only grow.
    """

    def __init__(
        self, folder: Path, minutes: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._clock = clock
        self.seconds = None if minutes is None else 60 * minutes
        self._seen: dict[Path, tuple[int, int]] = {}
        self._changed = clock()
        self._looked = clock()

    def hangs(self) -> bool:
        """Whether the time is over; looks at the files every few seconds."""
        if self.seconds is None:
            return False
        now = self._clock()
        if now - self._looked < min(LOOK_EVERY_S, self.seconds / 4):
            return False
        if self._slept(now - self._looked):
            self._changed = now
        self._looked = now
        signs = dict(_signs(self._folder))
        if signs != self._seen:
            self._seen = signs
            self._changed = now
        return now - self._changed > self._patience()

    def _slept(self, seconds: float) -> bool:
        """Whether the driver itself was away since its last look, so that nobody could see a sign."""
        assert self.seconds is not None
        return seconds > self.seconds / 2

    def _patience(self) -> float:
        """Seconds without a sign: more of them before the first one, while libraries are imported."""
        assert self.seconds is not None
        return self.seconds if self._seen else max(self.seconds, START_S)


def _signs(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Files that say that the stage works: path, then size and time of the last change."""
    for name in ("progress.jsonl", "metrics.jsonl", "notes.jsonl"):
        yield from _look(folder / name)
    for path in folder.glob("alive.*"):
        yield from _look(path)
    for below in ("workdir", "out.partial"):
        for path in (folder / below).rglob("*"):
            yield from _look(path)


def _look(path: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    # It may be gone since it was listed.
    with contextlib.suppress(OSError):
        found = path.stat()
        yield path, (found.st_size, found.st_mtime_ns)


def dump_stacks(folder: Path, pids: Sequence[int], *, elsewhere: bool) -> list[int]:
    """Let every rank write its threads' stacks to its log.

    Args:
        pids: the ranks' processes on this machine.
        elsewhere: ranks on other machines are asked, too.

    Returns:
        the ranks of this machine that were stopped, as by SIGSTOP.
    """
    stopped = [rank for rank, pid in enumerate(pids) if _state(pid) in ("T", "t")]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGUSR2)
            # One that is stopped answers nothing, and it is ended in a moment anyway.
            os.kill(pid, signal.SIGCONT)
    if elsewhere:
        (folder / DUMP).touch()
    time.sleep(DUMP_ELSEWHERE_S if elsewhere else DUMP_S)
    (folder / DUMP).unlink(missing_ok=True)
    return stopped


def _state(pid: int) -> str:
    """The kernel's letter for what a process does; empty where it does not tell."""
    try:
        return stat_columns(pid)[0]
    except OSError:
        return ""


def answer_requests(folder: Path) -> None:
    """In a rank that the driver cannot reach by a signal: look for the file, for ever."""
    while True:
        time.sleep(LOOK_EVERY_S)
        if (folder / DUMP).exists():
            os.kill(os.getpid(), signal.SIGUSR2)
            return
