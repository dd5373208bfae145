"""Votes to pairs, and pairs of comparable length (v2 3.1)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, cast

from r1pipe.judges.judge import Judge
from r1pipe.text.response import split_response

Pair = dict[str, Any]
Measure = Callable[[str], float]  # length of a summary


class Heard:
    """A judge, and whether it left a question unanswered; `judge` is asked in its place."""

    def __init__(self, judge: Judge) -> None:
        self._judge, self.silent = judge, False

    @property
    def judge(self) -> Judge:
        return cast("Judge", self)

    def __getattr__(self, question: str) -> Callable[..., Any]:
        def ask(*about: Any) -> Any:
            verdict = getattr(self._judge, question)(*about)
            self.silent |= verdict is None
            return verdict

        return ask


def vote(row: dict[str, Any], a: str, b: str, judge: Judge, votes: int, rng: random.Random) -> float | None:
    """Mean of `votes` verdicts, -2 (b much better) .. 2 (a much better); the sides are swapped at random each time, against position bias.

    A vote that the judge does not give does not count; None where it gives none at all.
    """
    given: list[int] = []
    for _ in range(votes):
        swapped = rng.random() < 0.5
        verdict = judge.verdict(row, b, a, rng) if swapped else judge.verdict(row, a, b, rng)
        if verdict is not None:
            given.append(-verdict if swapped else verdict)
    return sum(given) / len(given) if given else None


def judge_pairs(
    row: dict[str, Any],
    responses: Sequence[str],
    judge: Judge,
    votes: int,
    min_margin: float,
    comparisons: int,
    wanted: int,
    rng: random.Random,
) -> tuple[list[Pair], list[Pair]]:
    """Compare responses to one prompt, two by two in random order, until `wanted` pairs are clear or `comparisons` are spent.

    Returns:
        the pairs whose |mean verdict| is above `min_margin`, and the others with a reason.
    """
    couples = [
        (a, b)
        for a, b in itertools.combinations(dict.fromkeys(responses), 2)
        if split_response(a).summary != split_response(b).summary
    ]
    rng.shuffle(couples)
    kept: list[Pair] = []
    dropped: list[Pair] = []
    for a, b in couples[:comparisons]:
        if len(kept) == wanted:
            break
        score = vote(row, a, b, judge, votes, rng)
        unheard, score = score is None, score or 0.0
        chosen, rejected = (a, b) if score > 0 else (b, a)
        base = {name: row[name] for name in ("prompt", "domain", "language") if name in row}
        pair = {
            "id": f"{row['id']}#{len(kept) + len(dropped)}",
            **base,
            "chosen": chosen,
            "rejected": rejected,
            "margin": abs(score),
        }
        if abs(score) > min_margin:
            kept.append(pair)
        else:
            dropped.append({**pair, "reason": "the judge did not answer" if unheard else "no clear preference"})
    return kept, dropped


def mean_lengths(pairs: Sequence[Pair], measure: Measure) -> tuple[float, float]:
    """Mean length of the chosen and of the rejected summaries; summaries, since that is what the helpful reward model reads."""
    chosen = [measure(split_response(pair["chosen"]).summary) for pair in pairs]
    rejected = [measure(split_response(pair["rejected"]).summary) for pair in pairs]
    return sum(chosen) / len(pairs), sum(rejected) / len(pairs)


def balance(pairs: Sequence[Pair], measures: dict[str, Measure], tolerance: float) -> tuple[list[Pair], list[Pair]]:
    """Drop pairs until chosen and rejected are of comparable length over the set, by every measure.

    Each time, the measure that is furthest off loses the pair that tips it most; so the fewest pairs go.

    Args:
        measures: name -> length of a summary.
        tolerance: largest |mean chosen / mean rejected - 1|.

    Returns:
        the pairs kept, in their order, and the dropped with a reason.
    """
    lengths = {
        name: [
            (measure(split_response(pair["chosen"]).summary), measure(split_response(pair["rejected"]).summary))
            for pair in pairs
        ]
        for name, measure in measures.items()
    }
    left = dict.fromkeys(range(len(pairs)))
    sums = {
        name: [sum(chosen for chosen, _ in both), sum(rejected for _, rejected in both)]
        for name, both in lengths.items()
    }
    # For each measure and direction, pairs from the most to the least lopsided.
    queues = {
        (name, sign): iter(
            sorted(
                range(len(pairs)), key=lambda number, both=both, sign=sign: -sign * (both[number][0] - both[number][1])
            )
        )
        for name, both in lengths.items()
        for sign in (1, -1)
    }
    dropped: list[Pair] = []
    while left:
        off = {
            name: (chosen / rejected - 1 if rejected else float(chosen > 0))
            for name, (chosen, rejected) in sums.items()
        }
        worst = max(off, key=lambda name: abs(off[name]))
        if abs(off[worst]) <= tolerance:
            break
        sign = 1 if off[worst] > 0 else -1
        number = next(number for number in queues[worst, sign] if number in left)
        del left[number]
        for name, both in lengths.items():
            sums[name][0] -= both[number][0]
            sums[name][1] -= both[number][1]
        dropped.append({**pairs[number], "reason": "length balance"})
    return [pairs[number] for number in left], dropped
