"""Which prompts each rollout answers, and under which phase: decided before training starts."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

from r1pipe.schema import GRPOParams, Phase


def phase_at(params: GRPOParams, step: int) -> Phase:
    """The phase that the update after `step` updates belongs to.

    >>> # two phases of 10 and 5 updates: update 10 (counted from 0) is the second phase's first
    """
    for phase in params.phases:
        if step < phase.steps:
            return phase
        step -= phase.steps
    return params.phases[-1]


def updates_per_rollout(params: GRPOParams) -> int:
    return params.minibatches_per_rollout * params.inner_epochs


def order_prompts(params: GRPOParams, sources: dict[str, list[dict[str, Any]]], seed: int) -> list[dict[str, Any]]:
    """The rows of all rollouts, one after the other.

    Each source is shuffled and read round after round, across phases, so that no prompt comes back before all of its
    source have been asked. A rollout takes from each source its share, the largest remainders rounding up.
    """
    per_rollout = params.batch_size * params.minibatches_per_rollout // params.num_generations
    streams = {name: _rounds(rows, seed, name) for name, rows in sources.items()}
    ordered: list[dict[str, Any]] = []
    for rollout in range(math.ceil(params.steps / updates_per_rollout(params))):
        phase = phase_at(params, rollout * updates_per_rollout(params))
        for name, count in _shares(phase.prompts, per_rollout).items():
            ordered += [next(streams[name]) for _ in range(count)]
    return ordered


def spare_prompts(
    params: GRPOParams, sources: dict[str, list[dict[str, Any]]], seed: int, rollout: int
) -> Iterator[dict[str, Any]]:
    """Further prompts for a rollout whose groups are replaced, without end, by the phase's shares.

    They follow from the seed and the rollout's number alone, so a run that is resumed asks the same ones.
    """
    phase = phase_at(params, rollout * updates_per_rollout(params))
    draw = random.Random(f"{seed}/spare/{rollout}")
    streams = {name: _rounds(sources[name], seed, f"{name}/spare/{rollout}") for name in phase.prompts}
    while True:
        yield next(streams[draw.choices(list(phase.prompts), list(phase.prompts.values()))[0]])


def _rounds(rows: list[dict[str, Any]], seed: int, name: str) -> Iterator[dict[str, Any]]:
    draw = random.Random(f"{seed}/{name}")
    while True:
        yield from draw.sample(rows, len(rows))


def _shares(shares: dict[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total`.

    >>> _shares({"a": 2, "b": 1}, 10)
    {'a': 7, 'b': 3}
    """
    whole = sum(shares.values())
    exact = {name: total * share / whole for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda n: counts[n] - exact[n])[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
