"""Writers that are programs: who answers general prompts and makes traces readable where no model is at hand.

DeepSeek-V3 has this place in the paper (v2 B.3.2, B.3.3). A stage's config names its writer, and `none` stands for
nobody. Writers that are models have settings instead of a name: r1pipe/generation/teachers.py.

To add a writer, write a class with the methods of ProgramWriter in a file of its own, add a line to WRITERS, and test
it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from r1pipe.schema.names import name_of

Quality = Literal["careful", "sloppy"]

NONE = "none"


class ProgramWriter(Protocol):
    """What a stage asks of a writer. Rows are prompts as in r1pipe/text/rows.py."""

    def write(
        self, row: dict[str, Any], rng: random.Random, quality: Quality, refuse: bool | None = None
    ) -> str:
        """Write a whole response (thinking and summary) to a prompt.

        Args:
            row: the prompt.
            rng: draws the wording.
            quality: whether the response is written with care; both kinds are needed to learn preferences from.
            refuse: whether to decline; None leaves it to the writer.
        """
        ...

    def rewrite(self, row: dict[str, Any], thinking: str) -> tuple[str, str] | None:
        """Return a readable version of a model's thinking, and a summary; None where it cannot be followed."""
        ...


def _world() -> ProgramWriter:
    from r1pipe.embedded.oracle import Oracle

    return Oracle()


# Factories, so that a writer's own imports wait until a stage uses it.
WRITERS: dict[str, Callable[[], ProgramWriter]] = {
    "world": _world,
}

WriterName = Annotated[str, name_of("writer", (*WRITERS, NONE))]


def load_writer(name: WriterName) -> ProgramWriter | None:
    """Return the writer of a name, or None for `none`."""
    if name == NONE:
        return None
    return WRITERS[name]()
