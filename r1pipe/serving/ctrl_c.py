"""What Ctrl-C does while a chat is open."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Seconds after which a Ctrl-C is noticed that came just before the wait for a key.
_WAKE_EVERY_S = 0.1


class CtrlC:
    """Keeps a Ctrl-C until somebody looks for it, so that nothing is cut in the middle of a token.

    A second one, while the first is still kept, raises KeyboardInterrupt. It is a context manager: outside of it
    Ctrl-C does what it did before.
    """

    def __init__(self) -> None:
        self._kept = False
        self._raises = False

    def __enter__(self) -> CtrlC:
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def is_kept(self) -> bool:
        return self._kept

    def forget(self) -> None:
        """What Ctrl-C asked for was done."""
        self._kept = False

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Meanwhile Ctrl-C raises KeyboardInterrupt; so does one that was kept."""
        self._raises = True
        try:
            if self._kept:
                raise KeyboardInterrupt
            yield
        finally:
            self._raises = False
            self._kept = False

    def _hear(self, number: int, frame: Any) -> None:
        if self._raises or self._kept:
            raise KeyboardInterrupt
        self._kept = True


@contextmanager
def woken() -> Iterator[None]:
    """Interrupt the wait for a key ten times a second.

    readline looks for signals only when one interrupts its wait. A Ctrl-C that comes after the prompt is shown and
    before the wait begins would else take effect at the next Enter.
    """
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    # Reads and writes go on by themselves; a wait never does.
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, _WAKE_EVERY_S, _WAKE_EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
