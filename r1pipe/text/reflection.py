"""Words of reflection, which the paper counts to see when a model begins to look back on what it thought (v2 C.2)."""

from __future__ import annotations

import re

# Ten words that three experts chose; the Chinese ones are ours.
REFLECTION = re.compile(
    r"\b(?:wait|mistakes?|however|but|retry|errors?|verify|wrong|evaluate|check)\b|等等|不对|错了|但是|重新|检查|验证",
    re.IGNORECASE,
)


def reflective_words(text: str) -> int:
    """How many words of reflection a text holds.

    >>> reflective_words("Wait, 6*7 is 42. But let me check: 检查")
    4
    >>> reflective_words("the waiter has a checkered shirt")
    0
    """
    return sum(1 for _ in REFLECTION.finditer(text))
