"""The contract between the sampling loop and the back ends that draw.

The loop (sampling_loop.py) decides what is drawn and keeps it; a Generator cuts that into units and draws them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol

from r1pipe.errors import R1PipeError

Key = tuple[int | str, ...]


@dataclass(frozen=True)
class Sample:
    """One response that was drawn.

    Attributes:
        text: the response without its end token.
        tokens: its length, the end token included.
        finished: whether it ended by itself; False where max_tokens cut it.
        prompt_tokens: as a service counted them; 0 where nobody is paid.
        refused: why a service refused to answer; empty otherwise.
    """

    text: str
    tokens: int
    finished: bool
    prompt_tokens: int = 0
    refused: str = ""


class Draw(NamedTuple):
    """An order for some samples of one row: those with the indices first, first + 1, ..., first + n - 1.

    Attributes:
        row: the row's number.
        first: index of the first sample.
        n: number of samples.
    """

    row: int
    first: int
    n: int


class Unit(NamedTuple):
    """Draws that are made and kept as a whole.

    Attributes:
        key: the unit's name within the stage. It does not depend on what was drawn before.
        draws: what is drawn.
    """

    key: Key
    draws: list[Draw]

    @property
    def rows(self) -> list[int]:
        """The row's number for each sample."""
        return [draw.row for draw in self.draws for _ in range(draw.n)]


class Generator(Protocol):
    """A model together with the rows that it answers."""

    @property
    def max_in_flight(self) -> int:
        """Units that may be drawn at the same time; `draw` is called from threads."""
        ...

    @property
    def occupies_cpu(self) -> bool:
        """Whether it computes on this machine's CPUs.

        Verifying at the same time would slow both down, since OpenMP's threads spin while they wait.
        """
        ...

    @property
    def remote(self) -> bool:
        """Whether it computes on another machine."""
        ...

    def cohorts(self, rounds: bool) -> list[list[int]]:
        """Split the rows into cohorts: rows that go through their rounds together.

        Args:
            rounds: whether rows may be drawn again after their samples were verified.

        Returns:
            The rows' numbers, in the order in which they are drawn.
        """
        ...

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        """Cut one round of a cohort into units.

        Args:
            prefix: the first part of the units' keys; no two rounds have the same.
            draws: the round.
        """
        ...

    def draw(self, unit: Unit) -> list[Sample]:
        """Draw the unit's samples, one draw after the other.

        Raises:
            NoAnswer: a service did not answer this unit; it may answer others.
        """
        ...

    def stop_reason(self, tokens_in: int, tokens_out: int) -> R1PipeError | None:
        """Return why nothing more may be drawn, or None.

        Args:
            tokens_in: prompt tokens of all samples so far.
            tokens_out: response tokens of all samples so far.
        """
        ...


def sample_seed(seed: int, row_id: str, index: int) -> int:
    """Return the seed of one sample, a number of 31 bits.

    It depends on the run's seed, the row's id and the sample's index, and on nothing else.
    """
    digest = sha256(f"{seed}:{row_id}:{index}".encode()).digest()
    return int.from_bytes(digest[:4]) & 0x7FFFFFFF
