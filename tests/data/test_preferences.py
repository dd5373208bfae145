"""Votes, pairs and length balance."""

import random

from r1pipe.data.preferences import balance, judge_pairs, mean_lengths, vote
from r1pipe.embedded.oracle import write
from r1pipe.embedded.world import problems
from r1pipe.embedded.world_judge import WorldJudge

ROW = {"id": "g", "prompt": "Say something.", "domain": "general", "language": "en"}


class LongerIsBetter:
    """A judge whose verdict is the sign of the length difference, plus a liking for whatever stands on the left."""

    def __init__(self, bias: int = 0) -> None:
        self.bias = bias
        self.asked = 0

    def verdict(self, row, a, b, rng):
        self.asked += 1
        longer = (len(a) > len(b)) - (len(a) < len(b))
        return max(-2, min(2, 2 * longer + self.bias))


def test_swapping_sides_cancels_position_bias():
    rng = random.Random(0)
    scores = [vote(ROW, "same", "size", LongerIsBetter(bias=2), votes=4, rng=rng) for _ in range(2000)]
    assert abs(sum(scores) / len(scores)) < 0.1  # without swapping it would be 2


def test_a_vote_knows_who_was_who():
    rng = random.Random(0)
    assert {vote(ROW, "longer", "short", LongerIsBetter(), votes=4, rng=rng) for _ in range(50)} == {2.0}
    assert {vote(ROW, "short", "longer", LongerIsBetter(), votes=4, rng=rng) for _ in range(50)} == {-2.0}


def test_only_clear_pairs_are_kept():
    judge = LongerIsBetter()
    kept, dropped = judge_pairs(
        ROW,
        ["aaa", "bbb", "c"],
        judge,
        votes=4,
        min_margin=1.0,
        comparisons=3,
        wanted=3,
        rng=random.Random(0),
    )
    assert len(kept) == 2
    assert all(len(pair["chosen"]) > len(pair["rejected"]) and pair["margin"] == 2 for pair in kept)
    assert [pair["reason"] for pair in dropped] == ["no clear preference"]
    assert judge.asked == 12
    assert len({pair["id"] for pair in kept + dropped}) == 3


def test_equal_summaries_are_not_compared():
    kept, dropped = judge_pairs(
        ROW,
        ["<think>a</think>x", "<think>b</think>x"],
        LongerIsBetter(),
        votes=4,
        min_margin=1.0,
        comparisons=3,
        wanted=3,
        rng=random.Random(0),
    )
    assert not kept
    assert not dropped


def pairs(lengths):
    return [
        {"id": str(i), "chosen": "<think></think>" + "a" * a, "rejected": "<think></think>" + "b" * b}
        for i, (a, b) in enumerate(lengths)
    ]


def test_lengths_are_balanced_by_every_measure():
    rng = random.Random(0)
    lopsided = pairs([(rng.randint(15, 45), rng.randint(10, 40)) for _ in range(400)])
    measures = {"characters": len, "tokens": lambda text: len(text) // 4 + 1}
    kept, dropped = balance(lopsided, measures, 0.05)
    assert len(kept) + len(dropped) == 400
    assert len(kept) > 100
    assert {pair["reason"] for pair in dropped} == {"length balance"}
    for measure in measures.values():
        chosen, rejected = mean_lengths(kept, measure)
        assert abs(chosen / rejected - 1) <= 0.05


def test_what_is_balanced_is_left_alone():
    even = pairs([(10, 9), (6, 6), (8, 7)])
    assert balance(even, {"characters": len}, 0.2) == (even, [])


def test_nothing_is_left_where_all_pairs_tip_one_way():
    kept, dropped = balance(pairs([(50, 1)] * 5), {"characters": len}, 0.05)
    assert not kept
    assert len(dropped) == 5


def test_the_worlds_judge_prefers_the_careful_writer():
    judge, rng = WorldJudge(), random.Random(0)
    won = {"seen": 0, "heldout": 0}
    for row in problems("train", ["general"], 200, 0):
        careful, sloppy = (write(row, rng, quality) for quality in ("careful", "sloppy"))
        assert judge.compare(row, careful, sloppy, "seen") == -judge.compare(row, sloppy, careful, "seen")
        for criteria in ("seen", "heldout"):
            won[criteria] += judge.compare(row, careful, sloppy, criteria)
    assert min(won.values()) > 80
