"""What two rounds of rows have in common, and how varied their responses are."""

from __future__ import annotations

from typing import Any

import pytest

from r1pipe.data.mix_comparison import compare_rounds


def chat(problem: str, response: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": problem}, {"role": "assistant", "content": response}]}


BEFORE = [
    chat("one", "a b c d e"),
    chat("two", "f g h i j"),
    chat("three", "k l m n o"),
]


def compare(now: list[dict[str, Any]], before: list[dict[str, Any]] = BEFORE) -> dict[str, float]:
    return compare_rounds(lambda: now, lambda: before)


def test_the_same_rows_are_known() -> None:
    numbers = compare(BEFORE)
    assert numbers["known_problems"] == numbers["known_rows"] == 1.0
    assert numbers["distinct_4_grams"] == numbers["distinct_4_grams_before"] == 1.0


def test_rows_count_as_known_by_problem_and_response() -> None:
    numbers = compare(
        [chat("one", "a b c d e"), chat("two", "a b c d e"), chat("four", "x"), chat("five", "x")]
    )
    assert numbers["known_problems"] == 0.5
    assert numbers["known_rows"] == 0.25


def test_different_responses_are_counted_by_problem() -> None:
    now = [chat("one", "x"), chat("one", "x"), chat("one", "y"), chat("two", "x")]
    numbers = compare(now)
    assert (numbers["problems"], numbers["responses_a_problem"]) == (2, 1.5)
    assert (numbers["problems_before"], numbers["responses_a_problem_before"]) == (3, 1.0)


def test_a_narrowed_round_has_fewer_4_grams_on_the_same_problems() -> None:
    now = [chat(problem, "a b c d e") for problem in ("one", "two", "three", "new")]
    numbers = compare(now)
    # six 4-grams, two of them different
    assert numbers["distinct_4_grams"] == pytest.approx(1 / 3, abs=1e-4)
    assert numbers["distinct_4_grams_before"] == 1.0


def test_without_a_common_problem_words_are_not_compared() -> None:
    numbers = compare([chat("four", "x")])
    assert numbers["known_problems"] == numbers["known_rows"] == 0.0
    assert "distinct_4_grams" not in numbers


def test_a_turn_before_is_part_of_the_problem() -> None:
    first = {"role": "user", "content": "hello"}
    longer = {"messages": [first, *chat("one", "a b c d e")["messages"]]}
    assert compare([longer])["known_problems"] == 0.0
