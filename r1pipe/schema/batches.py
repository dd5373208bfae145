"""Global batches over ranks: what a config states, per device, and what does not divide."""

from __future__ import annotations

import math

from r1pipe.errors import ConfigError


def split_batch(
    batch_size: int, world_size: int, microbatch: int | None, default: int, group: int = 1
) -> tuple[int, int]:
    """Global batch -> (sequences a forward pass and rank, accumulation steps).

    Args:
        microbatch: as the config states it; none = the largest divisor of a rank's share that is at most `default`.
        group: sequences that belong together (a prompt's completions): the batch is a multiple of it, and so are the sizes that are suggested.

    Raises:
        ConfigError: the batch does not divide over the ranks, or a rank's share over the microbatch.
    """
    if batch_size % world_size:
        unit = math.lcm(world_size, group)
        down = batch_size // unit * unit
        near = f"{down} and {down + unit}" if down else str(unit)
        fewer = max(n for n in range(1, world_size + 1) if batch_size % n == 0)
        raise ConfigError(
            f"batch_size {batch_size} does not divide over {world_size} ranks",
            fix=f"nearest sizes: {near}; or {fewer} ranks",
        )
    share = batch_size // world_size
    if microbatch is None:
        microbatch = next(m for m in range(min(default, share), 0, -1) if share % m == 0)
    if share % microbatch:
        near = [m for m in range(1, share + 1) if share % m == 0]
        below = max((m for m in near if m <= microbatch), default=1)
        above = min((m for m in near if m > microbatch), default=share)
        sizes = " or ".join(map(str, dict.fromkeys((below, above))))
        raise ConfigError(
            f"a rank's share of the batch, {share}, is not a multiple of microbatch {microbatch}",
            fix=f"nearest: {sizes}, or leave microbatch out",
        )
    return microbatch, share // microbatch
