"""Rewards that had one value for every response, so that they teach nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# What TRL logs of each reward of a rollout.
_SPREAD = re.compile(r"rewards/(.+)/std")

# The best value of most rewards, and of penalties: where all responses have it, nothing is left to learn of it.
BEST_REWARD = 1.0
BEST_PENALTY = {"repetition": 0.0, "length": 0.0}

# A control is constant on purpose.
_CONTROL = "constant"


def constant_rewards(rollouts: Sequence[Mapping[str, float]], limit: float) -> dict[str, float]:
    """The rewards that had one value in all rollouts, and not the best one: name -> the value.

    Args:
        rollouts: metric -> its mean, for each rollout.
        limit: how far values may differ to count as one.
    """
    constant = {}
    for series in rollouts[-1]:
        named = _SPREAD.fullmatch(series)
        if not named:
            continue
        # The second component of a name is called name#2.
        reward = named[1].partition("#")[0]
        spreads = [rollout[series] for rollout in rollouts if series in rollout]
        mean = f"rewards/{named[1]}/mean"
        means = [rollout[mean] for rollout in rollouts if mean in rollout]
        if reward == _CONTROL or len(means) < len(rollouts):
            continue
        if max(spreads) > limit or max(means) - min(means) > limit:
            continue
        if abs(means[0] - BEST_PENALTY.get(reward, BEST_REWARD)) > limit:
            constant[named[1]] = means[0]
    return constant
