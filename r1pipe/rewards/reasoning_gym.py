"""reasoning_gym: is the answer right by the task's own scorer? For rows that reasoning-gym made and whose answer is one of several (r1pipe/data/gym_source.py).

Right is full marks: the scorers' part marks, which some give for an answer inside a longer text, would teach to write more. The answer is the last
\\boxed{...} or <answer>...</answer> behind the thinking, else all that stands there. Not covered: scorers run in this process, without a limit of time.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from r1pipe.errors import ConfigError, MissingToolError
from r1pipe.rewards.accuracy import extract
from r1pipe.rewards.texts import Completion, after_thinking, text_of

# Found by reading 0.1.25, with what the scorers call; sympy's parse_expr is eval as well.
EVALUATE = frozenset(
    {"binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24"}
) | frozenset({"simple_integration", "spiral_matrix", "string_insertion"})
EVALUATE_ROW = frozenset({"bitwise_arithmetic", "number_sorting"})


@cache
def task(name: str, settings: str = "{}") -> Any:
    """A task of reasoning-gym; `settings` is JSON.

    Raises:
        MissingToolError: reasoning-gym is not installed.
        ConfigError: no such task or setting, or a task that is refused (see above).
    """
    try:
        import reasoning_gym as library  # type: ignore[import-not-found]
        from reasoning_gym.factory import DATASETS  # type: ignore[import-not-found]
    except ImportError:
        raise MissingToolError("reasoning-gym is not installed", fix="pip install 'r1pipe[reasoning-gym]'") from None
    if name not in DATASETS or name == "composite":
        close = difflib.get_close_matches(name, DATASETS.keys() - {"composite"}, n=1)
        raise ConfigError(
            f"reasoning-gym has no task {name!r}",
            fix=f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(DATASETS))}",
        )
    if name in EVALUATE | EVALUATE_ROW:
        what = "what the model wrote" if name in EVALUATE else "what stands in the row"
        raise ConfigError(
            f"the scorer of reasoning-gym's {name!r} runs {what} through Python's eval", fix="use another task"
        )
    try:
        return library.create_dataset(name, **json.loads(settings))
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"reasoning-gym's {name!r} does not take these settings: {error}", fix=f"settings: {settings}"
        ) from None


def reasoning_gym(
    completions: Sequence[Completion],
    gym: Sequence[Mapping[str, Any] | None] | None = None,
    answer: Sequence[Any] | None = None,
    **columns: Any,
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
    verdicts: list[float | None] = []
    for completion, entry, own in zip(
        completions, gym or [None] * len(completions), answer or [None] * len(completions), strict=True
    ):
        text = text_of(completion)
        said = extract(text, "words", ("boxed", "tags")) or after_thinking(text).strip()
        verdicts.append(None if entry is None else float(right({**entry, "answer": own}, said)))
    return verdicts


def right(entry: dict[str, Any], answer: str | None) -> bool:
    """Whether the task's own scorer gives the answer full marks.

    Args:
        entry: task, question, metadata and answer (the task's own).
    """
    try:
        return answer is not None and task(entry["task"]).score_answer(answer=answer, entry=entry) >= 1.0
    except (ConfigError, MissingToolError):
        raise
    except Exception:  # scorers stumble over answers of a form they do not expect
        return False
