"""The edges of the figure: every input is joined to the stage that makes it or to where it lies on disk.

Outputs get their names here, and `use:` its paths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r1pipe.artifacts import Artifact
from r1pipe.config.artifact_checks import EMBEDDED, ROW_TYPES, missing_parts
from r1pipe.config.mistakes import Mistakes
from r1pipe.config.paths import expand, expand_variables
from r1pipe.config.registry import Kind, Port
from r1pipe.config.yamltree import Node, Origin, nearest, plain
from r1pipe.text.regular_files import oddity

# With room for a number and an ending in the 255 bytes that file systems give a name.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
NAME_RULE = "up to 100 letters, digits, dots, dashes, underscores; the first a letter or digit"

CAPITALS = "the names differ in capitals alone, which many disks do not tell apart"

# What a run keeps in its folder and in those of its stages (r1pipe/run/store.py). A stage is a folder there.
OWN_NAMES = {
    *(
        "config.json",
        "summary.json",
        "lock.json",
        "artifacts",
        "stage.json",
        "manifest.json",
        "result.json",
        "deepspeed.json",
    ),
    *("logs", "workdir", "out", "out.partial", "metrics.jsonl", "progress.jsonl", "notes.jsonl"),
}
HUB_ID = re.compile(r"hub:[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Edge:
    """One input of a stage, and where it comes from.

    Attributes:
        text: as written in the YAML.
        name: what the stage sees as the artifact's name ('base' of embedded:base).
        type: the artifact type of the port.
        origin: a stage of this run, or what the user brings: a path, embedded data, a repository on the hub.
        path: of what is brought and on this machine.
        stage, port: of the stage that makes it.
    """

    text: str
    name: str
    type: type[Artifact]
    origin: Literal["stage", "path", "embedded", "hub"]
    path: Path | None = None
    stage: str = ""
    port: str = ""


Edges = Edge | dict[str, Edge] | None
"""What one port reads: one artifact, several by name, or nothing."""


@dataclass
class Names:
    """The names of outputs, while the stages are read in order.

    Attributes:
        made: by the stages above: name -> (stage, its output port).
        everywhere: by all stages: name -> (stage, where the YAML says so). A name that is read too early is only here.
    """

    everywhere: dict[str, tuple[str, Origin]]
    made: dict[str, tuple[str, Port]] = field(default_factory=dict)

    def twin(self, name: str) -> str | None:
        """A name that was made and differs from this one in capitals alone."""
        for made in self.made:
            if made != name and made.lower() == name.lower():
                return made
        return None


def join_inputs(stage: str, kind: Kind, block: Node, names: Names, problems: Mistakes) -> dict[str, Edges]:
    """The edges into a stage, by port."""
    node = block.value.get("inputs", Node({}, block.origin))
    stated = node.value or {}
    if not isinstance(stated, dict):
        example = ": ..., ".join(kind.inputs)
        problems.add(f"stages.{stage}.inputs maps ports to names", node.origin, f"inputs: {{{example}: ...}}")
        return {}
    for key, child in stated.items():
        if key not in kind.inputs:
            problems.add(
                f"stages.{stage} has no input '{key}'", child.origin, nearest(key, list(kind.inputs))
            )

    edges: dict[str, Edges] = {}
    for port in kind.inputs.values():
        child = stated.get(port.name)
        if child is None or child.value is None:
            edges[port.name] = {} if port.many else None
            if not port.optional and "use" not in block.value:
                problems.add(
                    f"stages.{stage}.inputs: '{port.name}' ({port.type.kind}) is missing",
                    node.origin,
                    f"inputs: {{{port.name}: ...}}",
                )
        elif not port.many:
            edges[port.name] = _edge(stage, port, child, names, problems)
        elif not isinstance(child.value, dict):
            problems.add(
                f"stages.{stage}.inputs.{port.name} is a mapping of names to {port.type.kind}s",
                child.origin,
            )
        else:
            several = {key: _edge(stage, port, item, names, problems) for key, item in child.value.items()}
            edges[port.name] = {key: edge for key, edge in several.items() if edge is not None}
    return edges


def _edge(stage: str, port: Port, node: Node, names: Names, problems: Mistakes) -> Edge | None:
    """What one input reads: a name that a stage above makes, hub:, embedded: or a path."""
    label = f"stages.{stage}.inputs.{port.name}"
    text = node.value
    if not isinstance(text, str):
        problems.add(
            f"{label} should be a name, a path, embedded:NAME or hub:OWNER/NAME; it is {plain(node)!r}",
            node.origin,
        )
        return None
    if text in names.made:
        return _edge_from_stage(label, port, node, names, problems)
    if text in names.everywhere:
        maker, below = names.everywhere[text]
        if maker == stage:
            what = f"{label} reads '{text}', which {stage} itself makes"
        else:
            what = f"{label} reads '{text}' before it is made"
        problems.add(what, node.origin, f"{maker} makes it at {below}; move that stage above")
        return None

    # a variable may hold any of what follows
    if "${" in text:
        try:
            text = expand_variables(text)
        except KeyError as error:
            problems.absent(*_unset(label, error, node.origin))
            return Edge(text, text, port.type, "path")

    if text.startswith("hub:"):
        if not HUB_ID.fullmatch(text):
            problems.add(
                f"{label}: '{text}' is not a hub id",
                node.origin,
                "hub:OWNER/NAME or hub:OWNER/NAME@REVISION",
            )
            return None
        repository = text.removeprefix("hub:").split("@")[0]
        return Edge(text, repository.split("/")[1], port.type, "hub")

    if text.startswith("embedded:"):
        path = EMBEDDED / text.removeprefix("embedded:")
        if not path.exists():
            shipped = [f"embedded:{path.name}" for path in sorted(EMBEDDED.glob("*"))]
            problems.add(f"{label}: '{text}' does not ship", node.origin, nearest(text, shipped))
            return None
        return Edge(text, path.name, port.type, "embedded", path=path)

    if "/" in text or text.startswith((".", "~")):
        path = _existing_path(text, node.origin, label, port.type, problems)
        return None if path is None else Edge(text, path.name, port.type, "path", path=path)

    known = nearest(text, list(names.made) or list(names.everywhere))
    problems.add(
        f"{label}: nothing is called '{text}'",
        node.origin,
        f"{known} (a file in this folder is written ./{text})",
    )
    return None


def _edge_from_stage(label: str, port: Port, node: Node, names: Names, problems: Mistakes) -> Edge:
    text = node.value
    maker, output = names.made[text]
    # the outputs of a stage whose kind is unknown are plain Artifacts, and fit everything
    if not issubclass(output.type, port.type) and output.type is not Artifact:
        problems.add(
            f"{label} needs {port.type.kind}; '{text}' is {output.type.kind}, made by {maker}",
            node.origin,
        )
    return Edge(text, text, port.type, "stage", stage=maker, port=output.name)


def _existing_path(
    text: str, origin: Origin, label: str, type_: type[Artifact], problems: Mistakes
) -> Path | None:
    """The path of an artifact that looks like its type."""
    try:
        path = expand(text, origin.base)
    except KeyError as error:
        problems.add(*_unset(label, error, origin))
        return None
    odd = oddity(path)
    if odd:
        problems.add(f"{label}: '{text:.200}' cannot be read: {odd}", origin, "name a file or a folder")
        return None
    # Rows are looked at when the run is planned, beside the checkpoints (r1pipe/run/findings.py).
    missing = missing_parts(type_, path, first_row=type_ not in ROW_TYPES)
    if missing:
        fix = "" if path.exists() else "relative paths start from the YAML that states them"
        problems.absent(f"{label}: {missing}", origin, fix)
    return path


def _unset(label: str, error: KeyError, origin: Origin) -> tuple[str, Origin, str]:
    name = error.args[0]
    return f"{label}: the environment variable {name} is not set", origin, f"export {name}=..."


def join_use(stage: str, kind: Kind, block: Node, problems: Mistakes) -> dict[str, Path]:
    """The paths that `use:` adopts in place of running the stage, by output port."""
    node = block.value.get("use")
    if node is None or node.value is None:
        return {}

    ports = list(kind.outputs)
    if isinstance(node.value, str):
        required = _required_outputs(kind)
        if len(required) != 1:
            example = ": PATH, ".join(port.name for port in required)
            problems.add(
                f"stages.{stage}.use: this kind makes {', '.join(ports)}",
                node.origin,
                f"use: {{{example}: PATH}}",
            )
            return {}
        stated = {required[0].name: node}
    else:
        stated = node.value if isinstance(node.value, dict) else {}

    adopted: dict[str, Path] = {}
    for port, child in stated.items():
        if port not in kind.outputs:
            problems.add(f"stages.{stage} has no output '{port}'", child.origin, nearest(port, ports))
        elif not isinstance(child.value, str):
            problems.add(f"stages.{stage}.use takes a path; it is {plain(child)!r}", child.origin)
        else:
            type_ = kind.outputs[port].type
            path = _existing_path(child.value, child.origin, f"stages.{stage}.use", type_, problems)
            if path is not None:
                adopted[port] = path
    return adopted


def join_outputs(
    stage: str, kind: Kind, block: Node, use: dict[str, Path], names: Names, problems: Mistakes
) -> dict[str, str]:
    """The names of a stage's outputs, by port. They are added to the names that the stages below can read."""
    stated = _stated_outputs(stage, kind, block, problems)
    outputs: dict[str, str] = {}
    for port, child in stated.items():
        name = child.value
        if port not in kind.outputs:
            problems.add(
                f"stages.{stage} has no output '{port}'", child.origin, nearest(port, list(kind.outputs))
            )
        elif not isinstance(name, str) or not NAME.fullmatch(name):
            problems.add(
                f"stages.{stage}.outputs.{port}: {plain(child)!r} is not a name", child.origin, NAME_RULE
            )
        elif name in names.made:
            maker, _ = names.made[name]
            problems.add(f"'{name}' is made twice", child.origin, f"{maker} makes it already")
        elif twin := names.twin(name):
            problems.add(f"outputs '{twin}' and '{name}': {CAPITALS}", child.origin, "another name for one")
        elif use and port not in use:
            problems.add(f"stages.{stage}.use has no path for '{port}'", child.origin)
        else:
            outputs[port] = name
            names.made[name] = (stage, kind.outputs[port])
    return outputs


def _stated_outputs(stage: str, kind: Kind, block: Node, problems: Mistakes) -> dict[str, Node]:
    node = block.value.get("outputs")
    required = _required_outputs(kind)
    # what is adopted and has one output needs no `outputs:`; it goes by the stage's name
    if node is None and "use" in block.value and len(required) == 1:
        return {required[0].name: Node(stage, block.origin)}

    if node is None:
        node = Node({}, block.origin)
    stated = node.value if isinstance(node.value, dict) else {}
    for port in required:
        if port.name not in stated:
            problems.add(
                f"stages.{stage}.outputs: name the {port.type.kind} it makes",
                node.origin,
                f"outputs: {{{port.name}: NAME}}",
            )
    return stated


def _required_outputs(kind: Kind) -> list[Port]:
    return [port for port in kind.outputs.values() if not port.optional]


def declare_outputs(stage: str, block: Node, names: Names) -> None:
    """Names of a stage whose kind is unknown, so that its readers are not reported as mistakes too."""
    outputs = block.value.get("outputs")
    if outputs is not None and isinstance(outputs.value, dict):
        stated = [node.value for node in outputs.value.values()]
    else:
        stated = [stage]
    for name in stated:
        if isinstance(name, str):
            names.made[name] = (stage, Port("", Artifact, False, False))
