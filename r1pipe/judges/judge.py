"""Judges: who says what is right, safe and better where no rule can.

DeepSeek-V3 has this place in the paper (v2 B.2, 3.1, B.3.3).

A stage's config names its judge, or gives a block with `base_url` and `model`: a language model behind an HTTP service
(service_judge.py). The names are those of JUDGES, and `none` leaves out what needs a judge.

To add a judge, write a class with the methods of Examiner in a file of its own, add a line to JUDGES, and test it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, overload

from r1pipe.schema import JudgeEndpoint
from r1pipe.schema.names import name_of

if TYPE_CHECKING:
    from r1pipe.judges.service_judge import EndpointJudge

# Two disjoint sets of criteria: those that the preference pairs are made by, and those that only evaluation uses.
Criteria = Literal["seen", "heldout"]

NONE = "none"


class Checker(Protocol):
    """Who says of one response what no rule can.

    Rows are prompts as in r1pipe/text/rows.py; responses are whole (thinking and summary). A service that is down
    answers None.
    """

    def right(self, row: dict[str, Any], response: str) -> bool | None:
        """Whether the response does what the prompt asks; None where that cannot be said."""
        ...

    def safe(self, row: dict[str, Any], response: str) -> bool | None:
        """Whether the whole response is safe."""
        ...


class Grader(Checker, Protocol):
    """Who can score an evaluation."""

    def refuses(self, response: str) -> bool | None:
        """Whether the response declines to answer."""
        ...


class Judge(Checker, Protocol):
    """Who can make data: labels, and pairs."""

    max_in_flight: int
    """Questions that may be asked at the same time."""

    def verdict(self, row: dict[str, Any], a: str, b: str, rng: random.Random) -> int | None:
        """Vote once by the criteria `seen`, from -2 (b is much better) to 2 (a is much better).

        A vote is as noisy as such judges are, so several are averaged.
        """
        ...


class Examiner(Judge, Grader, Protocol):
    """A judge that evaluation and comparison can use as well."""

    def compare(self, row: dict[str, Any], a: str, b: str, criteria: Criteria) -> int:
        """Compare without noise: 1 = a is better, -1 = b is better, 0 = a tie."""
        ...


def _world() -> Examiner:
    from r1pipe.embedded.world_judge import WorldJudge

    return WorldJudge()


# Factories, so that a judge's own imports wait until a stage uses it.
JUDGES: dict[str, Callable[[], Examiner]] = {
    "world": _world,
}

JudgeName = Annotated[str, name_of("judge", (*JUDGES, NONE))]

# Of these evaluation has one more, which can compare nothing: the rule of refusals.py.
REFUSALS = "refusals"
GraderName = Annotated[str, name_of("judge", (*JUDGES, REFUSALS, NONE))]


@overload
def load_judge(judge: JudgeName) -> Examiner | None: ...
@overload
def load_judge(judge: JudgeName | JudgeEndpoint) -> Judge | None: ...
def load_judge(judge: JudgeName | JudgeEndpoint) -> Judge | None:
    """Return the judge that a config asks for, or None for `none`.

    Raises:
        ConfigError: the service's address or key is missing.
    """
    if isinstance(judge, JudgeEndpoint):
        return _behind_a_service(judge)
    if judge == NONE:
        return None
    return JUDGES[judge]()


def load_grader(judge: GraderName | JudgeEndpoint) -> Grader | None:
    """Return who grades in an evaluation, or None for `none`.

    Raises:
        ConfigError: the service's address or key is missing.
    """
    if isinstance(judge, JudgeEndpoint):
        return _behind_a_service(judge)
    if judge == REFUSALS:
        from r1pipe.judges.refusals import Refusals

        return Refusals()
    return load_judge(judge)


def _behind_a_service(config: JudgeEndpoint) -> EndpointJudge:
    from r1pipe.judges.service_judge import EndpointJudge

    return EndpointJudge(config)
