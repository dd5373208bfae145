"""Signals and a limit of time as exceptions, so that a driver leaves no process behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, SIGUSR1, Signals, getsignal, signal
from typing import Any

# Slurm sends what `--signal` names, often SIGUSR1, some time before a job's end.
SIGNALS = (SIGINT, SIGTERM, SIGUSR1)
TIME_IS_UP = 4  # exit code


class Interrupted(BaseException):
    """The run stops before its end; its workers save what they can and are ended on the way out.

    Attributes:
        exit_code: of the driver.
    """

    def __init__(self, what: str, exit_code: int) -> None:
        super().__init__(what)
        self.exit_code = exit_code


class TimeLimit:
    """How long a run may go on.

    Args:
        minutes: from now; None = without end.
    """

    def __init__(self, minutes: float | None) -> None:
        self._minutes = minutes
        self._end = None if minutes is None else time.monotonic() + 60 * minutes

    def check(self) -> None:
        """Raise Interrupted when the time is up."""
        if self._end is not None and time.monotonic() > self._end:
            raise Interrupted(f"stopped after {self._minutes:g} minutes (--minutes)", TIME_IS_UP)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Raise Interrupted on a signal, so that every `finally` on the way out ends its processes.

    Yields:
        whether a second signal has come: then nothing that takes time is waited for.
    """
    again = False

    def interrupt(number: int, _: Any) -> None:
        # A second signal must not cut the clean-up short; it only makes it hurry.
        for other in SIGNALS:
            signal(other, hurry)
        raise Interrupted("interrupted", 128 + Signals(number))

    def hurry(*_: Any) -> None:
        nonlocal again
        again = True

    # The old handlers come back, since a test or a notebook goes on after the run.
    old = {number: getsignal(number) for number in SIGNALS}
    for number in old:
        signal(number, interrupt)
    try:
        yield lambda: again
    finally:
        for number, handler in old.items():
            signal(number, handler)
