"""Rounds of draws, and what becomes of the samples: candidates with verdicts.

With early stop a cohort goes through several rounds, each of which draws as many samples as its rows still miss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from r1pipe.data.candidates import REFUSED, Candidate
from r1pipe.generation.contract import Key, Sample, Unit

Verifier = Callable[[list[Candidate]], list[Candidate]]
Outcome = tuple[Sample, Candidate]


@dataclass
class Round:
    """One round of a cohort while it is drawn.

    Attributes:
        cohort: the cohort's number.
        number: the round's number in the cohort, from 0.
        units: what the round draws.
        outcomes: the results of the units that are done.
    """

    cohort: int
    number: int
    units: list[Unit]
    outcomes: dict[Key, list[Outcome]] = field(default_factory=dict)


class Task(NamedTuple):
    """A unit and the round that waits for it."""

    round: Round
    unit: Unit


def candidates_of(
    unit: Unit,
    rows: Mapping[int, dict[str, Any]] | Sequence[dict[str, Any]],
    samples: list[Sample],
    source: str,
) -> list[Candidate]:
    """Return a unit's samples as candidates that are not verified yet.

    Args:
        unit: the unit.
        rows: the stage's rows, by number.
        samples: the unit's.
        source: the candidates' source.
    """
    return [
        Candidate(
            row=rows[number],
            response=sample.text,
            source=source,
            tokens=sample.tokens,
            finished=sample.finished,
            reason=REFUSED if sample.refused else "",
        )
        for number, sample in zip(unit.rows, samples, strict=True)
    ]
