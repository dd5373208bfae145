"""What every config is made of: frozen models, paths, ports, and how a stage becomes processes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class PathOr:
    """Marks a str field (`Annotated[str, PathOr("chat")]`) as a path unless it is one of these words.

    Path fields are these, and fields of type pathlib.Path. They are relative to the YAML that states them, `~` and
    `${VAR}` are expanded, the file must exist, and its content is what enters the fingerprint.
    """

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)


@dataclass(frozen=True)
class Ordered:
    """Marks a mapping of a Config or of Inputs (`Annotated[dict[...], Ordered()]`) whose order decides something.

    Fingerprints ignore the order of keys. For a marked mapping another order is another config.
    """


@dataclass(frozen=True)
class Shipped:
    """Marks a field whose default is a file of r1pipe/configs: `Annotated[Text | None, Shipped("prompts/reply.txt")]`.

    r1pipe/config/shipped_files.py writes the path into the field when a config is read.

    Attributes:
        name: of the file. It may hold {value} (the field's own), {key} (where the model stands in a mapping) and
            {model.FIELD} (another field of the model). If no such file ships, the field stays as it is.
        under: the key below the field that takes the path; empty where the field itself does.
    """

    name: str
    under: str = ""


class Model(BaseModel):
    """Base of every config. It is frozen, and an unknown key is an error.

    The string under a field is its description, for readers of the source.
    """

    # Without use_attribute_docstrings: pydantic would parse every class's source at each start, 0.2 s of each
    # command, for descriptions that nothing reads.
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _over_the_default(cls, data: Any) -> Any:
        """Lay a block over the default of its field: `sft: {lr: 8e-5}` keeps the batch size that the stage sets."""
        if not isinstance(data, dict):
            return data
        return {name: _laid_over(cls.model_fields.get(name), value) for name, value in data.items()}

    def changed(self, names: Iterable[str]) -> list[str]:
        """Of these fields, those whose value is not the default.

        Values are compared, because pydantic's `model_fields_set` says nothing in a worker: the config that it reads
        states every default.
        """
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
    """A text that is too long for the YAML. Its content is what enters the fingerprint."""

    file: Path
    """In UTF-8."""


def _not_a_path(text: str) -> str:
    if re.fullmatch(r"\S+\.(txt|md|jsonl?|ya?ml)", text):
        raise ValueError(f"this takes a text, and the value is the name of a file: write {{file: {text}}}")
    return text


Text = Annotated[str, AfterValidator(_not_a_path)] | TextFile
"""A text as it stands in the YAML, or `{file: PATH}`; r1pipe.text.rendering.read_text reads it."""


class Ports(Model):
    """Base of a stage's Inputs and Outputs.

    The type of each field is an Artifact, `Artifact | None`, or `dict[str, Artifact]`.
    """


class Slurm(Model):
    """What goes into the header of the sbatch script."""

    partition: str | None = None
    """None = the cluster's default."""

    time: str | None = None
    """HH:MM:SS; none = the partition's default."""

    gpus_per_node: int = Field(default=8, ge=1, le=1024)
    """GPUs of each machine, and its ranks with num_processes: auto."""

    extra: list[str] = Field(default_factory=list)
    """Further #SBATCH lines."""


class Launch(Model):
    """How a stage becomes processes. Not part of its fingerprint."""

    profile: Literal["process", "ddp", "zero1", "zero2", "zero3", "fsdp2"] = "process"
    """How ranks share the work."""

    accelerate_file: Annotated[Path | None, Shipped("accelerate/{model.profile}.yaml")] = None
    """Settings of accelerate; none = accelerate/<profile>.yaml beside the config, else the one that ships."""

    deepspeed_file: Annotated[Path | None, Shipped("accelerate/{model.profile}.json")] = None
    """For zero1, zero2, zero3: settings of DeepSpeed; none = accelerate/<profile>.json, as above."""

    num_processes: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = 1
    """Ranks on each machine.

    auto = one for each GPU; on several machines the hostfile's slots or slurm.gpus_per_node, and the default there.
    """

    nodes: int = Field(default=1, ge=1, le=100_000)
    """Machines, which must see the same files; through Slurm or a hostfile."""

    threads: int | None = Field(default=None, ge=1, le=4096)
    """CPU threads of each rank; none = cores / ranks."""

    hang_minutes: float | None = Field(default=60.0, gt=0, le=100_000)
    """Minutes without a sign of life after which a stage is ended; its logs then say where each rank is. none = never.

    A sign is anything it writes but its log: progress, metrics, rows, a checkpoint. Each token step of a generation is
    one, too. So it must be longer than a single model takes to load or to compile (our choice).
    """

    offload: Literal["none", "optimizer", "all"] = "none"
    """What lives in CPU memory.

    optimizer = its states and its step (zero1, zero2, zero3); all = the weights too (zero3, fsdp2).
    """

    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """For zero1, zero2, zero3: laid over the settings in deepspeed_file."""

    hostfile: Path | None = None
    """The machines, a line `HOST slots=8` each, in DeepSpeed's format. Ranks are started there over ssh."""

    slurm: Slurm | None = None
    """Run the stage under Slurm."""

    @model_validator(mode="before")
    @classmethod
    def _auto_on_several_machines(cls, data: Any) -> Any:
        """On several machines the default is `auto`: one rank on each machine would leave its other GPUs idle."""
        if not isinstance(data, dict) or "num_processes" in data:
            return data
        nodes = data.get("nodes")
        if isinstance(nodes, int) and nodes > 1:
            return data | {"num_processes": "auto"}
        return data


class StageConfig(Model):
    """Base of every stage's Config.

    `launch` is not part of the fingerprint; r1pipe/run/manifest.py names what else is not.
    """

    gets_ready: ClassVar[bool] = False
    """`run` calls `here.wait_for_turn()`, so its process may be started beside the stage before it."""

    lets_get_ready: ClassVar[bool] = False
    """The stage behind it may get ready beside it: it leaves memory and cores to others."""

    # numpy takes 32 bits, and stages add numbers of ranks and rounds
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Every random draw of the stage derives from it (our choice)."""

    launch: Launch = Launch()
    """How the stage becomes processes."""

    def mismatch(self, given: set[str]) -> str:
        """Why this config does not fit the stage's inputs; empty where it does. Called when the YAML is read.

        Args:
            given: names of the ports that have an input; of those that hold several, `port.key` too.
        """
        return ""
