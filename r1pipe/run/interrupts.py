"""Ctrl-C and SIGTERM as an exception, so that a driver leaves no process behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, Signals, getsignal, signal
from typing import Any


class Interrupted(BaseException):
    """SIGINT or SIGTERM reached the driver; its workers are ended on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted on SIGINT and SIGTERM, so that every `finally` on the way out ends its processes."""

    def interrupt(number: int, _: Any) -> None:
        # A second Ctrl-C must not cut the clean-up short.
        for ignored in (SIGINT, SIGTERM):
            signal(ignored, lambda *_: None)
        raise Interrupted(Signals(number))

    # The old handlers come back, since a test or a notebook goes on after the run.
    old = {number: getsignal(number) for number in (SIGINT, SIGTERM)}
    for number in old:
        signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal(number, handler)
