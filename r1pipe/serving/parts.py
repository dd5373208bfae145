"""A reply that arrives in pieces, taken apart into its thinking and the rest."""

from __future__ import annotations

from dataclasses import dataclass

from r1pipe.text.response import THINK_CLOSE, THINK_OPEN


@dataclass(frozen=True)
class Part:
    """A stretch of a reply that is all thinking, with its tags, or has none."""

    text: str
    thinking: bool


class Parts:
    """Tells the thinking of a reply that arrives in pieces from the rest, as text/response.py does of a whole one.

    >>> parts = Parts()
    >>> [part.text for part in parts.feed("<thi") + parts.feed("nk>2+2</think>4")]
    ['<think>', '2+2</think>', '4']
    """

    def __init__(self) -> None:
        self._waiting = ""
        # The tag that comes next; empty behind the thinking, where a tag is text like any other.
        self._tag = THINK_OPEN

    def feed(self, piece: str) -> list[Part]:
        """What can be shown now: the end of a piece may be the beginning of a tag."""
        self._waiting += piece
        shown: list[Part] = []
        if self._tag == THINK_OPEN and self._found():
            before, _, self._waiting = self._waiting.partition(THINK_OPEN)
            shown += [Part(before, False), Part(THINK_OPEN, True)]
            self._tag = THINK_CLOSE
        if self._tag == THINK_CLOSE and self._found():
            before, _, self._waiting = self._waiting.partition(THINK_CLOSE)
            shown.append(Part(before + THINK_CLOSE, True))
            self._tag = ""
        kept = self._kept()
        ready = len(self._waiting) - kept
        shown.append(Part(self._waiting[:ready], self._tag == THINK_CLOSE))
        self._waiting = self._waiting[ready:]
        return [part for part in shown if part.text]

    def rest(self) -> list[Part]:
        """What still waited when the reply ended."""
        rest = Part(self._waiting, self._tag == THINK_CLOSE)
        self._waiting = ""
        return [rest] if rest.text else []

    def _found(self) -> bool:
        return self._tag in self._waiting

    def _kept(self) -> int:
        """The characters at the end that wait for what follows them."""
        # visible() takes "\r\n" for one line break.
        if self._waiting.endswith("\r"):
            return 1
        lengths = range(len(self._tag) - 1, 0, -1)
        return next((length for length in lengths if self._waiting.endswith(self._tag[:length])), 0)
