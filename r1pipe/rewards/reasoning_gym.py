"""reasoning_gym: is the answer right by the task's own scorer?

For rows that reasoning-gym made and that have several right answers (r1pipe/data/gym_source.py). Right means full
marks: some scorers give part marks for an answer inside a longer text, which would teach the policy to write more. The
answer is the last \\boxed{...} or <answer>...</answer> behind the thinking, else the whole text behind it.

Not covered: scorers run in this process, without a time limit.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from r1pipe.errors import ConfigError, MissingToolError
from r1pipe.rewards.reading import extract
from r1pipe.rewards.texts import Completion, after_thinking, text_of

# Tasks whose scorer passes what the model wrote to eval: read from the source of 0.1.25, with the functions that the
# scorers call. sympy's parse_expr is an eval as well.
EVALUATE = frozenset(
    {
        "binary_matrix",
        "countdown",
        "intermediate_integration",
        "n_queens",
        "polynomial_multiplication",
        "puzzle24",
        "simple_integration",
        "spiral_matrix",
        "string_insertion",
    }
)
# Tasks whose scorer passes fields of the row to eval.
EVALUATE_ROW = frozenset({"bitwise_arithmetic", "number_sorting"})


@cache
def task(name: str, settings: str = "{}") -> Any:
    """A task of reasoning-gym.

    Args:
        settings: keyword arguments of the task, as JSON.

    Raises:
        MissingToolError: reasoning-gym is not installed.
        ConfigError: no such task or setting, or a task whose scorer uses eval.
    """
    try:
        import reasoning_gym as library  # type: ignore[import-not-found]
        from reasoning_gym.factory import DATASETS  # type: ignore[import-not-found]
    except ImportError:
        raise MissingToolError(
            "reasoning-gym is not installed", fix="pip install 'r1pipe[reasoning-gym]'"
        ) from None

    if name not in DATASETS or name == "composite":
        close = difflib.get_close_matches(name, DATASETS.keys() - {"composite"}, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(DATASETS))}"
        raise ConfigError(f"reasoning-gym has no task {name!r}", fix=fix)
    if name in EVALUATE | EVALUATE_ROW:
        what = "the model's text" if name in EVALUATE else "fields of the row"
        raise ConfigError(
            f"the scorer of reasoning-gym's {name!r} passes {what} to Python's eval", fix="use another task"
        )
    try:
        # A type checker takes this very module for the library.
        return library.create_dataset(name, **json.loads(settings))  # pyright: ignore[reportAttributeAccessIssue]
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"reasoning-gym's {name!r} does not take these settings: {error}",
            fix=f"correct the settings {settings}",
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

    >>> half = {"simplified_numerator": 1, "simplified_denominator": 2, "style": "plain"}
    >>> row = {"task": "fraction_simplification", "question": "", "metadata": half}
    >>> reasoning_gym(["<think>...</think>1/2", "2/4", "4"], gym=[row, row, None], answer=["1/2", "1/2", "4"])
    [1.0, 0.0, None]
    """
    n = len(completions)
    verdicts: list[float | None] = []
    for completion, entry, own_answer in zip(
        completions, gym or [None] * n, answer or [None] * n, strict=True
    ):
        if entry is None:
            verdicts.append(None)
            continue
        text = text_of(completion)
        final = extract(text, "words", ("boxed", "tags")) or after_thinking(text).strip()
        verdicts.append(float(is_right({**entry, "answer": own_answer}, final)))
    return verdicts


def is_right(entry: dict[str, Any], answer: str | None) -> bool:
    """Whether the task's own scorer gives the answer full marks.

    Args:
        entry: task, question, metadata and answer (the task's own).
    """
    if answer is None:
        return False
    try:
        return task(entry["task"]).score_answer(answer=answer, entry=entry) >= 1.0
    except (ConfigError, MissingToolError):
        raise
    except Exception:
        # Scorers fail on answers of a form that they do not expect.
        return False
