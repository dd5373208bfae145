"""Repetition: a penalty on n-grams that occur again.

After Demystifying Long CoT (arXiv 2502.03373, section 4.4), here as a share of the response's n-grams.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from r1pipe.errors import ConfigError
from r1pipe.rewards.texts import Completion, text_of

# Words, single Chinese and Japanese characters, numbers, single signs.
_TOKENS = re.compile(r"[^\W\d_\u3400-\u9fff\u3040-\u30ff]+|[\u3400-\u9fff\u3040-\u30ff]|\d+|[^\w\s]")


def repeated_share(text: str, n: int) -> float:
    """The share of the text's n-grams that occurred before, 0 to 1.

    An n-gram is made of words, Chinese and Japanese characters, numbers and signs, not of the model's tokens.

    >>> repeated_share("go on go on go on", 2)
    0.6
    """
    tokens = _TOKENS.findall(text.lower())
    total = len(tokens) - n + 1
    if total <= 0:
        return 0.0
    shifted = [tokens[i:] for i in range(n)]
    distinct = set(zip(*shifted, strict=False))
    return 1 - len(distinct) / total


def repetition(
    completions: Sequence[Completion],
    *,
    n: int = 6,
    allowed: float = 0.0,
    max_penalty: float = -1.0,
    **columns: Any,
) -> list[float | None]:
    """From 0 (nothing repeats) to `max_penalty` (everything does), linear in the repeated share above `allowed`.

    Args:
        n: length of the n-grams, in words and signs (see `repeated_share`).
        allowed: the share of repeated n-grams that costs nothing.
        max_penalty: at most 0.

    Raises:
        ConfigError: a parameter is out of its range.
    """
    if max_penalty > 0 or not 0 <= allowed < 1 or n < 1:
        raise ConfigError(
            f"repetition needs max_penalty <= 0, 0 <= allowed < 1 and n >= 1, not {max_penalty}, {allowed}, {n}"
        )
    rewards: list[float | None] = []
    for completion in completions:
        share = max(0.0, repeated_share(text_of(completion), n) - allowed) / (1 - allowed)
        # Without the condition the penalty of nothing would be -0.0.
        rewards.append(share * max_penalty if share else 0.0)
    return rewards
