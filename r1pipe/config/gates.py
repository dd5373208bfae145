"""`require:` of a stage: limits that its numbers must meet; where one is not met, the run stops behind the stage.

require: reasoning >= base + 2 stderr
require: [format >= 0.9, over-refusal <= dev3 + 0.02, reasoning/strict > evaluate-dev1]

Left stands a number of the stage: a metric (`r1pipe status --json` and the report show them), or a suite, which is its
pass@1. Right stands a number, a checkpoint that a stage above has scored, or that stage; and maybe a margin, also in
standard errors. A gate is no part of the fingerprint: it may change at any time, and nothing is redone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from r1pipe.config.mistakes import Mistakes
from r1pipe.config.yamltree import Node, Origin, nearest, plain

if TYPE_CHECKING:
    from r1pipe.config.loader import Stage

Sign = Literal[">=", "<=", ">", "<"]

_NUMBER = r"\d*\.?\d+(?:[eE][+-]?\d+)?"
_GATE = re.compile(
    rf"""
    \s*(?P<metric>[^\s<>=]+)
    \s*(?P<sign>[<>]=?)
    \s*(?:(?P<number>-?{_NUMBER})|(?P<name>[A-Za-z][\w./-]*))
    (?:\s*(?P<direction>[+-])\s*(?P<margin>{_NUMBER})(?P<errors>\s*\*?\s*stderr)?)?\s*
    """,
    re.X,
)
EXAMPLE = "write it as in `reasoning >= base + 2 stderr`, `format >= 0.9` or `over-refusal <= dev3 + 0.02`"


@dataclass(frozen=True)
class Gate:
    """One limit.

    Attributes:
        text: as written.
        where: file and line.
        metric: what is compared, of the stage itself.
        number: the limit; None where it is a number of another stage.
        name: of that stage or checkpoint.
        others: the stages that `name` may stand for; the first that has the metric counts.
        margin: added to the limit.
        in_errors: the margin is in standard errors.
    """

    text: str
    where: str
    metric: str
    sign: Sign
    number: float | None
    name: str
    others: tuple[str, ...]
    margin: float
    in_errors: bool


def read_gates(
    stage: str,
    block: Node,
    above: Mapping[str, Stage],
    problems: Mistakes,
) -> tuple[Gate, ...]:
    """The gates of a stage.

    Args:
        block: of the YAML.
        above: the stages above this one, which alone can be compared with.
        problems: gets what cannot be understood.
    """
    node = block.value.get("require")
    if node is None or node.value is None:
        return ()
    if "use" in block.value:
        problems.add(
            f"stages.{stage}: a stage that is adopted has no numbers to require something of",
            node.origin,
            "leave out `require`, or `use`",
        )
    gates = []
    for child in node.value if isinstance(node.value, list) else [node]:
        gate = _read_gate(stage, child, above, problems)
        if gate is not None:
            gates.append(gate)
    return tuple(gates)


def _read_gate(
    stage: str,
    node: Node,
    above: Mapping[str, Stage],
    problems: Mistakes,
) -> Gate | None:
    text = node.value
    parts = _GATE.fullmatch(text) if isinstance(text, str) else None
    if parts is None:
        problems.add(f"stages.{stage}.require: {plain(node)!r} is no limit", node.origin, EXAMPLE)
        return None

    others: Sequence[str] = ()
    if parts["name"]:
        others = _stages_called(parts["name"], above)
        if not others:
            _unknown(stage, parts["name"], node.origin, above, problems)
            return None
    margin = float(parts["margin"] or 0)
    return Gate(
        text=" ".join(text.split()),
        where=str(node.origin),
        metric=parts["metric"],
        sign=parts["sign"],  # type: ignore[arg-type]
        number=float(parts["number"]) if parts["number"] else None,
        name=parts["name"] or "",
        others=tuple(others),
        margin=-margin if parts["direction"] == "-" else margin,
        in_errors=bool(parts["errors"]),
    )


def _stages_called(name: str, above: Mapping[str, Stage]) -> list[str]:
    """The stage of that name, else those that score the checkpoint of that name."""
    if name in above:
        return [name]
    return [other for other, stage in above.items() if name in _checkpoints(stage)]


def _checkpoints(stage: Stage) -> list[str]:
    """The names that a stage's scores may stand under: its field `checkpoint`, else the model that it reads."""
    stated = getattr(stage.config, "checkpoint", None)
    if stated:
        return [str(stated)]
    return [edge.name for port, edge in stage.edges() if port == "model"]


def _unknown(
    stage: str,
    name: str,
    origin: Origin,
    above: Mapping[str, Stage],
    problems: Mistakes,
) -> None:
    known = [*above]
    for other in above.values():
        known += _checkpoints(other)
    problems.add(
        f"stages.{stage}.require: no stage above is called '{name}' or scores a checkpoint of that name",
        origin,
        nearest(name, list(dict.fromkeys(known))),
    )
