"""A figure's plan as lines for people, at most 100 columns wide."""

from __future__ import annotations

from textwrap import wrap

from r1pipe.run.planning.cards import GIB
from r1pipe.run.planning.figure_plan import FigurePlan, StagePlan
from r1pipe.run.planning.numbers import duration, money, short

WIDTH = 100
HOUR = 3600.0


def plan_lines(plan: FigurePlan) -> list[str]:
    """The table, what does not fit and what to set, the totals, and what they rest on."""
    priced = plan.price is not None
    name_width = min(28, max(len(stage.name) for stage in plan.stages))
    head = f"{'stage':{name_width}}  {'GPUs':>5} {'memory GiB':>13}  {'fits':4} {'drawn':>7} {'trained':>8} {'time':>9}"
    lines = [_machine(plan), head + (f" {'cost':>9}" if priced else "")]
    # What reads and writes rows alone takes seconds, and is told in one line.
    light = [stage for stage in plan.stages if not stage.found.gpus]
    for stage in plan.stages:
        if stage not in light:
            lines.append(
                _line(
                    stage,
                    plan,
                    name_width,
                )
            )
            if stage.change:
                lines += wrap(
                    stage.change,
                    WIDTH,
                    initial_indent="    ",
                    subsequent_indent="      ",
                )
    if light:
        seconds = sum(stage.seconds for stage in light)
        lines.append(f"{len(light)} stages without a model: {duration(seconds)}")
    lines += _totals(plan)
    for note in _merged(plan.notes):
        lines += wrap(
            f"note: {note}",
            WIDTH,
            subsequent_indent="      ",
        )
    return [line.rstrip() for line in lines]


def _machine(plan: FigurePlan) -> str:
    machine = plan.machine
    measured = f"speed by {machine.efficiency.measured}"
    if not machine.gpu:
        return f"planned for the CPU of this machine; {measured}"
    count = f"{machine.nodes} x {machine.gpus}" if machine.nodes > 1 else f"{machine.gpus}"
    memory = f"{machine.card.memory / GIB:.0f} GiB each"
    return f"planned for {count} x {machine.card.name} ({memory}); {measured}"


def _line(stage: StagePlan, plan: FigurePlan, name_width: int) -> str:
    found = stage.found
    memory = "-"
    if found.memory is not None:
        memory = f"{found.memory.used / GIB:.1f}"
        if plan.machine.gpu:
            memory += f" of {plan.machine.card.memory / GIB:.0f}"
    verdict = {True: "yes", False: "NO", None: ""}[stage.fits]
    gpus = str(found.gpus) if plan.machine.gpu else "-"
    took = duration(stage.seconds) + ("*" if stage.measured_s is not None else "")
    name = stage.name if len(stage.name) <= name_width else stage.name[: name_width - 1] + "…"
    line = f"{name:{name_width}}  {gpus:>5} {memory:>13}  {verdict:4} {short(found.drawn):>7} "
    line += f"{short(found.trained):>8} {took:>9}"
    if plan.price is not None:
        hours = stage.seconds * max(1, found.gpus) / HOUR
        line += f" {money(hours * plan.price):>9}"
    return line


def _totals(plan: FigurePlan) -> list[str]:
    drawn = sum(stage.found.drawn for stage in plan.stages)
    trained = sum(stage.found.trained for stage in plan.stages)
    flops = sum(stage.found.flops for stage in plan.stages)
    total = f"total: {duration(plan.seconds)} one after the other"
    if plan.machine.gpu:
        total += f", {plan.gpu_hours:,.1f} GPU hours"
    if plan.price is not None:
        total += f", {money(plan.gpu_hours * plan.price)} at {plan.price:g} an hour"
    work = f"       {short(drawn)} tokens drawn, {short(trained)} trained, {flops:.1e} operations; "
    work += f"{short(plan.disk)}B of disk"
    lines = [total, work]
    misfits = [stage.name for stage in plan.stages if stage.fits is False]
    if misfits:
        verb = "does not fit as it is" if len(misfits) == 1 else "do not fit as they are"
        text = f"{len(misfits)} of {len(plan.stages)} stages {verb}: {', '.join(misfits)}"
        lines += wrap(
            text,
            WIDTH,
            subsequent_indent="       ",
        )
    if any(stage.measured_s is not None for stage in plan.stages):
        lines.append("* of this run, measured")
    return lines


def _merged(notes: list[str]) -> list[str]:
    """Notes that say the same of several stages, as one."""
    by_text: dict[str, list[str]] = {}
    for note in notes:
        stage, colon, text = note.partition(": ")
        by_text.setdefault(text if colon else note, []).append(stage if colon else "")
    merged = []
    for text, stages in by_text.items():
        named = [stage for stage in stages if stage]
        if not named:
            merged.append(text)
        elif len(named) <= 2:
            merged.append(f"{', '.join(named)}: {text}")
        else:
            merged.append(f"{named[0]} and {len(named) - 1} more: {text}")
    return merged
