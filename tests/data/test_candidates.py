"""Which of a prompt's right responses are taken."""

from __future__ import annotations

import random

import pytest

from r1pipe.data.candidates import Candidate, chat_ids, choose, pass_rates, verify

ROW = {"id": "a", "prompt": "?", "domain": "math", "language": "en", "answer": "4"}
TEXTS = [
    "add two and two, that is four",
    "add two and two, that is four, yes",
    "twice two gives four",
    "count one two three four",
]


@pytest.mark.parametrize(("prefer", "taken"), [("first", [0, 1]), ("shortest", [2, 3]), ("diverse", [0, 2])])
def test_two_of_four(prefer: str, taken: list[int]) -> None:
    candidates = [Candidate(ROW, text, "sampled") for text in TEXTS] + [
        Candidate(ROW, "quite another solution", "reuse")
    ]
    chosen = choose(candidates, per_prompt=2, prefer=prefer, rng=random.Random(0))  # type: ignore[arg-type]
    assert [number for number, one in enumerate(chosen) if not one.reason] == taken
    assert {one.reason for number, one in enumerate(chosen) if number not in taken} == {
        "enough of this prompt"
    }
    assert not choose(candidates, per_prompt=5, prefer=prefer, rng=random.Random(0))[4].reason, (
        "reuse comes last, and comes"
    )  # type: ignore[arg-type]


def test_prompts_of_two_datasets_that_are_called_the_same_are_two() -> None:
    rows = [ROW, {**ROW, "prompt": "!"}, {**ROW, "id": "a#1"}]
    candidates = [
        Candidate(rows[0], "x", "written"),
        Candidate(rows[1], "x", "reuse"),
        Candidate(rows[2], "y", "reuse"),
        Candidate(rows[0], "z", "reuse"),
    ]
    assert [one.reason for one in choose(candidates, per_prompt=1, prefer="first", rng=random.Random(0))] == [
        "",
        "",
        "",
        "enough of this prompt",
    ]
    assert chat_ids(candidates) == ["a", "a#2", "a#1", "a#3"]


def test_what_was_right_stays_right_in_the_pass_rate() -> None:
    verified = verify(
        [
            Candidate(ROW, "<think>2+2</think>4", "s"),
            Candidate(ROW, "<think>2+2</think>5", "s"),
            Candidate(ROW, "", "s", reason="refused"),
        ]
    )
    assert [one.reason for one in verified] == ["", "wrong answer", "refused"]
    assert pass_rates([verified[0].drop("long paragraph"), *verified[1:]]) == {"a": 1 / 3}
