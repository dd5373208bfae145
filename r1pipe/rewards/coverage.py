"""Which rewards of a phase can fire at all: one that applies to no row trains nothing, without a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1pipe.errors import InputError
from r1pipe.rewards import MODEL_REWARDS
from r1pipe.rewards.scoring import component_names, where_applied
from r1pipe.schema import Phase, RewardSpec

Row = Mapping[str, Any]

_COLUMNS = {
    "accuracy": "`answer` (a row with `tests` or `gym` is judged by these)",
    "code": "`tests`",
    "reasoning_gym": "`gym`",
    "judge": "`reference` or `answer`",
}


def _always() -> bool:
    return True


def idle_rewards(
    phase: Phase,
    rows: Sequence[Row],
    *,
    isolation: Callable[[], bool] = _always,
) -> dict[str, str]:
    """The components of a phase that apply to no row: name -> why.

    Args:
        rows: the prompts of all ports that the phase reads.
        isolation: whether programs can be run, else rows of code are left out. It is asked where this decides, since
            the answer may take a process.
    """
    applied = where_applied(phase.rewards, rows)
    idle: dict[str, str] = {}
    for name, spec in zip(component_names(phase.rewards), phase.rewards, strict=True):
        if any(applied[name]):
            continue
        if spec.name == "code" and not isolation():
            continue
        idle[name] = _why(spec, rows)
    return idle


def _why(spec: RewardSpec, rows: Sequence[Row]) -> str:
    domains = spec.domains or MODEL_REWARDS.get(spec.name)
    found = dict.fromkeys(str(row.get("domain")) for row in rows)
    if domains is not None and not set(domains) & set(found):
        return f"it is for rows of {', '.join(domains)}, and these are of {', '.join(list(found)[:10])}"
    if spec.name in _COLUMNS:
        return f"no row that it may judge has {_COLUMNS[spec.name]}"
    return "no row is left for it"


def refuse_idle_rewards(
    phases: Sequence[Phase],
    prompts: Mapping[str, Sequence[Row]],
    *,
    isolation: Callable[[], bool] = _always,
) -> None:
    """Refuse phases with a reward that cannot fire.

    Args:
        prompts: input port -> its rows. A phase that reads another port is passed over.
        isolation: as `idle_rewards`.

    Raises:
        InputError: there is one; the error names the phase, the reward and the remedy.
    """
    for number, phase in enumerate(phases):
        if not set(phase.prompts) <= set(prompts):
            continue
        rows = [row for port in phase.prompts for row in prompts[port]]
        idle = idle_rewards(phase, rows, isolation=isolation)
        if idle:
            name, why = next(iter(idle.items()))
            others = f" (nor do {', '.join(list(idle)[1:])})" if len(idle) > 1 else ""
            raise InputError(
                f"the reward `{name}` applies to none of {len(rows)} prompts{others}: {why}",
                f"grpo.phases.{number}.rewards",
                "give the rows what it reads (a `prompts` stage maps columns: `columns: {OURS: THEIRS}`), "
                "or leave the reward out of the phase",
            )
