"""`r1pipe run-all`, `run-stage` and `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1pipe.cli.options import (
    Config,
    ConfigOption,
    DryRun,
    Json,
    Minutes,
    Rebuild,
    Run,
    Sets,
    Strict,
    default_config,
    print_json,
)

if TYPE_CHECKING:
    from r1pipe.config.loader import Pipeline
    from r1pipe.run.console import Console
    from r1pipe.run.plan import Plan
    from r1pipe.run.planning.figure_plan import FigurePlan


def run_all(
    config: Config,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="STAGE", help="only this stage (repeatable); what it reads must be done"
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="stop after this stage")
    ] = None,
    rebuild: Rebuild = None,
    sets: Sets = None,
    run: Run = None,
    strict: Strict = False,
    minutes: Minutes = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run every stage in order; skip what is done."""
    selection = {"only": only or [], "until": until, "rebuild": rebuild or [], "strict": strict}
    _run(config, sets or [], run, selection, minutes=minutes, dry_run=dry_run, json=json)


def run_stage(
    stage: Annotated[str, typer.Argument(help="a stage's name in the config", show_default=False)],
    config: ConfigOption = None,
    upstream: Annotated[bool, typer.Option("--upstream", help="first make what it needs")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="redo it even if it is done")] = False,
    sets: Sets = None,
    run: Run = None,
    strict: Strict = False,
    minutes: Minutes = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run one stage."""
    redone = [stage] if rebuild else []
    selection = {"only": [stage], "rebuild": redone, "upstream": upstream, "strict": strict}
    _run(config or default_config(), sets or [], run, selection, minutes=minutes, dry_run=dry_run, json=json)


def _run(
    config: Path,
    sets: Sequence[str],
    run: str | None,
    selection: dict[str, Any],
    *,
    minutes: float | None,
    dry_run: bool,
    json: bool,
) -> None:
    """Run what is selected (the keywords of make_plan), or show what would run."""
    from r1pipe.cli.interruptions import ends_tidily
    from r1pipe.config.loader import load
    from r1pipe.run import pipeline
    from r1pipe.run.console import make_console
    from r1pipe.run.plan import make_plan, select

    def needed(loaded: Pipeline) -> list[str]:
        named = {key: value for key, value in selection.items() if key != "strict"}
        selected = select(loaded, **named)
        return [*selected, *loaded.ancestors(selected)]

    loaded = load(config, sets, run, needed=needed)

    def replan() -> Plan:
        return make_plan(loaded, **selection)

    console = make_console(json)
    if loaded.left_out:
        count, shown = len(loaded.left_out), ", ".join(loaded.left_out[:5])
        console.note(
            f"stages whose inputs are not on this machine are left out ({count}): {shown}{', ...' * (count > 5)}"
        )
    if dry_run:
        arguments = [str(config)]
        for statement in sets:
            arguments += ["--set", statement]
        if run:
            arguments += ["--run", run]
        if minutes is not None:
            arguments += ["--minutes", f"{minutes:g}"]
        _dry_run(replan(), console, arguments)
        return
    with ends_tidily(console):
        summary = pipeline.run(replan, console, minutes)
    if json:
        print_json(summary)


def _dry_run(plan: Plan, console: Console, arguments: Sequence[str]) -> None:
    """Show what would run.

    Args:
        arguments: of this command, for the scripts that call it again on other machines.
    """
    from r1pipe.launch.hosts import preview
    from r1pipe.launch.launcher import ranks
    from r1pipe.launch.slurm import sbatch
    from r1pipe.run.findings import Teller, findings_of
    from r1pipe.run.plan import refuse

    refuse(plan)
    console.figure(plan)
    Teller(console.note).tell(plan, findings_of(plan))
    for name in plan.todo:
        stage = plan.pipeline.stages[name]
        launch = stage.config.launch
        if stage.use:
            console.line(f"{name}: adopts {', '.join(map(str, stage.use.values()))}")
        elif launch.nodes > 1 or launch.slurm:
            if launch.hostfile is None:
                console.line(f"{name}: sbatch\n{sbatch(plan.pipeline.run, name, launch, arguments)}")
            if launch.nodes > 1:
                hosts = preview(name, launch, plan.folder.stage(name).stage_json, arguments)
                console.line(f"{name}: hostfile\n{hosts}")
        else:
            own = ranks(launch)
            console.line(
                f"{name}: {own.count} process(es), {own.threads} thread(s) each, profile {launch.profile}"
            )


def plan(
    config: Config,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="CARD", help="plan for this card, e.g. h100, h200, a100, rtx4090"),
    ] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", min=1, help="GPUs of a machine")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="machines")] = None,
    memory: Annotated[
        float | None, typer.Option("--memory", min=1, help="GiB of a GPU, where its card is not known")
    ] = None,
    price: Annotated[float | None, typer.Option("--price", min=0, help="of a GPU's hour")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="in the place of the models that you bring: a folder with config.json, or a name such as "
            "Qwen2.5-1.5B; models and data need not be here then",
        ),
    ] = None,
    length: Annotated[
        list[str] | None,
        typer.Option(
            "--length",
            metavar="STAGE=TOKENS",
            help="mean tokens of a stage's responses, or UPDATE:TOKENS,UPDATE:TOKENS (repeatable)",
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="first measure this machine's speed, for a minute or less")
    ] = False,
    sets: Sets = None,
    run: Run = None,
    json: Json = False,
) -> None:
    """Show the figure with the state of every stage, what is wrong with its checkpoints and first rows, and what it
    takes: memory of a GPU, tokens, time, money, disk."""
    from r1pipe.config.loader import load
    from r1pipe.errors import ConfigError
    from r1pipe.run.planning.calibration import measured_efficiency
    from r1pipe.run.planning.figure_plan import as_json, asked_machine, plan_figure
    from r1pipe.run.planning.known_models import named_shape
    from r1pipe.run.planning.lengths import stated

    shape = named_shape(model) if model else None
    lengths = dict(stated(text) for text in length or [])
    on_paper = model is not None
    try:
        pipeline = load(config, sets or [], run, on_paper=on_paper)
    except ConfigError as error:
        if "environment variable" in error.what or "nothing is at" in error.what:
            error.fix += "\nor plan without models and data: --model NAME, such as Qwen2.5-1.5B"
        raise
    machine = asked_machine(gpu, gpus, nodes, memory, measured_efficiency(again=measure))
    needs = plan_figure(
        pipeline,
        machine,
        price=price,
        model=shape,
        lengths=lengths,
    )
    if on_paper:
        _show_needs(needs, json)
        return
    _show_plan(pipeline, needs, as_json(needs) if json else None)


def _show_needs(needs: FigurePlan, json: bool) -> None:
    """What a figure takes, whose models and data are not here."""
    from r1pipe.run.console import make_console
    from r1pipe.run.planning.figure_plan import as_json
    from r1pipe.run.planning.plan_table import plan_lines

    if json:
        print_json(as_json(needs))
        return
    console = make_console()
    for line in plan_lines(needs):
        console.line(line)


def _show_plan(pipeline: Pipeline, needs: FigurePlan, needs_json: dict[str, Any] | None) -> None:
    """States, findings and needs."""
    from r1pipe.run.console import make_console
    from r1pipe.run.findings import Teller, findings_of, refuse_errors
    from r1pipe.run.plan import make_plan
    from r1pipe.run.planning.plan_table import plan_lines

    figure = make_plan(pipeline)
    if needs_json is not None:
        findings = findings_of(figure)
        shown = [asdict(finding) for finding in findings]
        print_json(_plan_as_json(figure) | {"findings": shown} | needs_json)
        refuse_errors(figure, findings)
        return
    console = make_console()
    console.figure(figure)
    for line in plan_lines(needs):
        console.line(line)
    Teller(console.note).tell(figure, findings_of(figure))


def _plan_as_json(figure: Plan) -> dict[str, Any]:
    from r1pipe.run.gate_checks import outcomes

    stages = []
    for name, state in figure.states.items():
        stage = figure.pipeline.stages[name]
        stages.append(
            {
                "name": name,
                "kind": stage.kind.name,
                "state": state.state,
                "reasons": state.reasons,
                "warnings": state.warnings,
                "reads": {port: edge.text for port, edge in stage.edges()},
                "makes": stage.outputs,
                "gates": [outcome._asdict() for outcome in outcomes(figure, stage)],
            }
        )
    return {"run": figure.pipeline.run, "folder": str(figure.folder.path), "stages": stages}
