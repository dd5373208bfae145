"""From `kind:` in a YAML to a stage module with its ports.

- `kind: cold-start` is r1pipe.stages.cold_start, which a checkout keeps in stages/.
- `kind: my_package.my_stage` is any importable module. The folder of the config and the working folder come last on the
  path.
- Installed packages may add kinds through the entry point group `r1pipe.stages`.
"""

from __future__ import annotations

import importlib
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import r1pipe
from r1pipe.artifacts import Artifact
from r1pipe.config.paths import union_members
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
    """A stage module: its name in the YAML, and its four public names."""

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
    """The fields of an Inputs or Outputs class.

    Raises:
        ConfigError: a field is not an artifact, an optional one, or (an input only) `dict[str, ARTIFACT]`.
    """
    result: dict[str, Port] = {}
    for name, field in declared.model_fields.items():
        members = [member for member in union_members(field.annotation) if member is not type(None)]
        optional = len(members) < len(union_members(field.annotation)) or not field.is_required()
        many = typing.get_origin(members[0]) is dict
        artifact = typing.get_args(members[0])[1] if many else members[0]
        if len(members) > 1 or not isinstance(artifact, type) or not issubclass(artifact, Artifact):
            raise ConfigError(
                f"{declared.__module__}.{declared.__name__}.{name} is not an artifact: {field.annotation}",
                fix="a port is a Checkpoint, RewardModel, Dataset, Prompts, Chats, Pairs, Labels or Report of "
                "r1pipe.artifacts",
            )
        result[name] = Port(name, artifact, optional, many)
    return result


def builtin_kinds() -> list[str]:
    """The kinds that ship, by their files."""
    return sorted(
        path.stem.replace("_", "-") for path in STAGES.glob("*.py") if not path.stem.startswith("_")
    )


@cache
def load_kind(name: str, search: tuple[str, ...] = ()) -> Kind:
    """Import the module of a kind.

    Args:
        name: as in the YAML.
        search: folders put at the end of sys.path for `package.module` kinds.

    Raises:
        ConfigError: there is no such kind, its module cannot be imported, or it lacks one of the four names. The caller
            knows where: `where` is empty.
    """
    for folder in search:
        if folder not in sys.path:
            sys.path.append(folder)

    stem = name.replace("-", "_")
    ships = stem.isidentifier() and not stem.startswith("_") and (STAGES / f"{stem}.py").is_file()
    if ships:
        # an error in a stage of ours is ours, so it is not made the user's
        return _kind(name, importlib.import_module(f"r1pipe.stages.{stem}"))
    if "." in name:
        return _kind(name, _import(name, name))

    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in points:
        known = nearest(name, builtin_kinds() + sorted(points))
        raise ConfigError(f"there is no kind '{name}'", fix=f"{known} (or package.module)")
    return _kind(name, _import(name, points[name].value.split(":")[0]))


def _import(kind: str, module: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        is_the_module = error.name and (module == error.name or module.startswith(error.name + "."))
        if is_the_module:
            raise ConfigError(
                f"there is no kind '{kind}': no module {error.name}",
                fix="is its folder on PYTHONPATH, beside the config, or the working folder?",
            ) from None
        raise ConfigError(
            f"kind '{kind}' cannot be imported: no module {error.name}",
            fix=f"install {error.name}",
        ) from error
    except Exception as error:
        raise ConfigError(
            f"kind '{kind}' cannot be imported: {type(error).__name__}: {error}",
            fix=f"try `python -c 'import {module}'`",
        ) from error


def _kind(name: str, module: types.ModuleType) -> Kind:
    for attribute, base in (("Inputs", Ports), ("Outputs", Ports), ("Config", StageConfig)):
        value = getattr(module, attribute, None)
        if not (isinstance(value, type) and issubclass(value, base)):
            raise _not_a_stage(name, module, attribute, f"a subclass of r1pipe.schema.{base.__name__}")
    if not callable(getattr(module, "run", None)):
        raise _not_a_stage(name, module, "run", "a function")

    kind = Kind(name, module, module.Inputs, module.Outputs, module.Config, module.run)
    # Ports are read here, so that a wrong one is a mistake of this kind and not of the stage that uses it first.
    _ = kind.inputs
    many = [port.name for port in kind.outputs.values() if port.many]
    if many:
        raise _not_a_stage(
            name, module, f"Outputs.{many[0]}", "one artifact; only an input may be many by name"
        )
    return kind


def _not_a_stage(name: str, module: types.ModuleType, attribute: str, expected: str) -> ConfigError:
    return ConfigError(
        f"kind '{name}' is not a stage: {module.__name__}.{attribute} is not {expected}",
        fix="a stage module has Inputs, Outputs, Config and run",
    )
