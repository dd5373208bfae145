"""Files of r1pipe/configs that configs use without naming them: launch profiles, prompts, prompt templates.

`r1pipe init` copies them, to edit. A copy in accelerate/, prompts/ or templates/ beside the config file that is run is
read in place of the file that ships. Which one it is gets decided here, once: the path is written into the config, so
that a worker reads what it is given, and so that the content enters the fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

import r1pipe
from r1pipe.config.yamltree import Keys
from r1pipe.schema import Shipped, StageConfig

SHIPPED = Path(r1pipe.__file__).parent / "configs"

Config = TypeVar("Config", bound=StageConfig)


def with_shipped_files(
    config: Config, folder: Path, files: dict[Keys, Path]
) -> tuple[Config, dict[str, Path]]:
    """Write the path of each file into the fields that are marked `Shipped` and say nothing else.

    Args:
        config: as the YAML states it.
        folder: of the config file that is run.
        files: the config's path fields; those that are filled in are added.

    Returns:
        The config, and the files of the user's own by the name of the file that ships.
    """
    values = config.model_dump(mode="json")
    own_files: dict[str, Path] = {}
    for keys, name, mark in _unstated(config, ()):
        shipped = SHIPPED / name
        if not shipped.is_file():
            continue
        path = folder / name
        if path.is_file() and not path.samefile(shipped):
            own_files[name] = path
        else:
            path = shipped
        files[_write(values, keys, mark, path)] = path
    return type(config).model_validate(values), own_files


def _unstated(value: Any, keys: Keys) -> Iterator[tuple[Keys, str, Shipped]]:
    """Marked fields that hold None or a word, at any depth: where they stand, the name of their file, the mark."""
    if isinstance(value, BaseModel):
        for field_name, field in type(value).model_fields.items():
            child = getattr(value, field_name)
            for mark in field.metadata:
                if isinstance(mark, Shipped) and (child is None or isinstance(child, str)):
                    name = mark.name.format(value=child, key=keys[-1] if keys else "", model=value)
                    yield (*keys, field_name), name, mark
            yield from _unstated(child, (*keys, field_name))
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _unstated(child, (*keys, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _unstated(child, (*keys, index))


def _write(values: Any, keys: Keys, mark: Shipped, path: Path) -> Keys:
    """Put the path into the dumped config; where it then stands."""
    for key in keys[:-1]:
        values = values[key]
    values[keys[-1]] = {mark.under: str(path)} if mark.under else str(path)
    return (*keys, mark.under) if mark.under else keys
