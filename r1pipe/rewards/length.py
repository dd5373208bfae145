"""Length: soft overlong punishment (DAPO, arXiv 2503.14476, eq. 13) or cosine (arXiv 2502.03373, section 4.1).

The length of a response is its number of tokens: the column `completion_ids` that TRL passes, or `tokens`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.texts import Completion


def length(
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int] | None] | None = None,
    tokens: Sequence[int | None] | None = None,
    answer: Sequence[Any] | None = None,
    *,
    shape: Literal["overlong", "cosine"] = "overlong",
    max_tokens: int,
    soft_tokens: int | None = None,
    right: tuple[float, float] = (1.0, 0.5),
    wrong: tuple[float, float] = (-1.0, -0.5),
    **columns: Any,
) -> list[float | None]:
    """Reward by length in tokens; None where the length is not known.

    Args:
        completion_ids: token ids of each response.
        tokens: number of tokens of each response; read where there are no `completion_ids`.
        answer: gold answers, for the cosine.
        shape: `overlong`: 0 up to max_tokens - soft_tokens, then linear to -1 at max_tokens. `cosine`: half a cosine
            from the first to the second value of `right` or `wrong`, by whether the final answer is right; None where
            that is not known.
        max_tokens: the hard limit, tokens.
        soft_tokens: width of the punished interval, tokens; none = max_tokens / 5 (DAPO: 4,096 of 20,480).
        right: value at length 0 and at max_tokens of a right answer.
        wrong: the same of a wrong answer.
    """
    sizes = _sizes(len(completions), completion_ids, tokens)
    if shape == "overlong":
        soft = max(1, max_tokens // 5 if soft_tokens is None else soft_tokens)
        return [None if size is None else _overlong(size, max_tokens, soft) for size in sizes]

    # The cosine rewards short right answers and long wrong ones: more thinking where it has not succeeded yet.
    verdicts = accuracy(completions, answer)
    rewards: list[float | None] = []
    for size, verdict in zip(sizes, verdicts, strict=True):
        if size is None or verdict is None:
            rewards.append(None)
            continue
        start, end = right if verdict == 1.0 else wrong
        angle = math.pi * min(1.0, size / max_tokens)
        rewards.append(end + 0.5 * (start - end) * (1 + math.cos(angle)))
    return rewards


def _sizes(
    count: int,
    completion_ids: Sequence[Sequence[int] | None] | None,
    tokens: Sequence[int | None] | None,
) -> list[int | None]:
    if completion_ids is not None:
        return [None if ids is None else len(ids) for ids in completion_ids]
    if tokens is not None:
        return list(tokens)
    warnings.warn(
        "the length reward cannot judge: the rows have neither `completion_ids` nor `tokens`", stacklevel=3
    )
    return [None] * count


def _overlong(
    size: int,
    max_tokens: int,
    soft_tokens: int,
) -> float:
    excess = size - (max_tokens - soft_tokens)
    penalty = min(1.0, max(0.0, excess / soft_tokens))
    return -penalty + 0.0  # 0.0 and not -0.0 where nothing is punished
