"""A language model compares two reports: each pair of replies in both orders, since such judges favour a position."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from r1pipe.evaluation.comparison import Outcomes, pairs_of
from r1pipe.evaluation.scoring import Line
from r1pipe.here import Here
from r1pipe.judges.judge import Judge
from r1pipe.text.response import split_response


class Compared(NamedTuple):
    """What a judge has said.

    Attributes:
        outcomes: of the pairs that it has judged in both orders.
        numbers: `unjudged` pairs; of those that were judged, the share `consistent` in both orders; of the single
            votes that were no tie, the share for the reply that was shown `first`, which is a half without bias.
    """

    outcomes: Outcomes
    numbers: dict[str, float | int]


def compare_by_service(
    rows: Mapping[str, dict[str, Any]],
    own: Sequence[Line],
    others: Sequence[Line],
    judge: Judge,
    *,
    here: Here,
    label: str,
) -> Compared:
    """Compare two reports; sample i of a problem meets sample i.

    A pair is won where both orders say so, or one does and the other is a tie; where the orders contradict each other
    it is a tie. Equal replies are a tie without a question. What the judge has said is kept, and a kill loses none.

    Args:
        rows: id -> prompt row, for the problems that are compared.
        own: lines of one report.
        others: lines of the report that it is compared with.
        label: the journal's name in the stage's workdir.

    Raises:
        InputError: the service gives no answers any more.
    """
    from r1pipe.generation.journal import Job, digest_of, do_once

    outcomes: dict[tuple[str, int], float] = {}
    asked = []
    jobs = []
    for key, row, a, b in pairs_of(rows, own, others):
        if split_response(a).summary == split_response(b).summary:
            outcomes[key] = 0.5
            continue
        # The orders are two jobs, so that a kill between them costs one question.
        asked.append(key)
        for order, (left, right) in enumerate(((a, b), (b, a))):
            work = partial(_vote, judge, row, left, right)
            jobs.append(Job((*key, order), digest_of(row, left, right), work))
    votes = [record["vote"] for record in do_once(here, label, jobs, judge.max_in_flight)]

    agreed = len(outcomes)
    for place, key in enumerate(asked):
        straight, swapped = votes[2 * place : 2 * place + 2]
        # One order alone would say what the judge thinks of the position.
        if straight is None or swapped is None:
            continue
        balance = straight - swapped
        agreed += straight == -swapped
        outcomes[key] = 0.5 if balance == 0 else float(balance > 0)

    decided = [vote for vote in votes if vote]
    numbers: dict[str, float | int] = {
        "unjudged": sum(key not in outcomes for key in asked),
        "consistent": agreed / max(1, len(outcomes)),
        "first": sum(vote > 0 for vote in decided) / len(decided) if decided else 0.5,
    }
    return Compared(outcomes, numbers)


def _vote(judge: Judge, row: dict[str, Any], left: str, right: str) -> tuple[dict[str, Any], bool]:
    """1 = the left one is better, -1 = the right one, 0 = a tie; None is asked again by the next attempt."""
    verdict = judge.verdict(row, left, right, random.Random(0))
    if verdict is None:
        return {"vote": None}, False
    return {"vote": (verdict > 0) - (verdict < 0)}, True
