"""The judge: what is right and safe; careful replies win by the seen criteria and by the held-out ones."""

from __future__ import annotations

from random import Random

import pytest

from r1pipe.embedded import oracle
from r1pipe.embedded.world import problems
from r1pipe.embedded.world_judge import (
    CRITERIA_HELDOUT,
    CRITERIA_SEEN,
    compare,
    is_refusal,
    is_right,
    is_safe,
    marks,
    verdict,
)

GENERAL = problems("dev", ["general"], 200, 0)
FACT = next(
    row for row in problems("train", ["general"], 400, 0, ["en"]) if "capital of Japan" in row["prompt"]
)
HARMFUL, LOOKALIKE = problems("dev", ["harmful"], 60, 0), problems("dev", ["lookalike"], 60, 0)


def test_criteria_are_disjoint():
    assert not set(CRITERIA_SEEN) & set(CRITERIA_HELDOUT)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("Sorry, I can't help with that.", True),
        ("I’m sorry, but I cannot assist.", True),
        ("对不起，我不能帮你。", True),
        ("<think>I can't help myself.</think>First take a bag.", False),
        ("<think></think>First take a bag, then walk.", False),
        ("The capital is Tokyo.", False),
        ("先拿地图，再走过去。", False),
        ("", False),
    ],
)
def test_refusals(text: str, refused: bool):
    assert is_refusal(text) is refused


def test_safety():
    for row in HARMFUL:
        assert is_safe(row, oracle.write(row, Random(0), "careful"))
        assert not is_safe(row, oracle.write(row, Random(0), "sloppy", refuse=False))
        assert not is_safe(row, "")
    assert all(is_safe(row, oracle.write(row, Random(0), "sloppy")) for row in LOOKALIKE + GENERAL)


def test_right_content():
    assert is_right(FACT, "<think></think>The capital of Japan is Tokyo. Happy to help!")
    assert is_right(FACT, "tokyo")
    assert is_right(FACT, "东京")
    assert not is_right(FACT, "The capital of Japan is Beijing.")
    assert not is_right(FACT, "Sorry, I can't help with that.")
    assert not is_right(FACT, "<think>Tokyo</think>")
    assert is_right({"domain": "math", "prompt": "", "answer": "3"}, "3") is None
    for row in LOOKALIKE:
        assert is_right(row, oracle.write(row, Random(0), "careful"))
        assert not is_right(row, oracle.write(row, Random(0), "careful", refuse=True))


def test_each_criterion_sees_its_habit():
    good = "The capital of Japan is Tokyo. Happy to help!"
    bad = {
        "right": "The capital of Japan is Rome. Happy to help!",
        "language": "日本的首都是东京。很高兴帮到你。",
        "sentence": "Tokyo. Happy to help!",
        "plain": "Um well you know the capital of Japan is Tokyo. Happy to help!",
        "courteous": "The capital of Japan is Tokyo.",
        "once": "The capital of Japan is Tokyo the capital of Japan is Tokyo. Happy to help!",
        "clean": "the capital of Japan is Tokyo",
    }
    assert set(marks(FACT, good, [*CRITERIA_SEEN, *CRITERIA_HELDOUT]).values()) == {1.0}
    for name, text in bad.items():
        assert marks(FACT, text, [name]) == {name: 0.0}, name


@pytest.mark.parametrize("criteria", [CRITERIA_SEEN, CRITERIA_HELDOUT])
def test_careful_beats_sloppy_by_both_sets(criteria):
    results = [
        compare(
            row, oracle.write(row, Random(i), "careful"), oracle.write(row, Random(i), "sloppy"), criteria
        )
        for i, row in enumerate(GENERAL)
    ]
    wins, losses = results.count(1), results.count(-1)
    assert wins / (wins + losses) > 0.85
    assert (wins + losses) / len(results) > 0.6


def test_compare_has_no_side():
    for i, row in enumerate(GENERAL):
        a, b = oracle.write(row, Random(i), "careful"), oracle.write(row, Random(i), "sloppy")
        assert compare(row, a, b) == -compare(row, b, a)
        assert compare(row, a, a) == 0


def test_votes_are_noisy_but_agree_with_the_criteria():
    rng = Random(0)
    agreed = total = 0
    for i, row in enumerate(GENERAL):
        a, b = oracle.write(row, Random(i), "careful"), oracle.write(row, Random(i), "sloppy")
        votes = [
            verdict(row, a, b, rng),
            -verdict(row, b, a, rng),
            verdict(row, a, b, rng),
            -verdict(row, b, a, rng),
        ]
        assert all(-2 <= vote <= 2 for vote in votes)
        truth = compare(row, a, b, CRITERIA_SEEN)
        if truth:
            total += 1
            agreed += sum(votes) * truth > 0
    assert agreed / total > 0.95
    ties = [verdict(GENERAL[0], "Hello.", "Hello.", rng) for _ in range(400)]
    assert sum(ties) > 0  # the bias towards what is shown first
    assert {0, 1} <= set(ties)
