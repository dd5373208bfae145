"""Procedural problems of reasoning-gym (arXiv 2505.24760) by the names of its tasks, and their own scorers.

A task with one right answer gives plain rows, which `accuracy` judges. Where several answers are right, the task's `score_answer` must judge: the row
carries what that reads in the column `gym`, and the reward `reasoning_gym` calls it. Refused are tasks whose scorer passes what the model wrote, or what
stands in the row (which may come from a file), to Python's eval, tasks whose rows do not survive JSON, and tasks without an answer to try the scorer on: a
reward that cannot be trusted is none.
"""

from __future__ import annotations

import difflib
import json
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

from r1pipe.data.splits import content_key, split_of
from r1pipe.errors import ConfigError, MissingToolError

if TYPE_CHECKING:
    from r1pipe.data.sources import Source

# Found by reading 0.1.25, with what the scorers call; sympy's parse_expr is eval as well.
EVALUATE = frozenset({"binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24"}) | frozenset(
    {"simple_integration", "spiral_matrix", "string_insertion"}
)
EVALUATE_ROW = frozenset({"bitwise_arithmetic", "number_sorting"})
MATHS = ("algebra", "arithmetic", "geometry", "probability")  # categories whose tasks get the domain math; the others are logic
TRIES = 20  # questions made for one that is new and in the split, before the task counts as used up


@cache
def task(name: str, settings: str = "{}") -> Any:
    """A task of reasoning-gym; `settings` is JSON.

    Raises:
        MissingToolError: reasoning-gym is not installed.
        ConfigError: no such task or setting, or a task that is refused (see above).
    """
    try:
        import reasoning_gym  # type: ignore[import-not-found]
        from reasoning_gym.factory import DATASETS  # type: ignore[import-not-found]
    except ImportError:
        raise MissingToolError("reasoning-gym is not installed", fix="pip install 'r1pipe[reasoning-gym]'") from None
    if name not in DATASETS or name == "composite":
        close = difflib.get_close_matches(name, DATASETS.keys() - {"composite"}, n=1)
        raise ConfigError(f"reasoning-gym has no task {name!r}", fix=f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(DATASETS))}")
    if name in EVALUATE | EVALUATE_ROW:
        what = "what the model wrote" if name in EVALUATE else "what stands in the row"
        raise ConfigError(f"the scorer of reasoning-gym's {name!r} runs {what} through Python's eval", fix="use another task")
    try:
        return reasoning_gym.create_dataset(name, **json.loads(settings))
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"reasoning-gym's {name!r} does not take these settings: {error}", fix=f"settings: {settings}") from None


def gym_rows(source: Source, seed: int) -> list[dict[str, Any]]:
    """`count` prompts, in equal parts of the tasks, in turn, each question once. Rows of a task with several right answers have the column `gym`."""
    given = source.reasoning_gym if isinstance(source.reasoning_gym, dict) else dict.fromkeys(source.reasoning_gym or (), {})
    assert source.count is not None
    made: list[list[dict[str, Any]]] = []
    for number, (name, settings) in enumerate(given.items()):
        wanted = source.count // len(given) + (number < source.count % len(given))
        made.append(_rows(name, settings, wanted, source, seed))
        if len(made[-1]) < wanted:
            warnings.warn(f"{name}: {wanted} questions were asked for, and it has {len(made[-1])} different ones", stacklevel=2)
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
        row = {"id": f"{name}-{key}", "prompt": entry["question"], "answer": entry["answer"], "language": "en", "task": name}
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
        carried = json.loads(json.dumps({"task": name, "question": entry["question"], "metadata": entry["metadata"]}, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"rows of reasoning-gym's {name!r} cannot be stored: {error}", fix="use another task") from None
    if not right({**carried, "answer": entry["answer"]}, entry["answer"]):
        raise ConfigError(f"reasoning-gym's {name!r} cannot be judged from a stored row: its scorer refuses its own answer", fix="use another task")
    return carried


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
