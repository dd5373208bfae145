"""Means, standard errors by problem, votes and paired differences against numbers worked out by hand."""

import math
import random

import pytest

from r1pipe.evaluation.stats import majority, mean_by_problem, paired_difference, wilson
from r1pipe.text.reflection import REFLECTION


def test_the_standard_error_is_by_problem():
    # Ten samples of one answer each are no more evidence than one.
    few = mean_by_problem({"a": [1], "b": [0], "c": [1], "d": [1]})
    many = mean_by_problem({"a": [1] * 10, "b": [0] * 10, "c": [1] * 10, "d": [1] * 10})
    assert (
        few == many and few.mean == 0.75 and few.stderr == pytest.approx(0.25)
    )  # sqrt(0.75 * 0.25 * 4 / 3 / 4)


def test_unequal_samples_weigh_by_problem():
    assert mean_by_problem({"a": [1, 1, 1], "b": [0]}).mean == 0.5
    assert math.isnan(mean_by_problem({}).mean)


def test_paired_difference_covers_the_truth():
    rng = random.Random(0)
    covered = 0
    for _ in range(300):
        easy = {str(i): rng.random() for i in range(200)}
        a = {i: [float(rng.random() < p)] for i, p in easy.items()}
        b = {i: [float(rng.random() < p * 0.8)] for i, p in easy.items()}
        found = paired_difference(a, b)
        covered += found.low <= 0.1 <= found.high  # mean of p - 0.8 p is 0.1
    assert 0.91 <= covered / 300 <= 0.98


def test_paired_difference_uses_what_both_have():
    found = paired_difference({"a": [1], "b": [1], "c": [1]}, {"b": [0], "c": [1], "d": [0]})
    assert found.mean == 0.5 and found.n == 2


def test_majority():
    assert majority(["7", "8", "8", None, None, None]) == "8"
    assert majority(["7", "8"]) == "7" and majority([None]) is None


def test_wilson():
    low, high = wilson(60, 40)
    assert low == pytest.approx(0.502, abs=0.001) and high == pytest.approx(0.691, abs=0.001)
    assert wilson(0, 0) == (0.0, 1.0)


def test_reflection_words():
    assert (
        REFLECTION.search("Wait, that is 14.")
        and REFLECTION.search("等等，再算")
        and REFLECTION.search("let me check")
    )
    assert not REFLECTION.search("the waiter has a checkered button")


def test_the_interval_holds_its_own_share_at_the_ends():
    """34 of 34 gave an upper end of 0.9999999999999999."""
    for wins in range(1, 200):
        low, high = wilson(wins, 0)
        assert low <= 1.0 <= high
        assert wilson(0, wins)[0] <= 0.0
