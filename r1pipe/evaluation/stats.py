"""Means with standard errors by problem, pass@k, votes, and paired differences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

# Two-sided 95 %.
Z95 = NormalDist().inv_cdf(0.975)


class Mean(NamedTuple):
    """A mean over problems, its standard error, and the number of problems."""

    mean: float
    stderr: float
    n: int


class Difference(NamedTuple):
    """mean(a - b) over the problems that both have, with a 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


def mean_by_problem(values: Mapping[str, Sequence[float]]) -> Mean:
    """Return the mean over problems of the mean over a problem's samples: pass@1 where values are 0 or 1 (v2 D.1).

    The standard error is that of the problems' means, since samples of one problem are not independent.

    >>> mean_by_problem({"a": [1, 1], "b": [0, 1]})
    Mean(mean=0.75, stderr=0.25, n=2)
    """
    means = [sum(sample) / len(sample) for sample in values.values() if sample]
    mean, stderr = _mean_stderr(means)
    return Mean(mean, stderr, len(means))


def pass_at_k(values: Mapping[str, Sequence[float]], k: int) -> Mean:
    """Return the share of problems that at least one of k samples solves, without bias (Chen et al. 2021, eq. 1).

    Of n samples, c of them right, the k are any k; trying only the first k would waste the others. Problems with fewer
    than k samples are left out.

    Args:
        values: problem -> 1 (right) or 0 for each sample.
        k: samples that are tried.

    >>> pass_at_k({"a": [1, 0, 0, 0], "b": [0, 0, 0, 0]}, 2).mean
    0.25
    """
    chances: list[float] = []
    for sample in values.values():
        n = len(sample)
        if n < k:
            continue
        wrong = sum(value == 0 for value in sample)
        # Whole numbers of any size, so nothing overflows.
        all_wrong = math.comb(wrong, k) / math.comb(n, k)
        chances.append(1 - all_wrong)
    mean, stderr = _mean_stderr(chances)
    return Mean(mean, stderr, len(chances))


def paired_difference(a: Mapping[str, Sequence[float]], b: Mapping[str, Sequence[float]]) -> Difference:
    """Return how much higher a is than b on the problems that both have.

    The interval is that of a normal distribution: there are hundreds of problems.
    """
    shared = [problem for problem in a if a[problem] and b.get(problem)]
    deltas = [sum(a[problem]) / len(a[problem]) - sum(b[problem]) / len(b[problem]) for problem in shared]
    mean, stderr = _mean_stderr(deltas)
    return Difference(mean, mean - Z95 * stderr, mean + Z95 * stderr, len(shared))


def majority(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent answer, for cons@k; of equally frequent ones the earliest.

    None, a missing answer, is returned only where there is no other.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=lambda answer: counts[answer]) if counts else None


def wilson(wins: int, losses: int) -> tuple[float, float]:
    """Return the 95 % interval of wins / (wins + losses): Wilson's, which stays inside 0..1."""
    n = wins + losses
    if not n:
        return 0.0, 1.0
    share = wins / n
    z2 = Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At 0 and 1 rounding may leave the share outside.
    return min(middle - half, share), max(middle + half, share)


def _mean_stderr(values: Sequence[float]) -> tuple[float, float]:
    n = len(values)
    if not n:
        return math.nan, math.nan
    mean = sum(values) / n
    if n == 1:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)
