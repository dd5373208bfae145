"""Joining stages: every input to what makes it or where it lies, every output to its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r1pipe.artifacts import Artifact
from r1pipe.config.artifact_checks import EMBEDDED, missing_parts
from r1pipe.config.registry import Kind, Port
from r1pipe.config.validation import Problem, expand
from r1pipe.config.yamltree import Node, Origin, nearest, plain

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Edge:
    """Where an input comes from.

    Attributes:
        text: as written in the YAML.
        name: what the stage sees as the artifact's name ('base' of embedded:base).
        type: what the port asks for.
        origin: made by a stage of this run, or brought.
        path: of what is brought and on this machine.
        stage, port: the maker's.
    """

    text: str
    name: str
    type: type[Artifact]
    origin: Literal["stage", "path", "embedded", "hub"]
    path: Path | None = None
    stage: str = ""
    port: str = ""


Edges = Edge | dict[str, Edge] | None


def join_inputs(
    stage: str,
    kind: Kind,
    block: Node,
    made: dict[str, tuple[str, Port]],
    later: dict[str, tuple[str, Origin]],
    problems: list[Problem],
) -> dict[str, Edges]:
    node = block.value.get("inputs", Node({}, block.origin))
    given = node.value or {}
    if not isinstance(given, dict):
        problems.append(
            Problem(
                f"stages.{stage}.inputs maps ports to names",
                str(node.origin),
                "inputs: {" + ": ..., ".join(kind.inputs) + ": ...}",
            )
        )
        return {}
    for key, child in given.items():
        if key not in kind.inputs:
            problems.append(
                Problem(f"stages.{stage} has no input '{key}'", str(child.origin), nearest(key, list(kind.inputs)))
            )
    result: dict[str, Edges] = {}
    for port in kind.inputs.values():
        child = given.get(port.name)
        if child is None or child.value is None:
            result[port.name] = {} if port.many else None
            if not port.optional and "use" not in block.value:
                problems.append(
                    Problem(
                        f"stages.{stage}.inputs: '{port.name}' ({port.type.kind}) is missing",
                        str(node.origin),
                        f"inputs: {{{port.name}: ...}}",
                    )
                )
        elif port.many:
            if not isinstance(child.value, dict):
                problems.append(
                    Problem(
                        f"stages.{stage}.inputs.{port.name} is a mapping of names to {port.type.kind}s",
                        str(child.origin),
                    )
                )
                continue
            sources = {key: _source(stage, port, one, made, later, problems) for key, one in child.value.items()}
            result[port.name] = {key: source for key, source in sources.items() if source is not None}
        else:
            result[port.name] = _source(stage, port, child, made, later, problems)
    return result


def _source(
    stage: str,
    port: Port,
    node: Node,
    made: dict[str, tuple[str, Port]],
    later: dict[str, tuple[str, Origin]],
    problems: list[Problem],
) -> Edge | None:
    text, at, label = node.value, str(node.origin), f"stages.{stage}.inputs.{port.name}"
    if not isinstance(text, str):
        problems.append(
            Problem(f"{label} should be a name, a path, embedded:NAME or hub:OWNER/NAME; it is {plain(node)!r}", at)
        )
        return None
    if text in made:
        maker, out = made[text]
        if not issubclass(out.type, port.type) and out.type is not Artifact:
            problems.append(
                Problem(f"{label} wants {port.type.kind}; '{text}' is {out.type.kind}, made by {maker}", at)
            )
        return Edge(text, text, port.type, "stage", stage=maker, port=out.name)
    if text in later:
        maker, below = later[text]
        what = (
            f"{label} reads '{text}' before it is made"
            if maker != stage
            else f"{label} reads what {stage} itself makes"
        )
        problems.append(Problem(what, at, f"{maker} makes it at {below}; put that stage above"))
        return None
    if text.startswith("hub:"):
        if not re.fullmatch(r"hub:[\w.-]+/[\w.-]+(@[\w./-]+)?", text):
            problems.append(Problem(f"{label}: '{text}' is no hub id", at, "hub:OWNER/NAME or hub:OWNER/NAME@REVISION"))
            return None
        return Edge(text, text[4:].split("/")[1].split("@")[0], port.type, "hub")
    if text.startswith("embedded:"):
        path = EMBEDDED / text[len("embedded:") :]
        if not path.exists():
            there = [f"embedded:{p.name}" for p in sorted(EMBEDDED.glob("*"))]
            problems.append(Problem(f"{label}: '{text}' does not ship", at, nearest(text, there)))
            return None
        return Edge(text, path.name, port.type, "embedded", path=path)
    if "/" in text or text[:1] in (".", "~") or text.startswith("${"):
        path = _path(text, node.origin, label, port.type, problems)
        return None if path is None else Edge(text, path.name, port.type, "path", path=path)
    fix = nearest(text, list(made) or list(later))
    problems.append(
        Problem(f"{label}: nothing is called '{text}'", at, f"{fix} (a file in this folder is written ./{text})")
    )
    return None


def _path(text: str, origin: Origin, label: str, type_: type[Artifact], problems: list[Problem]) -> Path | None:
    try:
        path = expand(text, origin.base)
    except KeyError as error:
        problems.append(
            Problem(
                f"{label}: the environment variable {error.args[0]} is not set",
                str(origin),
                f"export {error.args[0]}=...",
            )
        )
        return None
    lacks = missing_parts(type_, path)
    if lacks:
        problems.append(
            Problem(
                f"{label}: {lacks}",
                str(origin),
                "relative paths start from the YAML that states them" if not path.exists() else "",
            )
        )
        return None
    return path


def join_use(stage: str, kind: Kind, block: Node, problems: list[Problem]) -> dict[str, Path]:
    node = block.value.get("use")
    if node is None or node.value is None:
        return {}
    ports = list(kind.outputs)
    required = [port.name for port in kind.outputs.values() if not port.optional]
    if isinstance(node.value, str):
        if len(required) != 1:
            problems.append(
                Problem(
                    f"stages.{stage}.use: this kind makes {', '.join(ports)}",
                    str(node.origin),
                    "use: {" + ": PATH, ".join(required) + ": PATH}",
                )
            )
            return {}
        given = {required[0]: node}
    else:
        given = node.value if isinstance(node.value, dict) else {}
    adopted: dict[str, Path] = {}
    for port, child in given.items():
        if port not in kind.outputs:
            problems.append(Problem(f"stages.{stage} has no output '{port}'", str(child.origin), nearest(port, ports)))
        elif not isinstance(child.value, str):
            problems.append(Problem(f"stages.{stage}.use takes a path; it is {plain(child)!r}", str(child.origin)))
        else:
            path = _path(child.value, child.origin, f"stages.{stage}.use", kind.outputs[port].type, problems)
            if path is not None:
                adopted[port] = path
    return adopted


def join_outputs(
    stage: str,
    kind: Kind,
    block: Node,
    use: dict[str, Path],
    made: dict[str, tuple[str, Port]],
    problems: list[Problem],
) -> dict[str, str]:
    node = block.value.get("outputs")
    required = [port for port in kind.outputs.values() if not port.optional]
    if node is None and "use" in block.value and len(required) == 1:
        given = {required[0].name: Node(stage, block.origin)}
    else:
        node = node or Node({}, block.origin)
        given = node.value if isinstance(node.value, dict) else {}
        for port in required:
            if port.name not in given:
                problems.append(
                    Problem(
                        f"stages.{stage}.outputs: name the {port.type.kind} it makes",
                        str(node.origin),
                        f"outputs: {{{port.name}: NAME}}",
                    )
                )
    outputs: dict[str, str] = {}
    for key, child in given.items():
        at = str(child.origin)
        if key not in kind.outputs:
            problems.append(Problem(f"stages.{stage} has no output '{key}'", at, nearest(key, list(kind.outputs))))
        elif not isinstance(child.value, str) or not NAME.fullmatch(child.value):
            problems.append(
                Problem(
                    f"stages.{stage}.outputs.{key}: {plain(child)!r} is no name",
                    at,
                    "letters, digits, dot, dash, underscore",
                )
            )
        elif child.value in made:
            problems.append(Problem(f"'{child.value}' is made twice", at, f"{made[child.value][0]} makes it already"))
        elif use and key not in use:
            problems.append(Problem(f"stages.{stage}.use has no path for '{key}'", at))
        else:
            outputs[key] = child.value
            made[child.value] = (stage, kind.outputs[key])
    return outputs
