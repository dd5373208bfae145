"""Which sequences of an update share a forward pass, and on which rank.

The paper sorts the global batch by length, spreads it over the data-parallel ranks, lays it best-fit into chunks of
fixed length, and then makes the number of chunks equal on all ranks (v2 B.1, of RL). We depart from it in one point:
packs here have no fixed length, so nothing is padding and tokens are nearly equal too.

How packs are made:

1. A global batch stays a number of sequences; they are laid into ranks x accumulation packs.
2. Best-fit decreasing says how many packs of at most `pack_tokens` the fullest batch of the training needs. The count
   is the same in every update, since the trainer and DeepSpeed accumulate a fixed number of passes.
3. Within an update, the longest sequence that is left always goes to the emptiest pack.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler

from r1pipe.errors import ConfigError


def best_fit_count(lengths: Sequence[int], capacity: int) -> int:
    """The packs of at most `capacity` tokens that best-fit decreasing needs.

    Best fit puts each sequence where it leaves the least room.

    >>> best_fit_count([6, 5, 4, 3, 2], 10)
    2
    """
    # The room that is left in each pack, in ascending order.
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        assert length <= capacity, f"a sequence of {length} tokens is longer than a pack of {capacity}"
        place = bisect_left(rooms, length)
        room = rooms.pop(place) if place < len(rooms) else capacity
        insort(rooms, room - length)
    return len(rooms)


def balanced_packs(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Lay sequences into packs of nearly equal tokens.

    Returns:
        the positions of the sequences in each of `count` packs, the fullest pack first; none of them is empty.

    >>> balanced_packs([6, 5, 4, 3, 2], 2)
    [[0, 3, 4], [1, 2]]
    """
    assert 1 <= count <= len(lengths), f"{len(lengths)} sequences do not fill {count} packs"
    longest_first = sorted(range(len(lengths)), key=lambda position: (-lengths[position], position))

    packs: list[list[int]] = [[] for _ in range(count)]
    # (tokens, number of the pack) as a heap, so that the emptiest pack comes first.
    loads = [(0, number) for number in range(count)]
    for position in longest_first:
        load, number = loads[0]
        packs[number].append(position)
        heapq.heapreplace(loads, (load + lengths[position], number))

    load_of = {number: load for load, number in loads}
    fullest_first = sorted(range(count), key=lambda number: -load_of[number])
    return [packs[number] for number in fullest_first]


def balanced_pack_count(lengths: Sequence[int], ranks: int, capacity: int) -> int:
    """The fewest packs, a multiple of the ranks, none of which `balanced_packs` fills above the capacity."""
    count = -(-best_fit_count(lengths, capacity) // ranks) * ranks
    # Balanced packs may overflow where best fit does not: it lays 6+4, 5+5 and 3+3+4, they lay 6+3 and 5+4.
    while _largest_load(lengths, balanced_packs(lengths, count)) > capacity:
        count += ranks
    return count


def _largest_load(lengths: Sequence[int], packs: list[list[int]]) -> int:
    return max(sum(lengths[position] for position in pack) for pack in packs)


class UpdateSampler(BatchRebalanceSampler):
    """Yields, for one rank, the rows of each forward pass of the whole training.

    It derives from the Trainer's own balancing sampler, because for that one the Trainer leaves batches as they are.

    An update has the same rows however they pass through the model, packed or padded, and on any number of ranks. Rows
    come in a new random order in each epoch. A batch may reach from one epoch into the next, so each row is trained
    once an epoch.

    Args:
        lengths: the tokens of each row.
        batch_size: sequences an update, over all ranks.
        updates: how many there are in the whole training.
        ranks: the data-parallel processes.
        rank: which of them this is.
        seed: of the order of rows.

    Attributes:
        accumulation: forward passes a rank and update; a subclass sets it.

    Raises:
        ConfigError: the batch does not divide over the ranks.
    """

    accumulation: int

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        updates: int,
        ranks: int,
        rank: int,
        seed: int,
    ) -> None:
        if batch_size % ranks:
            below = max(ranks, batch_size // ranks * ranks)
            raise ConfigError(
                f"batch_size {batch_size} does not divide over {ranks} ranks",
                fix=f"nearest sizes: {below} and {below + ranks}",
            )
        self.lengths = list(lengths)
        self.batch_size_global = batch_size
        self.updates = updates
        self.ranks = ranks
        self.rank = rank
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The Trainer calls this. The order of all epochs is already laid out, so there is nothing to do."""

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
        """The rows of each pass of an update.

        Returns:
            ranks x accumulation passes; each run of `ranks` passes happens at the same time, one on each rank.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[int]]:
        for rows in self.batches():
            yield from self.passes(rows)[self.rank :: self.ranks]

    def __len__(self) -> int:
        return self.updates * self.accumulation

    def _lengths_of(self, rows: list[int]) -> list[int]:
        return [self.lengths[row] for row in rows]


class PackSampler(UpdateSampler):
    """A sampler whose passes are packs of nearly equal tokens.

    Args:
        pack_tokens: the most tokens of a forward pass; a longer row has a pack of its own length.

    Attributes:
        capacity: the tokens of the largest pack of the training.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        updates: int,
        ranks: int,
        rank: int,
        pack_tokens: int,
        seed: int,
    ) -> None:
        super().__init__(lengths, batch_size=batch_size, updates=updates, ranks=ranks, rank=rank, seed=seed)
        limit = max(pack_tokens, max(self.lengths))
        most_packs = max(balanced_pack_count(self._lengths_of(rows), ranks, limit) for rows in self.batches())
        self.accumulation = most_packs // ranks
        self.capacity = max(_largest_load(self.lengths, self.passes(rows)) for rows in self.batches())

    def passes(self, rows: list[int]) -> list[list[int]]:
        packs = balanced_packs(self._lengths_of(rows), self.ranks * self.accumulation)
        dealt: list[list[int]] = []
        for start in range(0, len(packs), self.ranks):
            together = packs[start : start + self.ranks]
            # The fullest pack goes to the first rank in one turn and to the last rank in the next, so that the totals
            # of the ranks even out.
            turn = start // self.ranks
            dealt += together if turn % 2 == 0 else together[::-1]
        return [[rows[position] for position in pack] for pack in dealt]


class PaddedSampler(UpdateSampler):
    """A sampler whose passes are equal numbers of rows, those of similar length together, so that little is padding.

    Whole updates of similar length (transformers' `group_by_length`) would have less padding, and they train worse: the
    cold start of seeds 1 to 6 loses 0.041 of accuracy, 4.8 standard errors (LOG.md, 2026-11-23).

    Args:
        accumulation: passes a rank into which an update is cut.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        updates: int,
        ranks: int,
        rank: int,
        accumulation: int,
        seed: int,
    ) -> None:
        super().__init__(lengths, batch_size=batch_size, updates=updates, ranks=ranks, rank=rank, seed=seed)
        assert batch_size % (ranks * accumulation) == 0, "split_batch divides it"
        self.accumulation = accumulation

    def passes(self, rows: list[int]) -> list[list[int]]:
        size = len(rows) // (self.ranks * self.accumulation)
        longest_first = sorted(rows, key=lambda row: -self.lengths[row])
        return [longest_first[start : start + size] for start in range(0, len(rows), size)]
