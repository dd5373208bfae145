"""Repetition: a penalty on n-grams that come again (Demystifying Long CoT, arXiv 2502.03373, section 4.4, as a share)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from r1pipe.rewards.texts import Completion, text_of

_TOKENS = re.compile(r"[^\W\d_\u3400-\u9fff\u3040-\u30ff]+|[\u3400-\u9fff\u3040-\u30ff]|\d+|[^\w\s]")


def repeated_share(text: str, n: int) -> float:
    """Share of the text's n-grams (of words, Chinese and Japanese characters, numbers and signs) that occurred before: 0 to 1.

    >>> repeated_share("go on go on go on", 2)
    0.6
    """
    tokens = _TOKENS.findall(text.lower())
    total = len(tokens) - n + 1
    return 1 - len(set(zip(*(tokens[i:] for i in range(n)), strict=False))) / total if total > 0 else 0.0


def repetition(
    completions: Sequence[Completion], *, n: int = 6, allowed: float = 0.0, max_penalty: float = -1.0, **columns: Any
) -> list[float | None]:
    """From 0 (nothing repeats) to `max_penalty` (everything does), linear in the share of repeated n-grams above `allowed`.

    Args:
        n: length of the n-grams, in tokens of the text (not of the model).
        allowed: share of repeated n-grams that costs nothing.
        max_penalty: at most 0.
    """
    if max_penalty > 0 or not 0 <= allowed < 1 or n < 1:
        raise ValueError(
            f"repetition needs max_penalty <= 0, 0 <= allowed < 1 and n >= 1, not {max_penalty}, {allowed}, {n}"
        )
    shares = [max(0.0, repeated_share(text_of(completion), n) - allowed) / (1 - allowed) for completion in completions]
    return [share * max_penalty if share else 0.0 for share in shares]
