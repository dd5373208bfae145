"""Rewards of the user's own: what goes wrong in them is told as theirs, with file and line."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1pipe.errors import R1PipeError, UserCodeError, place_in_users_code

_NEEDED = "return a number or None for each completion, in their order"


def called(
    reward: Callable[..., Any], name: str, completions: Sequence[Any], arguments: Mapping[str, Any]
) -> Any:
    """What a reward of the user's own returns.

    Raises:
        UserCodeError: it raised.
    """
    try:
        return reward(completions, **arguments)
    except R1PipeError:
        raise
    except Exception as error:
        raise UserCodeError(
            f"the reward `{name}` raised {type(error).__name__}: {error}",
            place_in_users_code(error) or place_of_function(reward),
            "correct it; the stage's log has the traceback, and the same command goes on from what was saved",
        ) from error


def checked(values: Any, count: int, name: str, reward: Callable[..., Any]) -> list[float | None]:
    """A reward's values as floats.

    Args:
        values: what it returned.
        count: of the completions.

    Raises:
        UserCodeError: they are not `count` finite numbers or Nones.
    """
    try:
        listed = list(values)
    except TypeError:
        what = f"the reward `{name}` returned {_shown(values)}, not a list"
        raise UserCodeError(what, place_of_function(reward), _NEEDED) from None
    if len(listed) != count:
        what = f"the reward `{name}` returned {len(listed)} rewards for {count} completions"
        raise UserCodeError(what, place_of_function(reward), _NEEDED)

    numbers = [_number(value) for value in listed]
    for value, number in zip(listed, numbers, strict=True):
        if number is not None and not math.isfinite(number):
            raise UserCodeError(
                f"the reward `{name}` returned {_shown(value)}, which is no finite number",
                place_of_function(reward),
                "return None where it cannot judge",
            )
    return numbers


def _number(value: Any) -> float | None:
    """A value as a float; NaN if it is no number."""
    if value is None or type(value) is float:
        return value
    try:
        # float() would read a text.
        return math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        return math.nan


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def place_of_function(function: Callable[..., Any]) -> str:
    """file:line where a function is defined; empty if that is unknown."""
    try:
        return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except (OSError, TypeError):
        return ""
