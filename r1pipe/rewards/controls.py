"""Controls that carry no signal: what a gain under them is worth (Spurious Rewards, arXiv 2506.10947)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from r1pipe.rewards.texts import Completion, text_of


def constant(completions: Sequence[Completion], *, value: float = 1.0, **columns: Any) -> list[float | None]:
    """The same for everyone; all advantages are 0."""
    return [value] * len(completions)


def random_reward(
    completions: Sequence[Completion], *, probability: float = 0.5, seed: int = 0, **columns: Any
) -> list[float | None]:
    """1.0 with the given probability, else 0.0. A function of text, place in the batch and seed, so that it can be repeated."""
    rewards: list[float | None] = []
    for i, completion in enumerate(completions):
        digest = hashlib.blake2b(f"{seed}\0{i}\0{text_of(completion)}".encode(), digest_size=8).digest()
        rewards.append(float(int.from_bytes(digest, "big") < probability * 2**64))
    return rewards
