"""Rewards: pure functions from responses to numbers.

`REWARDS[name](completions, **columns) -> list[float | None]` has TRL's signature. None means "cannot judge", which is
not 0. scoring.py combines several rewards into one number a response; checks.py audits them before they train anything.

`helpful` and `harmless` are not functions of the text alone: a reward model computes them, which the stage loads and
hands to `scoring.score`. `judge`, and `code` with a remote executor, ask a service over HTTP and keep one client a
process.

A new reward is a module here, a line in REWARDS and a test.
"""

from __future__ import annotations

from collections.abc import Callable

from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.code import code
from r1pipe.rewards.controls import constant, random_reward
from r1pipe.rewards.format import format_reward
from r1pipe.rewards.judge import judge
from r1pipe.rewards.language import language
from r1pipe.rewards.length import length
from r1pipe.rewards.reasoning_gym import reasoning_gym
from r1pipe.rewards.repetition import repetition
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN

Reward = Callable[..., list[float | None]]

REWARDS: dict[str, Reward] = {
    "accuracy": accuracy,
    "code": code,
    "reasoning_gym": reasoning_gym,
    "format": format_reward,
    "language": language,
    "repetition": repetition,
    "length": length,
    "judge": judge,
    "constant": constant,
    "random": random_reward,
}

# Rewards that a model computes, and the domains that each applies to unless its spec says otherwise
# (v2 3.1: each general query is in one set or the other).
MODEL_REWARDS: dict[str, tuple[str, ...]] = {
    "helpful": (GENERAL_DOMAIN, LOOKALIKE_DOMAIN),
    "harmless": (HARMFUL_DOMAIN,),
}
# The port of an RL stage that holds the reward's model.
MODEL_PORTS = {"helpful": "helpful_rm", "harmless": "safety_rm"}

__all__ = ["MODEL_PORTS", "MODEL_REWARDS", "REWARDS", "Reward"]
