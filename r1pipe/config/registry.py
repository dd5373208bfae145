"""From `kind:` in a YAML to a stage module with its ports.

`kind: cold-start` is r1pipe.stages.cold_start, which a checkout keeps in stages/. `kind: my_package.my_stage` is any importable module (the working folder and the
config's folder come last on the path), and installed packages may add kinds through the entry point group `r1pipe.stages`.
"""

from __future__ import annotations

import importlib
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import r1pipe
from r1pipe.artifacts import Artifact
from r1pipe.config.yamltree import nearest
from r1pipe.errors import ConfigError
from r1pipe.schema import Ports, StageConfig

STAGES = Path(r1pipe.__file__).parent / "stages"
ENTRY_POINTS = "r1pipe.stages"


@dataclass(frozen=True)
class Port:
    """One named input or output: an artifact type, possibly optional, possibly many by name."""

    name: str
    type: type[Artifact]
    optional: bool
    many: bool


@dataclass(frozen=True)
class Kind:
    """A stage module's four public names, taken apart."""

    name: str
    module: types.ModuleType
    Inputs: type[Ports]
    Outputs: type[Ports]
    Config: type[StageConfig]
    run: Callable[..., dict[str, float]]

    @property
    def inputs(self) -> dict[str, Port]:
        return ports(self.Inputs)

    @property
    def outputs(self) -> dict[str, Port]:
        return ports(self.Outputs)

    @property
    def source(self) -> Path:
        return Path(str(self.module.__file__))


@cache
def ports(declared: type[Ports]) -> dict[str, Port]:
    """The fields of an Inputs or Outputs class. A type that is not an artifact is our own mistake."""
    found: dict[str, Port] = {}
    for name, field in declared.model_fields.items():
        members = typing.get_args(field.annotation) if _is_union(field.annotation) else (field.annotation,)
        optional = type(None) in members or not field.is_required()
        (member,) = [m for m in members if m is not type(None)]
        many = typing.get_origin(member) is dict
        artifact = typing.get_args(member)[1] if many else member
        assert isinstance(artifact, type) and issubclass(artifact, Artifact), (
            f"{declared.__module__}.{declared.__name__}.{name}: {artifact}"
        )
        found[name] = Port(name, artifact, optional, many)
    return found


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def builtin_kinds() -> list[str]:
    """The kinds that ship, by their files."""
    return sorted(path.stem.replace("_", "-") for path in STAGES.glob("*.py") if not path.stem.startswith("_"))


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


@cache
def load_kind(name: str, search: tuple[str, ...] = ()) -> Kind:
    """Import the module of a kind.

    Args:
        name: as in the YAML.
        search: folders put at the end of sys.path for `package.module` kinds.

    Raises:
        ConfigError: there is no such kind, its module cannot be imported, or it lacks one of the four names. `where` is left empty.
    """
    for folder in search:
        if folder not in sys.path:
            sys.path.append(folder)
    stem = name.replace("-", "_")
    if stem.isidentifier() and (STAGES / f"{stem}.py").is_file() and not stem.startswith("_"):
        module = importlib.import_module(f"r1pipe.stages.{stem}")  # a mistake in our own stage is ours: let it raise
        return _take_apart(name, module)
    if "." not in name:
        points = _entry_points()
        if name not in points:
            raise ConfigError(
                f"there is no kind '{name}'",
                fix=nearest(name, builtin_kinds() + sorted(points)) + " (or package.module)",
            )
        return _take_apart(name, _import(name, points[name].value.split(":")[0]))
    return _take_apart(name, _import(name, name))


def _import(kind: str, module: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise ConfigError(
                f"there is no kind '{kind}': no module {error.name}",
                fix="is its folder on PYTHONPATH, beside the config, or here?",
            ) from None
        raise ConfigError(
            f"kind '{kind}' cannot be imported: no module {error.name}", fix=f"install {error.name}"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"kind '{kind}' cannot be imported: {type(error).__name__}: {error}",
            fix=f"try `python -c 'import {module}'`",
        ) from error


def _take_apart(name: str, module: types.ModuleType) -> Kind:
    wanted: Sequence[tuple[str, type | None]] = (
        ("Inputs", Ports),
        ("Outputs", Ports),
        ("Config", StageConfig),
        ("run", None),
    )
    for attribute, base in wanted:
        value = getattr(module, attribute, None)
        if not (callable(value) if base is None else isinstance(value, type) and issubclass(value, base)):
            wants = "a function" if base is None else f"a subclass of r1pipe.schema.{base.__name__}"
            raise ConfigError(
                f"kind '{name}' is no stage: {module.__name__}.{attribute} is not {wants}",
                fix="a stage module has Inputs, Outputs, Config and run",
            )
    return Kind(name, module, module.Inputs, module.Outputs, module.Config, module.run)
