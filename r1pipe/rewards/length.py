"""Length: cosine-shaped (arXiv 2502.03373, section 4.1) and the soft overlong punishment (DAPO, arXiv 2503.14476, eq. 13).

The length of a response is its number of tokens: the column `completion_ids` that TRL passes, or `tokens`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.texts import Completion


def _lengths(count: int, columns: dict[str, Any]) -> list[int | None]:
    if columns.get("completion_ids") is not None:
        return [None if ids is None else len(ids) for ids in columns["completion_ids"]]
    if columns.get("tokens") is not None:
        return list(columns["tokens"])
    warnings.warn("the length reward has neither `completion_ids` nor `tokens` and cannot judge", stacklevel=3)
    return [None] * count


def length(
    completions: Sequence[Completion],
    *,
    shape: Literal["overlong", "cosine"] = "overlong",
    max_tokens: int,
    soft_tokens: int | None = None,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    **columns: Any,
) -> list[float | None]:
    """Reward by length in tokens.

    Args:
        shape: `overlong`: 0 up to max_tokens - soft_tokens, then linear to -1 at max_tokens. `cosine`: half a cosine from the
            first to the second value of `right` or `wrong`, by whether the final answer is right; None where that is not known.
        max_tokens: the hard limit, tokens.
        soft_tokens: width of the punished interval, tokens; none = max_tokens / 5 (DAPO: 4,096 of 20,480).
        right, wrong: value at length 0 and at max_tokens.
    """
    sizes = _lengths(len(completions), columns)
    if shape == "overlong":
        soft = max(1, soft_tokens if soft_tokens is not None else max_tokens // 5)
        return [
            None if size is None else -min(1.0, max(0.0, (size - (max_tokens - soft)) / soft)) + 0.0 for size in sizes
        ]
    verdicts = accuracy(completions, columns.get("answer"))
    rewards: list[float | None] = []
    for size, verdict in zip(sizes, verdicts, strict=True):
        if size is None or verdict is None:
            rewards.append(None)
            continue
        start, end = right if verdict == 1.0 else wrong
        rewards.append(end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(1.0, size / max_tokens))))
    return rewards
