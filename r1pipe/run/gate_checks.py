"""Gates on what is done: whether the numbers of a stage meet what its `require:` says (r1pipe/config/gates.py)."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from r1pipe.config.gates import Gate
from r1pipe.config.yamltree import nearest
from r1pipe.errors import ConfigError, GateError
from r1pipe.run.store import whole_manifest

if TYPE_CHECKING:
    from r1pipe.config.loader import Stage
    from r1pipe.run.plan import Plan

SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


class Outcome(NamedTuple):
    """What became of a gate.

    Attributes:
        gate: as written.
        met: None where it cannot be told yet.
        said: the numbers, or why there are none.
    """

    gate: str
    met: bool | None
    said: str

    @property
    def line(self) -> str:
        """For people.

        >>> Outcome("math >= 0.5", False, "0.4").line
        'requires math >= 0.5: not met (0.4)'
        """
        verdict = {True: "met", False: "not met", None: "open"}[self.met]
        return f"requires {self.gate}: {verdict} ({self.said})"


class _Value(NamedTuple):
    value: float
    stderr: float | None

    def __str__(self) -> str:
        text = f"{self.value:.4g}"
        return text if self.stderr is None else f"{text} ± {self.stderr:.2g}"


def outcomes(plan: Plan, stage: Stage) -> list[Outcome]:
    """What became of the gates of a stage, in their order."""
    if not stage.gates:
        return []
    if plan.states[stage.name].state != "done":
        return [Outcome(gate.text, None, f"{stage.name} is not done") for gate in stage.gates]
    found = []
    for gate in stage.gates:
        try:
            found.append(_outcome(plan, stage, gate))
        except ConfigError as error:
            found.append(Outcome(gate.text, None, error.what))
    return found


def check_gates(plan: Plan, stage: Stage) -> list[Outcome]:
    """Refuse to go on behind a stage that is done; return its gates where all are met.

    Raises:
        GateError: it does not meet a gate.
        ConfigError: a gate names what was not measured.
    """
    found = [_outcome(plan, stage, gate) for gate in stage.gates]
    missed = [outcome for outcome in found if not outcome.met]
    if not missed:
        return found
    lines = [f"{outcome.gate}: {outcome.said}" for outcome in missed]
    raise GateError(
        f"{stage.name} does not meet what it requires:\n" + "\n".join(lines),
        stage.gates[found.index(missed[0])].where,
        "change what made it, and run again with --rebuild\n"
        f"or change the limit (or --set stages.{stage.name}.require=null) and run the same command again: "
        "the stage is not redone",
    )


def _outcome(plan: Plan, stage: Stage, gate: Gate) -> Outcome:
    """Raises: ConfigError: a number is missing."""
    own = _number_of(plan, gate, [stage.name])
    limit = _number_of(plan, gate, gate.others) if gate.number is None else _Value(gate.number, None)
    step = _stderr(stage, gate, own, limit) if gate.in_errors else 1.0
    bound = limit.value + gate.margin * step
    said = str(own)
    if gate.name:
        said += f"; {gate.name} {limit}"
    if gate.margin:
        said += f"; the limit is {bound:.4g}"
    return Outcome(gate.text, SIGNS[gate.sign](own.value, bound), said)


def _stderr(stage: Stage, gate: Gate, own: _Value, limit: _Value) -> float:
    """The standard error of the difference, as if both had answered other problems.

    On the same problems that of the paired difference is smaller mostly; `compare` has its interval as a metric.
    """
    if own.stderr is None or (gate.name and limit.stderr is None):
        raise ConfigError(
            f"'{gate.metric}' of {stage.name} has no standard error",
            gate.where,
            "give the margin as a number",
        )
    return math.hypot(own.stderr, limit.stderr or 0.0)


def _number_of(plan: Plan, gate: Gate, stages: Sequence[str]) -> _Value:
    """The number that a gate names, of the first of these stages that has it."""
    known: list[str] = []
    for name in stages:
        metrics: Mapping[str, Any] = whole_manifest(plan.folder.stage(name)).get("metrics", {})
        value = _value_in(metrics, gate.metric)
        if value is not None:
            return value
        known += metrics
    if not known:
        raise ConfigError(
            f"`require: {gate.text}` compares with {stages[0]}, which is not done",
            gate.where,
            f"make it first: `{plan.pipeline.command(stages[0])}`",
        )
    raise ConfigError(
        f"{stages[0]} has no number '{gate.metric}': nothing measured it, or it is called otherwise",
        gate.where,
        nearest(gate.metric, known),
    )


def _value_in(metrics: Mapping[str, Any], name: str) -> _Value | None:
    """A metric with its standard error.

    >>> _value_in({"math/pass@1": 0.5, "math/stderr": 0.1, "math/strict": 0.4}, "math")
    _Value(value=0.5, stderr=0.1)
    """
    # A suite is its pass@1.
    key = next((key for key in (name, f"{name}/pass@1") if key in metrics), None)
    if key is None:
        return None
    value = metrics[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    suite = key.removesuffix("/pass@1")
    stderr = metrics.get(f"{suite}/stderr", metrics.get(f"{key}_stderr"))
    known = isinstance(stderr, int | float) and math.isfinite(stderr)
    return _Value(float(value), float(stderr) if known else None)
