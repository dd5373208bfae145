"""Where a config departs from the paper: fields that cite it, and that have another value than their default.

The default is the paper's value where it states one.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from r1pipe.config.loader import Pipeline

# As fields cite their source: (v2 B.4.2), v1 2.3.1, Table 6.
_CITED = re.compile(r"\bv[12] [A-F\d][\w.]*(?:, (?:v[12] )?[A-F\d][\w.]*)*|\bTable \d+")


def departures(pipeline: Pipeline) -> list[dict[str, Any]]:
    """What differs: field, value, default, source (the section) and the stages that it differs in."""
    found: dict[str, dict[str, Any]] = {}
    for name, stage in pipeline.stages.items():
        for departure in _of_block(stage.config, ()):
            # Nine evaluations with one setting are one departure.
            same = found.setdefault(str(departure), {**departure, "stages": []})
            same["stages"].append(name)
    return list(found.values())


def _of_block(block: BaseModel, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    sources = _sources_of(type(block))
    for name, field in type(block).model_fields.items():
        value = getattr(block, name)
        yield from _within(value, (*keys, name))
        default = field.get_default(call_default_factory=False)
        # Lists of blocks, such as phases, are looked at block by block.
        is_plain = isinstance(value, str | int | float | bool) or value is None
        if name in sources and is_plain and not field.is_required() and value != default:
            yield {
                "field": ".".join((*keys, name)),
                "value": value,
                "default": default,
                "source": sources[name],
            }


@cache
def _sources_of(kind: type[BaseModel]) -> dict[str, str]:
    """Field -> the section of the paper that its docstring cites, of a class and those that it is made of."""
    found: dict[str, str] = {}
    # What a class says of a field comes before what its base said.
    for base in reversed(kind.__mro__):
        file = inspect.getsourcefile(base) if issubclass(base, BaseModel) else None
        if file and base is not BaseModel:
            found |= _cited_in(Path(file)).get(base.__name__, {})
    return found


@cache
def _cited_in(file: Path) -> dict[str, dict[str, str]]:
    """Class -> field -> section, of a file: pydantic could keep the docstrings, for 0.2 s of every start."""
    cited: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        fields = cited.setdefault(node.name, {})
        for field, below in pairwise(node.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                section = _CITED.search(_text_of(below))
                if section:
                    fields[field.target.id] = section[0].rstrip(".")
    return cited


def _text_of(node: ast.stmt) -> str:
    """The text of a docstring; empty for any other statement."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


def _within(value: Any, keys: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    if isinstance(value, BaseModel):
        yield from _of_block(value, keys)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _within(item, (*keys, str(number)))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _within(item, (*keys, str(key)))
