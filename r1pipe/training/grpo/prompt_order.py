"""Which prompts each rollout answers, and in which phase: decided before training starts."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from r1pipe.schema import GRPOParams, Phase

Row = dict[str, Any]


def phase_at(params: GRPOParams, step: int) -> Phase:
    """The phase of the next update after `step` updates; of two phases of 10 and 5 updates, 10 is in the second."""
    for phase in params.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return params.phases[-1]


def updates_per_rollout(params: GRPOParams) -> int:
    return params.minibatches_per_rollout * params.inner_epochs


def order_prompts(
    params: GRPOParams,
    sources: dict[str, list[Row]],
    seed: int,
) -> list[Row]:
    """The rows of all rollouts, one after the other.

    Each source is shuffled and read round after round, across phases, so that no prompt comes back before all prompts
    of its source were used. A rollout takes its share from each source; the largest remainders are rounded up.
    """
    groups_per_rollout = params.batch_size * params.minibatches_per_rollout // params.num_generations
    rollouts = math.ceil(params.steps / updates_per_rollout(params))
    # one stream a source for the whole stage, so that a later phase goes on where an earlier one stopped
    streams = {name: _rounds(rows, seed, name) for name, rows in sources.items()}

    ordered: list[Row] = []
    for rollout in range(rollouts):
        phase = phase_at(params, rollout * updates_per_rollout(params))
        for name, count in _shares(phase.prompts, groups_per_rollout).items():
            ordered += [next(streams[name]) for _ in range(count)]
    return ordered


def spare_prompts(
    params: GRPOParams,
    sources: dict[str, list[Row]],
    seed: int,
    rollout: int,
) -> Iterator[Row]:
    """Further prompts, without end, for a rollout whose silent groups are replaced, by the shares of its phase.

    They follow from the seed and the rollout's number alone, so a run that is resumed uses the same prompts.
    """
    phase = phase_at(params, rollout * updates_per_rollout(params))
    names = list(phase.prompts)
    shares = list(phase.prompts.values())
    generator = random.Random(f"{seed}/spare/{rollout}")
    streams = {name: _rounds(sources[name], seed, f"{name}/spare/{rollout}") for name in names}
    # A stream of random numbers of its own: how many prompts other rollouts needed changes nothing.
    while True:
        (name,) = generator.choices(names, shares)
        yield next(streams[name])


def _rounds(
    rows: list[Row],
    seed: int,
    name: str,
) -> Iterator[Row]:
    """All rows in an order drawn at random, then all in another, without end."""
    generator = random.Random(f"{seed}/{name}")
    while True:
        yield from generator.sample(rows, len(rows))


def _shares(shares: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers in proportion to the shares that add up to `total`.

    >>> _shares({"a": 2, "b": 1}, 10)
    {'a': 7, 'b': 3}
    """
    whole = sum(shares.values())
    exact = {name: total * share / whole for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    # what rounding down has left over
    missing = total - sum(counts.values())
    largest_remainder_first = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in largest_remainder_first[:missing]:
        counts[name] += 1
    return counts
