"""Which sequences of a global batch share a forward pass, on which rank.

The paper sorts the global batch by length, spreads it over the data-parallel ranks, lays it best-fit into chunks of fixed length and then makes
the number of chunks equal (v2 B.1, of RL). Here chunks have no fixed length, so nothing is padding and tokens are equal too (our choice). A
global batch stays a number of sequences: they are laid into ranks x accumulation packs. Best-fit decreasing says how many packs of at most
`pack_tokens` the fullest batch of the training needs; then the longest sequence always goes to the emptiest pack. The count is the same at
every update, since the trainer and DeepSpeed accumulate a fixed number of passes.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler

from r1pipe.errors import ConfigError


def best_fit_count(lengths: Sequence[int], capacity: int) -> int:
    """Packs of at most `capacity` tokens that best-fit decreasing needs: each sequence goes where it leaves the least room.

    >>> best_fit_count([6, 5, 4, 3, 2], 10)
    2
    """
    rooms: list[int] = []  # sorted
    for length in sorted(lengths, reverse=True):
        place = bisect_left(rooms, length)
        room = rooms.pop(place) if place < len(rooms) else capacity
        assert length <= capacity, f"a sequence of {length} tokens is longer than a pack of {capacity}"
        insort(rooms, room - length)
    return len(rooms)


def balanced_packs(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Positions of the sequences in each of `count` packs, none of them empty, the fullest first.

    >>> balanced_packs([6, 5, 4, 3, 2], 2)
    [[0, 3, 4], [1, 2]]
    """
    assert 1 <= count <= len(lengths), f"{len(lengths)} sequences do not fill {count} packs"
    packs: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        load, number = loads[0]
        packs[number].append(position)
        heapq.heapreplace(loads, (load + lengths[position], number))
    fullest = dict((number, load) for load, number in loads)
    return [packs[number] for number in sorted(range(count), key=lambda n: -fullest[n])]


def balanced_pack_count(lengths: Sequence[int], ranks: int, capacity: int) -> int:
    """The fewest packs, a multiple of the ranks, that hold the batch when it is spread evenly."""
    count = -(-best_fit_count(lengths, capacity) // ranks) * ranks
    while max(sum(lengths[i] for i in pack) for pack in balanced_packs(lengths, count)) > capacity:
        count += ranks
    return count


class UpdateSampler(BatchRebalanceSampler):
    """Yields, for one rank, the rows of each forward pass of the whole training; the Trainer takes it for its own balancing sampler.

    An update has the same rows however they are passed through the model, packed or padded, and on any number of ranks. Rows come in a new random
    order each epoch, and a batch may reach from one epoch into the next, so each row is trained once an epoch.

    Args:
        lengths: tokens of each row.
        batch_size: sequences an update, over all ranks.
        updates: in the whole training.
        ranks, rank: data-parallel processes, and which of them this is.

    Attributes:
        accumulation: forward passes a rank and update; a subclass sets it.

    Raises:
        ConfigError: the batch does not divide over the ranks.
    """

    accumulation: int

    def __init__(self, lengths: Sequence[int], batch_size: int, updates: int, ranks: int, rank: int, seed: int) -> None:
        if batch_size % ranks:
            down = max(ranks, batch_size // ranks * ranks)
            raise ConfigError(
                f"batch_size {batch_size} does not divide over {ranks} ranks",
                fix=f"nearest sizes: {down} and {down + ranks}",
            )
        self.lengths, self.batch_size_global, self.updates, self.seed = list(lengths), batch_size, updates, seed
        self.ranks, self.rank, self.epoch = ranks, rank, 0

    def set_epoch(self, epoch: int) -> None:
        """The order of all epochs is already laid out."""

    def batches(self) -> Iterator[list[int]]:
        """The rows of each update."""
        draw = torch.Generator().manual_seed(self.seed)
        waiting: list[int] = []
        for _ in range(self.updates):
            while len(waiting) < self.batch_size_global:
                waiting += torch.randperm(len(self.lengths), generator=draw).tolist()
            yield waiting[: self.batch_size_global]
            waiting = waiting[self.batch_size_global :]

    def passes(self, rows: list[int]) -> list[list[int]]:
        """Of an update, ranks x accumulation: the first `ranks` of them run at the same time, one a rank."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches():
            yield from self.passes(rows)[self.rank :: self.ranks]

    def __len__(self) -> int:
        return self.updates * self.accumulation


class PackSampler(UpdateSampler):
    """Passes are packs of nearly equal tokens.

    Args:
        pack_tokens: tokens of a forward pass, at most; a longer row has a pack of its own length.

    Attributes:
        capacity: the tokens of the largest pack of the training.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, updates: int, ranks: int, rank: int, pack_tokens: int, seed: int
    ) -> None:
        super().__init__(lengths, batch_size, updates, ranks, rank, seed)
        limit = max(pack_tokens, max(self.lengths))
        self.accumulation = (
            max(balanced_pack_count([self.lengths[i] for i in rows], ranks, limit) for rows in self.batches()) // ranks
        )
        self.capacity = max(sum(self.lengths[i] for i in pack) for rows in self.batches() for pack in self.passes(rows))

    def passes(self, rows: list[int]) -> list[list[int]]:
        packs = balanced_packs([self.lengths[i] for i in rows], self.ranks * self.accumulation)
        dealt: list[list[int]] = []
        for start in range(0, len(packs), self.ranks):
            together = packs[start : start + self.ranks]
            dealt += (
                together if start // self.ranks % 2 == 0 else together[::-1]
            )  # there and back, so that totals even out
        return [[rows[i] for i in pack] for pack in dealt]


class PaddedSampler(UpdateSampler):
    """Passes are equal numbers of rows, those of like length together, so that little is padding.

    Whole batches of like length (transformers' `group_by_length`) would have less of it and train worse: LOG.md, 2026-11-23.

    Args:
        accumulation: passes a rank into which an update is cut.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, updates: int, ranks: int, rank: int, accumulation: int, seed: int
    ) -> None:
        super().__init__(lengths, batch_size, updates, ranks, rank, seed)
        assert batch_size % (ranks * accumulation) == 0, "split_batch divides it"
        self.accumulation = accumulation

    def passes(self, rows: list[int]) -> list[list[int]]:
        size = len(rows) // (self.ranks * self.accumulation)
        longest_first = sorted(rows, key=lambda i: -self.lengths[i])
        return [longest_first[start : start + size] for start in range(0, len(rows), size)]
