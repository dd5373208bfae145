"""Procedural problems of reasoning-gym (arXiv 2505.24760) by the names of its tasks, and their own scorers.

A task with one right answer gives plain rows, which `accuracy` judges. Where several answers are right, the task's `score_answer` must judge: the row
carries what that reads in the column `gym`, and the reward `reasoning_gym` calls it. Refused are tasks whose scorer passes what the model wrote, or what
stands in the row (which may come from a file), to Python's eval, tasks whose rows do not survive JSON, and tasks without an answer to try the scorer on: a
reward that cannot be trusted is none.
"""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from r1pipe.errors import ConfigError
from r1pipe.rewards.reasoning_gym import right, task
from r1pipe.text.splits import content_key, split_of

if TYPE_CHECKING:
    from r1pipe.data.sources import Source

MATHS = (
    "algebra",
    "arithmetic",
    "geometry",
    "probability",
)  # categories whose tasks get the domain math; the others are logic
TRIES = 20  # questions made for one that is new and in the split, before the task counts as used up


def gym_rows(source: Source, seed: int) -> list[dict[str, Any]]:
    """`count` prompts, in equal parts of the tasks, in turn, each question once. Rows of a task with several right answers have the column `gym`."""
    given = (
        source.reasoning_gym
        if isinstance(source.reasoning_gym, dict)
        else dict.fromkeys(source.reasoning_gym or (), {})
    )
    assert source.count is not None
    made: list[list[dict[str, Any]]] = []
    for number, (name, settings) in enumerate(given.items()):
        wanted = source.count // len(given) + (number < source.count % len(given))
        made.append(_rows(name, settings, wanted, source, seed))
        if len(made[-1]) < wanted:
            warnings.warn(
                f"{name}: {wanted} questions were asked for, and it has {len(made[-1])} different ones", stacklevel=2
            )
    return [rows[turn] for turn in range(max(map(len, made), default=0)) for rows in made if turn < len(rows)]


def _rows(name: str, settings: dict[str, Any], wanted: int, source: Source, seed: int) -> list[dict[str, Any]]:
    from reasoning_gym.dataset import ProceduralDataset  # type: ignore[import-not-found]

    makes = task(name, json.dumps({"seed": seed, "size": TRIES * wanted, **settings}))
    own_scorer = type(makes).score_answer is not ProceduralDataset.score_answer
    rows: dict[str, dict[str, Any]] = {}
    for index in range(len(makes)):
        if len(rows) == wanted:
            break
        entry = makes[index]
        key = content_key(entry["question"])
        if key in rows or (source.split != "all" and split_of(entry["question"], source.shares) != source.split):
            continue
        row = {
            "id": f"{name}-{key}",
            "prompt": entry["question"],
            "answer": entry["answer"],
            "language": "en",
            "task": name,
        }
        row["domain"] = source.domain or ("math" if makes.category in MATHS else "logic")
        if own_scorer:
            row["gym"] = _carried(name, entry)
        rows[key] = row
    return list(rows.values())


def _carried(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What the scorer reads, as JSON gives it back.

    Raises:
        ConfigError: with that, the scorer does not take the task's own answer.
    """
    try:
        carried = json.loads(
            json.dumps({"task": name, "question": entry["question"], "metadata": entry["metadata"]}, allow_nan=False)
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"rows of reasoning-gym's {name!r} cannot be stored: {error}", fix="use another task"
        ) from None
    if not right({**carried, "answer": entry["answer"]}, entry["answer"]):
        raise ConfigError(
            f"reasoning-gym's {name!r} cannot be judged from a stored row: its scorer refuses its own answer",
            fix="use another task",
        )
    return carried
