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
    from r1pipe.run.console import Console
    from r1pipe.run.plan import Plan


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
    from r1pipe.config.loader import load
    from r1pipe.run import pipeline
    from r1pipe.run.console import make_console
    from r1pipe.run.interrupts import Interrupted
    from r1pipe.run.plan import make_plan

    loaded = load(config, sets, run)

    def replan() -> Plan:
        return make_plan(loaded, **selection)

    console = make_console(json)
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
    try:
        summary = pipeline.run(replan, console, minutes)
    except Interrupted as interrupted:
        console.close()
        console.note(f"{interrupted}; run the same command again to go on")
        raise SystemExit(interrupted.exit_code) from None
    # The bar owns the cursor: without this, the error would be printed into it.
    except BaseException:
        console.close()
        raise
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


def plan(config: Config, sets: Sets = None, run: Run = None, json: Json = False) -> None:
    """Show the figure with the state of every stage, and what is wrong with its checkpoints and first rows."""
    from r1pipe.config.loader import load
    from r1pipe.run.console import make_console
    from r1pipe.run.findings import Teller, findings_of, refuse_errors
    from r1pipe.run.plan import make_plan

    figure = make_plan(load(config, sets or [], run))
    if json:
        findings = findings_of(figure)
        print_json(_plan_as_json(figure) | {"findings": [asdict(finding) for finding in findings]})
        refuse_errors(figure, findings)
    else:
        console = make_console()
        console.figure(figure)
        Teller(console.note).tell(figure, findings_of(figure))


def _plan_as_json(figure: Plan) -> dict[str, Any]:
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
            }
        )
    return {"run": figure.pipeline.run, "folder": str(figure.folder.path), "stages": stages}
