"""Mappings whose order decides something: in another order than a stage was started with, they are another config.

Order is no part of a fingerprint, which sorts keys: what was made before order was looked at shall stay. But the record of a stage keeps the
order of its keys, and that is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from r1pipe.config.loader import Stage
from r1pipe.config.yamltree import Keys
from r1pipe.schema import Ordered


def reordered(old: dict[str, Any], stage: Stage) -> list[str]:
    """Where the order differs from that in a recorded material (manifest.Fingerprints), in words."""
    if stage.use or "config" not in old:
        return []
    pairs: list[tuple[str, list[str], list[str]]] = []
    for keys, now in _orders(stage.config):
        before = find_in(old["config"], keys)
        pairs.append((".".join(map(str, keys)), list(before) if isinstance(before, dict) else [], now))
    for port, field in stage.kind.Inputs.model_fields.items():
        if _marked(field):
            then, now = (
                [name for name in inputs if name.startswith(f"{port}.")]
                for inputs in (old["inputs"], dict(stage.edges()))
            )
            pairs.append((f"inputs.{port}", then, now))
    return [
        f"{what}: the order {', '.join(before)} -> {', '.join(now)}"
        for what, before, now in pairs
        if before != now and sorted(before) == sorted(now)
    ]


def _marked(field: FieldInfo) -> bool:
    return any(isinstance(mark, Ordered) for mark in field.metadata)


def _orders(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, list[str]]]:
    """The marked mappings of a config, with the keys that lead to them."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            child = getattr(value, name)
            if isinstance(child, dict) and _marked(field):
                yield (*keys, name), list(child)
            yield from _orders(child, (*keys, name))
    elif isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _orders(child, (*keys, key))


def find_in(value: Any, keys: Keys) -> Any:
    """What stands at a place of a dumped config; None where nothing does."""
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None
    return value
