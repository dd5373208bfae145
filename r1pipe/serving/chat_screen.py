"""What a chat shows: replies as they are drawn, their thinking dimmed; the text of a model is never markup."""

from __future__ import annotations

import sys

from rich.console import Console

from r1pipe.data.listing import visible
from r1pipe.serving.ctrl_c import woken
from r1pipe.serving.parts import Part, Parts

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
        """The next line without white space around it; None at the end."""
        try:
            if not self.interactive:
                return input().strip()
            with woken():
                return input(PROMPT).strip()
        except EOFError:
            if self.interactive:
                self.new_line()
            return None

    def half_written(self) -> str:
        """What stood on the line when `ask` was interrupted."""
        import readline

        return readline.get_line_buffer()

    def new_line(self) -> None:
        """Leave the line of the prompt."""
        self._replies.out()

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
