"""reasoning_gym: is the answer right by the task's own scorer? For rows that reasoning-gym made and whose answer is one of several (r1pipe/data/gym.py).

Right is full marks: the scorers' part marks, which some give for an answer inside a longer text, would teach to write more. The answer is the last
\\boxed{...} or <answer>...</answer> behind the thinking, else all that stands there. Not covered: scorers run in this process, without a limit of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.rewards.accuracy import extract
from r1pipe.rewards.texts import Completion, after_thinking, text_of


def reasoning_gym(
    completions: Sequence[Completion], gym: Sequence[Mapping[str, Any] | None] | None = None, answer: Sequence[Any] | None = None, **columns: Any
) -> list[float | None]:
    """1.0 where the scorer gives full marks, 0.0 where not, None where the row has no scorer.

    Args:
        completions: responses, as strings or TRL's message lists.
        gym: task, question and metadata of each row.
        answer: the rows' own answers, which some scorers compare with.

    >>> row = {"task": "fraction_simplification", "question": "", "metadata": {"simplified_numerator": 1, "simplified_denominator": 2, "style": "plain"}}
    >>> reasoning_gym(["<think>...</think>1/2", "2/4", "4"], gym=[row, row, None], answer=["1/2", "1/2", "4"])
    [1.0, 0.0, None]
    """
    from r1pipe.data.gym import right

    verdicts: list[float | None] = []
    for completion, entry, own in zip(completions, gym or [None] * len(completions), answer or [None] * len(completions), strict=True):
        text = text_of(completion)
        said = extract(text, "words", ("boxed", "tags")) or after_thinking(text).strip()
        verdicts.append(None if entry is None else float(right({**entry, "answer": own}, said)))
    return verdicts
