"""What a chat shows: replies as they are drawn, their thinking dimmed; the text of a model is never markup."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from rich.console import Console

from r1pipe.data.listing import visible
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN

PROMPT = "> "


class Screen:
    """A terminal; where stdin is none, each line of it is a question, and stdout gets the replies alone."""

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        self._replies = Console(highlight=False)
        self._notes = self._replies if self.interactive else Console(stderr=True, highlight=False)
        self._parts = Parts()
        self._line_is_open = False
        if self.interactive:
            # With it, `input` edits a line and recalls earlier ones.
            import readline  # noqa: F401
        # A question that is not UTF-8 is asked as far as it can be read. Some stand-ins for stdin lack this.
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]

    def ask(self) -> str | None:
        """The next line without white space around it; None at the end. Ctrl-C throws a half-written one away."""
        try:
            line = input(PROMPT if self.interactive else "")
        except EOFError:
            if self.interactive:
                self._replies.out()
            return None
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self._replies.out()
            return ""
        return line.strip()

    def note(self, text: str) -> None:
        """Something that no model said."""
        self._notes.out(visible(text), style="yellow")

    def label(self, name: str) -> None:
        """Whose reply follows."""
        self._replies.out(f"{visible(name)}:", style="bold")

    def piece(self, text: str) -> None:
        """The next piece of a reply."""
        for part in self._parts.feed(text):
            self._show(part)

    def end(self) -> None:
        """The reply is over."""
        for part in self._parts.rest():
            self._show(part)
        if self._line_is_open:
            self._replies.out()
        self._parts = Parts()
        self._line_is_open = False

    def _show(self, part: Part) -> None:
        if not part.text:
            return
        self._line_is_open = not part.text.endswith("\n")
        style = "dim" if part.thinking else None
        self._replies.out(visible(part.text), style=style, end="")


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
