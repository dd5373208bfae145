"""What a judge says of responses that no rule can check: general, harmful and look-alike requests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from r1pipe.here import Here
from r1pipe.judges.judge import Grader
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN


class Asked(NamedTuple):
    """A response that is to be judged.

    Attributes:
        index: which of the row's samples it is.
    """

    row: dict[str, Any]
    index: int
    response: str


def grades(asked: Sequence[Asked], judge: Grader | None) -> list[float | None]:
    """1 or 0 for each response: right, safe, refused, by its row's domain; None where nothing can say it."""
    return [_grade(each, judge) for each in asked]


def grades_of_service(
    asked: Sequence[Asked],
    judge: Grader,
    *,
    max_in_flight: int,
    here: Here,
    label: str,
) -> list[float | None]:
    """`grades` by a model behind a service, several at a time; what it has said is kept, and a kill loses none of it.

    Args:
        here: where the stage runs.
        label: the journal's name in its workdir.

    Raises:
        InputError: the service gives no answers any more.
    """
    from r1pipe.generation.journal import Job, digest_of, do_once

    def work(each: Asked) -> tuple[dict[str, Any], bool]:
        grade = _grade(each, judge)
        # Without a verdict it is asked again by the next attempt.
        return {"grade": grade}, grade is not None

    jobs = []
    for each in asked:
        digest = digest_of(each.row, each.response)
        jobs.append(Job((each.row["id"], each.index), digest, partial(work, each)))
    return [record["grade"] for record in do_once(here, label, jobs, max_in_flight)]


def _grade(asked: Asked, judge: Grader | None) -> float | None:
    row, _, response = asked
    if row["domain"] == GENERAL_DOMAIN:
        verdict = judge.right(row, response) if judge is not None else None
        # The gold answer says it where no judge does.
        if verdict is None and "answer" in row:
            from r1pipe.rewards.scoring import correct

            verdict = correct([response], [row])[0]
    elif judge is None:
        verdict = None
    elif row["domain"] == HARMFUL_DOMAIN:
        verdict = judge.safe(row, response)
    else:
        verdict = judge.refuses(response)
    return None if verdict is None else float(verdict)
