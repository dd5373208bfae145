"""Path fields of a stage's block of YAML: found by the types of its Config, and made absolute."""

from __future__ import annotations

import glob
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from r1pipe.config.mistakes import Mistakes
from r1pipe.config.yamltree import Keys, Node
from r1pipe.schema import PathOr
from r1pipe.text.regular_files import in_home, oddity


def expand(text: str, base: Path) -> Path:
    """Expand `~` and variables; the path is relative to `base`.

    Raises:
        KeyError: a variable is not set; its name is the argument.
    """
    return Path(os.path.normpath(base / in_home(Path(expand_variables(text)))))


def expand_variables(text: str) -> str:
    """Expand `${VAR}` and, where it may be unset or empty, `${VAR:-DEFAULT}`, as a shell does.

    >>> expand_variables("${R1PIPE_NOT_SET:-hub:owner/name}")
    'hub:owner/name'

    Raises:
        KeyError: a variable without a default is not set; its name is the argument.
    """

    def value(match: re.Match[str]) -> str:
        name, default = match.groups()
        return os.environ[name] if default is None else os.environ.get(name) or default

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, text)


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have, with unions and Annotated taken apart."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return tuple(inner for member in typing.get_args(annotation) for inner in union_members(member))
    if origin is typing.Annotated:
        return union_members(typing.get_args(annotation)[0])
    return (annotation,)


def resolve_paths(
    annotation: Any, node: Node, files: dict[Keys, Path], problems: Mistakes, keys: Keys = ()
) -> Any:
    """The bare values below a node, with path fields absolute.

    Args:
        annotation: the type of the value, or the model of a block.
        node: the value as the YAML states it.
        files: gets the path fields.
        problems: gets paths that do not exist.
        keys: where the node stands in the stage's block.
    """
    metadata: tuple[Any, ...] = ()
    if typing.get_origin(annotation) is typing.Annotated:
        annotation, metadata = typing.get_args(annotation)[0], annotation.__metadata__
    members = union_members(annotation)

    if isinstance(node.value, str):
        if _is_path(node.value, members, metadata):
            return _resolve(node, files, problems, keys)
        return node.value

    if isinstance(node.value, list):
        item_types = [
            typing.get_args(member)[0] for member in members if typing.get_origin(member) in (list, tuple)
        ]
        item_type = item_types[0] if item_types else Any
        return [
            resolve_paths(item_type, child, files, problems, (*keys, index))
            for index, child in enumerate(node.value)
        ]

    if isinstance(node.value, dict):
        return {
            key: resolve_paths(_type_at(key, members), child, files, problems, (*keys, key))
            for key, child in node.value.items()
        }
    return node.value


def _is_path(text: str, members: tuple[Any, ...], metadata: tuple[Any, ...]) -> bool:
    marks = [mark for mark in metadata if isinstance(mark, PathOr)]
    marked = bool(marks) and text not in marks[0].words
    return (marked or Path in members) and not text.startswith(("embedded:", "hub:"))


def _type_at(key: str, members: tuple[Any, ...]) -> Any:
    """The type of the value under a key: a model's field, or a mapping's value."""
    for member in members:
        if isinstance(member, type) and issubclass(member, BaseModel) and key in member.model_fields:
            return _annotated(member.model_fields[key])
    for member in members:
        if typing.get_origin(member) is dict:
            return typing.get_args(member)[1]
    return Any


def _annotated(field: FieldInfo) -> Any:
    """A field's type, with the metadata that pydantic has taken off it."""
    if field.metadata:
        return typing.Annotated[field.annotation, *field.metadata]
    return field.annotation


def _resolve(node: Node, files: dict[Keys, Path], problems: Mistakes, keys: Keys) -> str:
    try:
        path = expand(node.value, node.origin.base)
    except KeyError as error:
        name = error.args[0]
        problems.absent(f"the environment variable {name} is not set", node.origin, f"export {name}=...")
        return node.value

    odd = oddity(path)
    if odd:
        dotted = ".".join(map(str, keys))
        problems.add(
            f"{dotted}: '{node.value:.200}' cannot be read: {odd}", node.origin, "name a file or a folder"
        )
        return node.value
    exists = path.exists() or (glob.has_magic(str(path)) and glob.glob(str(path), recursive=True))
    if not exists:
        dotted = ".".join(map(str, keys))
        problems.absent(f"{dotted}: nothing is at '{node.value}'", node.origin, f"looked for {path}")
    files[keys] = path
    return str(path)
