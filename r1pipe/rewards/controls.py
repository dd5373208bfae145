"""Controls that carry no signal: they show how much of a gain has nothing to do with the reward.

Spurious Rewards (arXiv 2506.10947): some models improve under random rewards as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from r1pipe.rewards.texts import Completion, text_of


def constant(
    completions: Sequence[Completion],
    *,
    value: float = 1.0,
    **columns: Any,
) -> list[float | None]:
    """The same reward for every response; all advantages are 0."""
    return [value] * len(completions)


def random_reward(
    completions: Sequence[Completion],
    *,
    probability: float = 0.5,
    seed: int = 0,
    **columns: Any,
) -> list[float | None]:
    """1.0 with the given probability, else 0.0.

    A function of the text, its place in the batch and the seed, so that a run can be repeated.
    """
    rewards: list[float | None] = []
    for place, completion in enumerate(completions):
        key = f"{seed}\0{place}\0{text_of(completion)}"
        # hash() of a string differs from process to process.
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        draw = int.from_bytes(digest, "big")
        rewards.append(float(draw < probability * 2**64))
    return rewards
