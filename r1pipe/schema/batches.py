"""How a global batch is split over ranks and forward passes."""

from __future__ import annotations

import math

from r1pipe.errors import ConfigError


def split_batch(
    batch_size: int, world_size: int, microbatch: int | None, default: int, group: int = 1
) -> tuple[int, int]:
    """Split a global batch.

    Args:
        batch_size: sequences of one update, over all ranks.
        world_size: ranks.
        microbatch: sequences of one forward pass on a rank, as the config states it; None = the largest divisor of the
            rank's share that is at most `default`.
        default: see `microbatch`.
        group: sequences that belong together, as the responses to one prompt. The batch is a multiple of it, and so are
            the sizes that an error suggests.

    Returns:
        Sequences of one forward pass on a rank, and the number of forward passes in an update.

    Raises:
        ConfigError: the batch cannot be divided over the ranks, or a rank's share over the microbatch.
    """
    if batch_size % world_size:
        unit = math.lcm(world_size, group)
        below = batch_size // unit * unit
        sizes = f"{below} and {below + unit}" if below else str(unit)
        fewer_ranks = max(n for n in range(1, world_size + 1) if batch_size % n == 0)
        raise ConfigError(
            f"batch_size {batch_size} does not divide over {world_size} ranks",
            fix=f"nearest sizes: {sizes}; or {fewer_ranks} ranks",
        )

    share = batch_size // world_size
    divisors = [n for n in range(1, share + 1) if share % n == 0]
    if microbatch is None:
        microbatch = max(n for n in divisors if n <= default)
    if share % microbatch:
        below = max(n for n in divisors if n <= microbatch)
        above = min((n for n in divisors if n > microbatch), default=share)
        sizes = str(below) if below == above else f"{below} or {above}"
        raise ConfigError(
            f"a rank's share of the batch, {share}, is not a multiple of microbatch {microbatch}",
            fix=f"nearest: {sizes}, or leave microbatch out",
        )
    return microbatch, share // microbatch
