"""How long prompts and responses are: what the user says, what a run showed, or a guess that is stated as one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from r1pipe.errors import InputError

# Mean tokens of a prompt: 122 to 161 for the paper's maths and STEM, 420 for logic (v2 B.3.1, Table 4).
PROMPT_GUESS = 160.0
# Mean tokens of a reply that is brought or written.
REPLY_GUESS = 300.0
# Characters of a token of English in a vocabulary of 50,000 to 250,000, and tokens of a chat template.
TOKEN_CHARACTERS = 4.0
TEMPLATE_TOKENS = 25.0
# The share of max_tokens that a response takes on average. A guess; runs of docs/reference/ had 0.45 to 0.6.
ANSWER_SHARE = 0.5
# The spread of the logarithm of lengths: 0.5 to 0.9 in runs of real bases. Few responses are very long.
SPREAD = 0.7
# Stretches of a curve that are planned one by one.
STRETCHES = 24

Origin = Literal["guess", "stated", "run"]


@dataclass(frozen=True)
class Length:
    """Tokens of responses over a training.

    Attributes:
        points: (update, mean tokens) in ascending order; one point where it does not change.
        origin: where the numbers are from.
    """

    points: tuple[tuple[float, float], ...]
    origin: Origin = "guess"

    def at(self, update: float) -> float:
        """The mean at an update, on straight lines between the points."""
        before = self.points[0]
        for point in self.points:
            if point[0] >= update:
                if point[0] == before[0]:
                    return point[1]
                share = (update - before[0]) / (point[0] - before[0])
                return before[1] + share * (point[1] - before[1])
            before = point
        return self.points[-1][1]

    def stretches(self, first: float, last: float) -> Iterator[tuple[float, float]]:
        """(updates, mean tokens) of parts of a training; a single part where nothing changes."""
        count = 1 if len(self.points) == 1 else STRETCHES
        each = (last - first) / count
        for part in range(count):
            yield each, self.at(first + (part + 0.5) * each)


def longest_of(count: float, mean: float, limit: float) -> float:
    """The longest of so many responses whose lengths are log-normal, at most the limit."""
    if count <= 1:
        return min(mean, limit)
    # The expected largest of n normal numbers is near sqrt(2 ln n), a little less for small n.
    deviations = math.sqrt(2 * math.log(count)) - 0.3
    return min(limit, mean * math.exp(SPREAD * deviations - SPREAD**2 / 2))


def guess(max_tokens: int) -> Length:
    return Length(((0.0, ANSWER_SHARE * max_tokens),))


def stated(text: str) -> tuple[str, Length]:
    """`STAGE=TOKENS`, or `STAGE=UPDATE:TOKENS,UPDATE:TOKENS` for a length that changes.

    >>> stated("r1-zero=0:500,2000:2000")[1].at(1000)
    1250.0

    Raises:
        InputError: it is neither.
    """
    stage, _, rest = text.partition("=")
    try:
        points = []
        for part in rest.split(","):
            update, colon, tokens = part.rpartition(":")
            points.append((float(update) if colon else 0.0, float(tokens)))
        usable = stage and points == sorted(points) and all(tokens > 0 for _, tokens in points)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(
            f"'{text}' is no length",
            "--length",
            "--length r1-zero=900, or --length r1-zero=0:500,2000:2000 for means at updates",
        )
    return stage, Length(tuple(points), "stated")
