"""What every config is made of: frozen models, paths, ports, and how a stage becomes processes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class PathOr:
    """Marks a str field (`Annotated[str, PathOr("chat")]`) as a path unless it is one of these words.

    Path fields (these, and fields of type pathlib.Path) are relative to the YAML that states them, `~` and `${VAR}` expand,
    the file must exist, and its content is what enters the fingerprint.
    """

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)


@dataclass(frozen=True)
class Ordered:
    """Marks a mapping (`Annotated[dict[...], Ordered()]`), of a Config or of Inputs, whose order decides something: put in another order, it is another."""


class Model(BaseModel):
    """Base of every config. It is frozen, and an unknown key is an error.

    The string under a field is its description.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _over_the_default(cls, data: Any) -> Any:
        """A block that states part of a field is laid over the field's default: `sft: {lr: 8e-5}` keeps the stage's own batch size."""
        if not isinstance(data, dict):
            return data
        return {name: _laid_over(cls.model_fields.get(name), value) for name, value in data.items()}

    def changed(self, names: Iterable[str]) -> list[str]:
        """Of these fields, those whose value is not the default. Not what was stated: the config that a worker reads states every default."""
        return [
            name
            for name in names
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
        ]


def _laid_over(field: FieldInfo | None, value: Any) -> Any:
    if field is None or not isinstance(field.default, Model) or not isinstance(value, dict):
        return value
    stated = {name: getattr(field.default, name) for name in field.default.model_fields_set}
    return stated | value


class TextFile(Model):
    """A text that is too long for the YAML; its content is what enters the fingerprint."""

    file: Path
    """In UTF-8."""


def _no_path(text: str) -> str:
    if re.fullmatch(r"\S+\.(txt|md|jsonl?|ya?ml)", text):
        raise ValueError(f"a text is wanted, and this is the name of a file: write {{file: {text}}}")
    return text


Text = Annotated[str, AfterValidator(_no_path)] | TextFile
"""A text as it stands in the YAML, or `{file: PATH}`; r1pipe.text.rendering.read_text reads it."""


class Ports(Model):
    """Base of a stage's Inputs and Outputs: each field's type is an Artifact, `Artifact | None`, or `dict[str, Artifact]`."""

    # pydantic would read the source of the artifact's class once for every port: 0.2 s of each command
    model_config = ConfigDict(use_attribute_docstrings=False)


class Slurm(Model):
    """What goes into the sbatch header."""

    partition: str | None = None
    time: str | None = Field(default=None, description="HH:MM:SS")
    gpus_per_node: int = Field(default=8, ge=1)
    extra: list[str] = Field(default_factory=list, description="further #SBATCH lines")


class Launch(Model):
    """How a stage becomes processes. Not part of its fingerprint."""

    profile: Literal["process", "ddp", "zero1", "zero2", "zero3", "fsdp2"] = Field(
        default="process", description="configs/accelerate/<profile>.yaml"
    )
    num_processes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default=1,
        description="ranks on a machine; auto = one a GPU, on several machines the hostfile's slots or slurm.gpus_per_node, and the default there",
    )
    nodes: int = Field(default=1, ge=1, description="machines, which see the same files; through Slurm or a hostfile")
    threads: int | None = Field(default=None, ge=1, description="CPU threads a rank; none = cores / ranks")
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none",
        description="what lives in CPU memory: optimizer = its states and step (zero1, zero2, zero3); all = the weights too (zero3, fsdp2)",
    )
    deepspeed: dict[str, Any] = Field(
        default_factory=dict, description="of zero1, zero2, zero3: laid over configs/accelerate/<profile>.json"
    )
    hostfile: Path | None = Field(
        default=None,
        description="the machines, a line `HOST slots=8` each as DeepSpeed has it; ranks are started there over ssh",
    )
    slurm: Slurm | None = None

    @model_validator(mode="before")
    @classmethod
    def _all_of_several_machines(cls, data: Any) -> Any:
        """Eight GPUs each on sixteen machines, and one rank each, is nobody's wish."""
        several = (
            isinstance(data, dict)
            and "num_processes" not in data
            and isinstance(data.get("nodes"), int)
            and data["nodes"] > 1
        )
        return data | {"num_processes": "auto"} if several else data


class StageConfig(Model):
    """Base of every stage's Config. `launch` is not fingerprinted; r1pipe/run/manifest.py names what else is not."""

    seed: int = Field(default=0, ge=0, description="every random draw of the stage derives from it (our choice)")
    launch: Launch = Launch()

    def mismatch(self, given: set[str]) -> str:
        """Why this config does not go with the inputs that are given; empty where it does. Asked when the YAML is read.

        Args:
            given: names of ports; of those that hold several, `port.key` too.
        """
        return ""
