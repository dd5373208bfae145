"""Procedural problems of reasoning-gym (arXiv 2505.24760) by the names of its tasks, and their own scorers.

A task with one right answer gives plain rows, which `accuracy` judges. If several answers are right, the task's
`score_answer` must judge: the row has what that reads in the column `gym`, and the reward `reasoning_gym` calls it.

Some tasks are refused, since their reward could not be trusted:
- the scorer passes to Python's eval what the model wrote, or what the row holds (which may come from a file);
- the rows do not survive JSON;
- there is no answer to try the scorer on.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from r1pipe.data.files import Row
from r1pipe.errors import ConfigError
from r1pipe.rewards.reasoning_gym import is_right, task
from r1pipe.text.splits import content_key, split_of

if TYPE_CHECKING:
    from r1pipe.data.sources import Source

# Categories whose tasks get the domain math; the others are logic.
MATHS = ("algebra", "arithmetic", "geometry", "probability")

# Their own scorer compares one number with the answer, which `accuracy` does as well; and what it would need beside a
# row (fractions) does not survive JSON.
ONE_NUMBER = frozenset({"gsm_symbolic"})

# Questions made for each one that is wanted; a task that does not give enough new ones in the split is used up.
TRIES = 20


def gym_rows(source: Source, seed: int) -> list[Row]:
    """`count` prompts in equal parts of the tasks, which take turns; each question appears once.

    Rows of a task with several right answers have the column `gym`.
    """
    assert source.count is not None
    tasks = source.reasoning_gym or {}
    if not isinstance(tasks, dict):
        tasks = {name: {} for name in tasks}

    rows_of_tasks: list[list[Row]] = []
    for number, (name, settings) in enumerate(tasks.items()):
        # The first tasks give one row more if the count does not divide.
        wanted = source.count // len(tasks) + (number < source.count % len(tasks))
        rows = _task_rows(name, settings, wanted, source, seed=seed)
        if len(rows) < wanted:
            warnings.warn(f"{name}: the task has {len(rows)} different questions, not {wanted}", stacklevel=2)
        rows_of_tasks.append(rows)

    in_turn: list[Row] = []
    for turn in range(max(map(len, rows_of_tasks), default=0)):
        in_turn += [rows[turn] for rows in rows_of_tasks if turn < len(rows)]
    return in_turn


def _task_rows(
    name: str, settings: dict[str, Any], wanted: int, source: Source, *, seed: int
) -> list[dict[str, Any]]:
    """At most `wanted` different questions of one task, in the source's split."""
    from reasoning_gym.dataset import ProceduralDataset  # type: ignore[import-not-found]

    dataset = task(name, json.dumps({"seed": seed, "size": TRIES * wanted, **settings}))
    overridden = type(dataset).score_answer is not ProceduralDataset.score_answer
    has_own_scorer = overridden and name not in ONE_NUMBER
    domain = source.domain or ("math" if dataset.category in MATHS else "logic")

    rows: dict[str, Row] = {}
    for index in range(len(dataset)):
        if len(rows) == wanted:
            break
        entry = dataset[index]
        question = entry["question"]
        key = content_key(question)
        in_split = source.split == "all" or split_of(question, source.shares) == source.split
        if key in rows or not in_split:
            continue
        row = {
            "id": f"{name}-{key}",
            "prompt": question,
            "answer": entry["answer"],
            "language": "en",
            "task": name,
            "domain": domain,
        }
        if has_own_scorer:
            row["gym"] = _stored(name, entry)
        rows[key] = row
    return list(rows.values())


def _stored(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What the scorer reads, as JSON gives it back.

    Raises:
        ConfigError: JSON cannot hold it, or the scorer then refuses the task's own answer.
    """
    needed = {"task": name, "question": entry["question"], "metadata": entry["metadata"]}
    try:
        stored = json.loads(json.dumps(needed, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"rows of reasoning-gym's {name!r} cannot be stored: {error}",
            fix="use another task",
        ) from None
    if not is_right({**stored, "answer": entry["answer"]}, entry["answer"]):
        raise ConfigError(
            f"reasoning-gym's {name!r} cannot be judged from a stored row: its scorer refuses its own answer",
            fix="use another task",
        )
    return stored
