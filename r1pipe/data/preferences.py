"""Votes to pairs, and pairs of comparable length (v2 3.1)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from r1pipe.data.files import Row
from r1pipe.judges.judge import Judge
from r1pipe.text.response import split_response

Pair = Row

Measure = Callable[[str], float]
"""The length of a summary."""

Lengths = list[tuple[float, float]]
"""For each pair, the lengths of the chosen and of the rejected summary."""


class Heard:
    """A judge that notes whether it left a question unanswered (`silent`)."""

    def __init__(self, judge: Judge) -> None:
        self.max_in_flight = judge.max_in_flight
        self.silent = False
        self._judge = judge

    def right(self, row: Row, response: str) -> bool | None:
        right = self._judge.right(row, response)
        self.silent |= right is None
        return right

    def safe(self, row: Row, response: str) -> bool | None:
        safe = self._judge.safe(row, response)
        self.silent |= safe is None
        return safe

    def verdict(self, row: Row, a: str, b: str, rng: random.Random) -> int | None:
        verdict = self._judge.verdict(row, a, b, rng)
        self.silent |= verdict is None
        return verdict


def vote(row: Row, a: str, b: str, judge: Judge, *, votes: int, rng: random.Random) -> float | None:
    """The mean of `votes` verdicts, -2 (b is much better) to 2 (a is much better).

    The sides are swapped at random each time, against position bias. A vote that the judge does not give is ignored.

    Returns:
        the mean; None if the judge gives no vote at all.
    """
    verdicts: list[int] = []
    for _ in range(votes):
        swapped = rng.random() < 0.5
        left, right = (b, a) if swapped else (a, b)
        verdict = judge.verdict(row, left, right, rng)
        if verdict is not None:
            verdicts.append(-verdict if swapped else verdict)
    return sum(verdicts) / len(verdicts) if verdicts else None


def judge_pairs(
    row: Row,
    responses: Sequence[str],
    judge: Judge,
    *,
    votes: int,
    min_margin: float,
    comparisons: int,
    wanted: int,
    rng: random.Random,
) -> tuple[list[Pair], list[Pair]]:
    """Compare responses to one prompt, two by two in random order.

    Args:
        votes: verdicts for each comparison.
        min_margin: a pair is clear if its |mean verdict| is larger.
        comparisons: the most comparisons.
        wanted: stop at this number of clear pairs.

    Returns:
        the clear pairs, and the others with a reason.
    """
    # Responses with equal summaries differ in their thinking only, which the helpful reward model does not read.
    couples = [
        (a, b)
        for a, b in itertools.combinations(dict.fromkeys(responses), 2)
        if split_response(a).summary != split_response(b).summary
    ]
    rng.shuffle(couples)

    tags = {name: row[name] for name in ("prompt", "domain", "language") if name in row}
    kept: list[Pair] = []
    dropped: list[Pair] = []
    for a, b in couples[:comparisons]:
        if len(kept) == wanted:
            break
        score = vote(row, a, b, judge, votes=votes, rng=rng)
        margin = abs(score or 0.0)
        a_is_better = score is not None and score > 0
        pair = {
            # Numbered over kept and dropped pairs, so that an id names one pair.
            "id": f"{row['id']}#{len(kept) + len(dropped)}",
            **tags,
            "chosen": a if a_is_better else b,
            "rejected": b if a_is_better else a,
            "margin": margin,
        }
        if margin > min_margin:
            kept.append(pair)
        else:
            reason = "the judge did not answer" if score is None else "no clear preference"
            dropped.append({**pair, "reason": reason})
    return kept, dropped


def mean_lengths(pairs: Sequence[Pair], measure: Measure) -> tuple[float, float]:
    """The mean length of the chosen and of the rejected summaries.

    Only summaries count, since the helpful reward model reads nothing else.
    """
    chosen, rejected = _sums(_lengths(pairs, measure))
    return chosen / len(pairs), rejected / len(pairs)


def _lengths(pairs: Sequence[Pair], measure: Measure) -> Lengths:
    lengths: Lengths = []
    for pair in pairs:
        chosen = measure(split_response(pair["chosen"]).summary)
        rejected = measure(split_response(pair["rejected"]).summary)
        lengths.append((chosen, rejected))
    return lengths


def _sums(lengths: Lengths) -> list[float]:
    """The lengths of all chosen and of all rejected summaries together."""
    chosen = sum(chosen for chosen, _ in lengths)
    rejected = sum(rejected for _, rejected in lengths)
    return [chosen, rejected]


def balance(
    pairs: Sequence[Pair], measures: Mapping[str, Measure], tolerance: float
) -> tuple[list[Pair], list[Pair]]:
    """Drop pairs until chosen and rejected are of comparable length over the set, by every measure.

    Each time, the measure that is furthest off loses the pair that tips it most, so that the fewest pairs are dropped.

    Args:
        measures: name -> the length of a summary.
        tolerance: the largest |mean chosen / mean rejected - 1|.

    Returns:
        the pairs kept, in their order, and the dropped with a reason.
    """
    lengths = {name: _lengths(pairs, measure) for name, measure in measures.items()}
    sums: dict[str, list[float]] = {}
    queues: dict[tuple[str, int], Iterator[int]] = {}
    for name, of_pairs in lengths.items():
        sums[name] = _sums(of_pairs)
        queues[name, 1] = _most_lopsided_first(of_pairs, 1)
        queues[name, -1] = _most_lopsided_first(of_pairs, -1)

    # A dict, as a set that keeps its order.
    left = dict.fromkeys(range(len(pairs)))
    dropped: list[Pair] = []
    while left:
        off = {name: _imbalance(chosen, rejected) for name, (chosen, rejected) in sums.items()}
        worst = max(off, key=lambda name: abs(off[name]))
        if abs(off[worst]) <= tolerance:
            break
        sign = 1 if off[worst] > 0 else -1
        # Pairs that were dropped for another measure are passed over.
        number = next(number for number in queues[worst, sign] if number in left)
        del left[number]
        for name, of_pairs in lengths.items():
            chosen, rejected = of_pairs[number]
            sums[name][0] -= chosen
            sums[name][1] -= rejected
        dropped.append({**pairs[number], "reason": "length balance"})
    return [pairs[number] for number in left], dropped


def _most_lopsided_first(lengths: Lengths, sign: int) -> Iterator[int]:
    """The numbers of the pairs, the most lopsided first: with a longer chosen (sign 1) or rejected (-1) summary."""

    def difference(number: int) -> float:
        chosen, rejected = lengths[number]
        return sign * (chosen - rejected)

    return iter(sorted(range(len(lengths)), key=lambda number: -difference(number)))


def _imbalance(chosen: float, rejected: float) -> float:
    if not rejected:
        return float(chosen > 0)
    return chosen / rejected - 1
