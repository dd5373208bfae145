"""Repetition, length and the controls."""

from __future__ import annotations

import pytest

from r1pipe.rewards.controls import constant, random_reward
from r1pipe.rewards.length import length
from r1pipe.rewards.repetition import repeated_share, repetition


def test_repetition_grows_with_the_repeated_share() -> None:
    fresh, loop = "every word of this sentence is another one", "wait " * 200
    assert repetition([fresh, loop, ""], n=3) == [0.0, pytest.approx(-0.995, abs=0.01), 0.0]
    assert repetition([loop], n=3, max_penalty=-0.5)[0] == pytest.approx(-0.5, abs=0.01)
    assert repetition(["go on go on go on"], n=2, allowed=0.6) == [0.0]
    assert repeated_share("一二三一二三", 3) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="max_penalty"):
        repetition([fresh], max_penalty=1.0)


def test_soft_overlong() -> None:
    tokens = [0, 80, 90, 100, 150, None]
    assert length([""] * 6, max_tokens=100, soft_tokens=20, tokens=tokens) == [
        0.0,
        0.0,
        -0.5,
        -1.0,
        -1.0,
        None,
    ]
    assert length(["", ""], max_tokens=10, soft_tokens=5, completion_ids=[[1] * 5, [1] * 10]) == [0.0, -1.0]


def test_cosine_prefers_short_right_and_long_wrong() -> None:
    texts = ["\\boxed{1}", "\\boxed{1}", "\\boxed{2}", "\\boxed{2}", "\\boxed{1}"]
    values = length(
        texts, shape="cosine", max_tokens=100, tokens=[0, 100, 0, 100, 5], answer=["1", "1", "1", "1", None]
    )
    assert values == [pytest.approx(1.0), pytest.approx(0.5), pytest.approx(-1.0), pytest.approx(-0.5), None]


def test_length_without_lengths_says_so() -> None:
    with pytest.warns(UserWarning, match="completion_ids"):
        assert length(["a"], max_tokens=10) == [None]


def test_controls_carry_no_signal_and_repeat() -> None:
    texts = [f"answer {i}" for i in range(2000)]
    assert set(constant(texts, value=0.3)) == {0.3}
    first = random_reward(texts, probability=0.25, seed=1)
    assert (
        first
        == random_reward(texts, probability=0.25, seed=1)
        != random_reward(texts, probability=0.25, seed=2)
    )
    assert sum(value or 0 for value in first) / len(texts) == pytest.approx(0.25, abs=0.04)
