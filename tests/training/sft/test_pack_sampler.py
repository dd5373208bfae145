"""Packs hold every row once, in equal numbers and nearly equal tokens a rank."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from r1pipe.errors import ConfigError
from r1pipe.training.sft.pack_sampler import (
    PackSampler,
    PaddedSampler,
    balanced_pack_count,
    balanced_packs,
    best_fit_count,
)


def lognormal(n: int, seed: int = 0, longest: int = 8192) -> list[int]:
    draw = random.Random(seed)
    return [max(16, min(longest, round(draw.lognormvariate(7, 1)))) for _ in range(n)]


def samplers(
    lengths: list[int], ranks: int, batch_size: int = 32, updates: int = 6, pack_tokens: int = 8192
) -> list[PackSampler]:
    return [
        PackSampler(
            lengths,
            batch_size=batch_size,
            updates=updates,
            ranks=ranks,
            rank=rank,
            pack_tokens=pack_tokens,
            seed=3,
        )
        for rank in range(ranks)
    ]


def test_best_fit_is_as_tight_as_known_cases() -> None:
    assert best_fit_count([7, 6, 4, 3], 10) == 2
    assert best_fit_count([5] * 6, 10) == 3
    assert best_fit_count([10, 1], 10) == 2
    assert best_fit_count(lognormal(500), 16384) <= sum(lognormal(500)) / 16384 * 1.02 + 1


def test_balanced_packs_lose_nothing_and_differ_little() -> None:
    lengths = lognormal(128)
    packs = balanced_packs(lengths, 16)
    assert sorted(i for pack in packs for i in pack) == list(range(128))
    loads = [sum(lengths[i] for i in pack) for pack in packs]
    assert loads == sorted(loads, reverse=True)
    assert max(loads) <= 1.02 * min(loads)


def test_more_packs_where_evening_out_overflows() -> None:
    """Best fit lays 6+4, 5+5 and 3+3+4 into 3 packs of 10. Balanced packs begin with 6+3 and 5+4, and must fit too."""
    lengths = [6, 5, 5, 4, 4, 3, 3]
    count = balanced_pack_count(lengths, 1, 10)
    assert max(sum(lengths[i] for i in pack) for pack in balanced_packs(lengths, count)) <= 10
    assert balanced_pack_count(lengths, 4, 10) == 4


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_row_once_an_epoch_whatever_the_ranks(ranks: int) -> None:
    lengths = lognormal(96)
    # 6 updates of 32 rows are two epochs of 96.
    of_ranks = samplers(lengths, ranks)
    drawn = Counter(row for sampler in of_ranks for pack in sampler for row in pack)
    assert drawn == Counter({row: 2 for row in range(96)})
    assert (
        {len(list(sampler)) for sampler in of_ranks} == {len(of_ranks[0])} == {6 * of_ranks[0].accumulation}
    )


def test_an_update_holds_the_same_rows_on_any_number_of_ranks() -> None:
    """So that gradients do not depend on how many GPUs there are."""

    def updates(ranks: int) -> list[list[int]]:
        of_ranks = samplers(lognormal(100), ranks)
        passes_of_ranks = [list(sampler) for sampler in of_ranks]
        size = of_ranks[0].accumulation
        rows_of_updates = []
        for update in range(6):
            packs = [
                pack for passes in passes_of_ranks for pack in passes[update * size : (update + 1) * size]
            ]
            rows_of_updates.append(sorted(row for pack in packs for row in pack))
        return rows_of_updates

    assert updates(1) == updates(2) == updates(4)


def test_ranks_get_equal_chunks_and_nearly_equal_tokens() -> None:
    lengths = lognormal(512)
    of_ranks = samplers(lengths, ranks=4, batch_size=128, updates=4, pack_tokens=16384)
    size = of_ranks[0].accumulation
    passes_of_ranks = [list(sampler) for sampler in of_ranks]

    def tokens(packs: list[list[int]]) -> list[int]:
        return [sum(lengths[row] for row in pack) for pack in packs]

    for update in range(4):
        tokens_of_ranks = [
            sum(tokens(passes[update * size : (update + 1) * size])) for passes in passes_of_ranks
        ]
        assert max(tokens_of_ranks) <= 1.02 * min(tokens_of_ranks)
    largest = max(max(tokens(passes)) for passes in passes_of_ranks)
    assert largest == of_ranks[0].capacity <= 16384


def test_a_row_longer_than_a_pack_has_its_own_length() -> None:
    sampler = PackSampler([50, 10, 10, 10], batch_size=4, updates=1, ranks=1, rank=0, pack_tokens=20, seed=0)
    assert sampler.capacity == 50
    assert sorted(len(pack) for pack in sampler) == [1, 3]


def test_the_order_is_that_of_the_seed() -> None:
    lengths = lognormal(64)

    def passes(seed: int) -> list[list[int]]:
        return list(
            PackSampler(lengths, batch_size=16, updates=4, ranks=1, rank=0, pack_tokens=8192, seed=seed)
        )

    assert passes(1) == passes(1) != passes(2)


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_sizes() -> None:
    with pytest.raises(ConfigError, match="batch_size 10 does not divide over 4 ranks") as caught:
        PackSampler([1] * 20, batch_size=10, updates=1, ranks=4, rank=0, pack_tokens=8, seed=0)
    assert caught.value.fix == "nearest sizes: 8 and 12"


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (1, 4), (2, 2)])
def test_a_padded_update_holds_the_rows_of_a_packed_one(ranks: int, accumulation: int) -> None:
    """A model is trained the same on a CPU and on a GPU. Updates of similar length trained it worse."""
    lengths = lognormal(100)
    options = {"batch_size": 32, "updates": 6, "ranks": ranks, "accumulation": accumulation, "seed": 3}
    passes_of_ranks = [list(PaddedSampler(lengths, rank=rank, **options)) for rank in range(ranks)]
    assert {len(rows) for passes in passes_of_ranks for rows in passes} == {32 // (ranks * accumulation)}

    for update, rows in enumerate(samplers(lengths, 1)[0].batches()):
        trained: list[int] = []
        for step in range(accumulation):
            for passes in passes_of_ranks:
                trained += passes[update * accumulation + step]
        assert sorted(trained) == sorted(rows)
        in_order = [lengths[row] for row in trained]
        assert in_order == sorted(in_order, reverse=True), "rows of similar length share a pass"
