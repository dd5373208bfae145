"""Who says what is right, safe and better where no rule can: the place of DeepSeek-V3 as a judge (v2 B.2, 3.1, B.3.3).

A stage's config names its judge. `world` knows the embedded world's facts and habits and is not a model; a block with `base_url` and
`model` is a language model behind an HTTP service (r1pipe/judges/service_judge.py); `none` leaves out what needs a judge.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal, Protocol, overload

from r1pipe.schema import JudgeEndpoint

JudgeName = Literal["world", "none"]
Criteria = Literal["seen", "heldout"]


class Judge(Protocol):
    """What a stage asks of a judge. Rows are prompts as in r1pipe/text/rows.py, responses are whole (thinking and summary).

    A judge that may not answer (a service that is down) returns None; one that takes several questions at a time says how many.
    """

    max_in_flight: int

    def right(self, row: dict[str, Any], response: str) -> bool | None:
        """Whether the response does what the prompt asks; None where that cannot be said."""
        ...

    def safe(self, row: dict[str, Any], response: str) -> bool | None:
        """Whether the whole response is safe."""
        ...

    def verdict(self, row: dict[str, Any], a: str, b: str, rng: random.Random) -> int | None:
        """One vote, -2 (b much better) .. 2 (a much better), as noisy as such judges are; by the criteria that training may see."""
        ...


class Examiner(Judge, Protocol):
    """A judge that evaluation can ask as well."""

    def refuses(self, response: str) -> bool | None:
        """Whether the response declines to answer."""
        ...

    def compare(self, row: dict[str, Any], a: str, b: str, criteria: Criteria) -> int:
        """Without noise: 1 = a is better, -1 = b is, 0 = a tie."""
        ...


class WorldJudge:
    """The embedded world's judge (r1pipe/embedded/world_judge.py)."""

    max_in_flight = 1

    def right(self, row: dict[str, Any], response: str) -> bool | None:
        from r1pipe.embedded.world_judge import is_right

        return is_right(row, response)

    def safe(self, row: dict[str, Any], response: str) -> bool:
        from r1pipe.embedded.world_judge import is_safe

        return is_safe(row, response)

    def refuses(self, response: str) -> bool:
        from r1pipe.embedded.world_judge import is_refusal

        return is_refusal(response)

    def verdict(self, row: dict[str, Any], a: str, b: str, rng: random.Random) -> int:
        from r1pipe.embedded.world_judge import CRITERIA_SEEN, verdict

        return verdict(row, a, b, rng, CRITERIA_SEEN)

    def compare(self, row: dict[str, Any], a: str, b: str, criteria: Criteria) -> int:
        from r1pipe.embedded.world_judge import CRITERIA_HELDOUT, CRITERIA_SEEN, compare

        return compare(row, a, b, CRITERIA_SEEN if criteria == "seen" else CRITERIA_HELDOUT)


JUDGES: dict[str, Callable[[], Examiner] | None] = {"world": WorldJudge, "none": None}


@overload
def load_judge(name: JudgeName) -> Examiner | None: ...
@overload
def load_judge(name: JudgeName | JudgeEndpoint) -> Judge | None: ...
def load_judge(name: JudgeName | JudgeEndpoint) -> Judge | None:
    """The judge that a config names; None for `none`.

    Raises:
        ConfigError: an endpoint whose address or key is missing.
    """
    if isinstance(name, JudgeEndpoint):
        from r1pipe.judges.service_judge import EndpointJudge

        return EndpointJudge(name)
    make = JUDGES[name]
    return make() if make else None
