"""The command line: thin. Exit codes: 0 done, 1 a gate or threshold was not met, 2 the user's mistake, 3 a stage failed,
130 interrupted (SIGINT), 143 terminated (SIGTERM).

Everything but typer is imported inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1pipe.cli import data_commands as cli_data

if TYPE_CHECKING:
    from r1pipe.run.console import Console
    from r1pipe.run.plan import Plan

EPILOG = "Exit codes: 0 done, 1 a gate was not met, 2 your mistake (one panel says what, where and what to do), 3 a stage failed, 130/143 interrupted."
SHIPPED = Path(__file__).parents[1] / "configs"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="DeepSeek-R1's training recipe, end to end.",
    epilog=EPILOG,
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configs.")
app.add_typer(config_app, name="config")
audit_app = typer.Typer(no_args_is_help=True, help="Check before a GPU is used.")
app.add_typer(audit_app, name="audit")
app.add_typer(cli_data.app, name="data")

Config = Annotated[Path, typer.Argument(help="the YAML, for example configs/r1.yaml", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="override one value: stages.reasoning-rl.grpo.beta=0.01 (repeatable)"
    ),
]
Run = Annotated[str | None, typer.Option("--run", help="the run's name; else the config's `run:` or file name")]
Rebuild = Annotated[
    list[str] | None,
    typer.Option(
        "--rebuild",
        metavar="STAGE",
        help="redo this stage and what reads from it; the old ones move to runs/RUN/.old/ (repeatable)",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="refuse stages made by other versions of r1pipe or of its libraries")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="show what would run, with its processes (and the sbatch of Slurm stages); touch nothing"
    ),
]
Share = Annotated[float | None, typer.Option(min=0, max=1, help="over the stage's `audit:`", show_default=False)]


def default_config() -> Path:
    """./configs/r1.yaml where there is one (a checkout, or after `r1pipe init`), else the one that ships."""
    here = Path("configs/r1.yaml")
    return here if here.is_file() else SHIPPED / "r1.yaml"


Optional = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", help="the YAML [default: ./configs/r1.yaml, else the one that ships]", show_default=False
    ),
]


@app.command("run-all", epilog=EPILOG)
def run_all(
    config: Config,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="STAGE", help="just this stage (repeatable); what it reads must be done"),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="stop after this stage")] = None,
    rebuild: Rebuild = None,
    sets: Sets = None,
    run: Run = None,
    strict: Strict = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run every stage in order; skip what is done."""
    _run(config, only or [], until, rebuild or [], sets or [], run, strict, dry_run, json, upstream=False)


@app.command("run-stage", epilog=EPILOG)
def run_stage(
    stage: Annotated[str, typer.Argument(help="a stage's name in the config", show_default=False)],
    config: Optional = None,
    upstream: Annotated[bool, typer.Option("--upstream", help="first make what it needs")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="redo it even if it is done")] = False,
    sets: Sets = None,
    run: Run = None,
    strict: Strict = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run one stage."""
    _run(
        config or default_config(),
        [stage],
        None,
        [stage] if rebuild else [],
        sets or [],
        run,
        strict,
        dry_run,
        json,
        upstream,
    )


def _run(
    config: Path,
    only: list[str],
    until: str | None,
    rebuild: list[str],
    sets: list[str],
    run: str | None,
    strict: bool,
    dry_run: bool,
    json: bool,
    upstream: bool,
) -> None:
    from r1pipe.config.loader import load
    from r1pipe.run import pipeline
    from r1pipe.run.console import make_console
    from r1pipe.run.plan import make_plan, refuse

    loaded = load(config, sets, run)

    def replan() -> Plan:
        return make_plan(loaded, only, until, rebuild, upstream, strict)

    console = make_console(json)
    if dry_run:
        plan = replan()
        refuse(plan)
        console.figure(plan)
        arguments = [str(config), *(part for s in sets for part in ("--set", s)), *(["--run", run] if run else [])]
        _show_processes(plan, console, arguments)
        return
    try:
        summary = pipeline.run(replan, console)
    except pipeline.Interrupted as interrupted:
        console.close()
        console.note("interrupted; run the same command again to go on")
        raise SystemExit(interrupted.exit_code) from None
    except BaseException:
        console.close()
        raise
    if json:
        _print_json(summary)


def _show_processes(plan: Plan, console: Console, arguments: list[str]) -> None:
    from r1pipe.launch.hosts import preview
    from r1pipe.launch.launcher import ranks
    from r1pipe.launch.slurm import sbatch

    for name in plan.todo:
        stage = plan.pipeline.stages[name]
        launch = stage.config.launch
        if stage.use:
            console.line(f"{name}: adopts {', '.join(map(str, stage.use.values()))}")
        elif launch.nodes > 1 or launch.slurm:
            if launch.hostfile is None:
                console.line(f"{name}: sbatch\n{sbatch(plan.pipeline.run, name, launch, arguments)}")
            if launch.nodes > 1:
                console.line(
                    f"{name}: hostfile\n{preview(name, launch, plan.folder.stage(name).stage_json, arguments)}"
                )
        else:
            here = ranks(launch)
            console.line(f"{name}: {here.count} process(es), {here.threads} thread(s) each, profile {launch.profile}")


@app.command()
def plan(config: Config, sets: Sets = None, run: Run = None, json: Json = False) -> None:
    """Show the figure with the state of every stage."""
    from r1pipe.config.loader import load
    from r1pipe.run.console import make_console
    from r1pipe.run.plan import make_plan

    made = make_plan(load(config, sets or [], run))
    if json:
        _print_json(_states(made))
    else:
        make_console().figure(made)


def _states(made: Plan) -> dict[str, Any]:
    stages = [
        {
            "name": name,
            "kind": made.pipeline.stages[name].kind.name,
            "state": standing.state,
            "reasons": standing.reasons,
            "warnings": standing.warnings,
            "reads": {port: source.text for port, source in made.pipeline.stages[name].edges()},
            "makes": made.pipeline.stages[name].outputs,
        }
        for name, standing in made.standings.items()
    ]
    return {"run": made.pipeline.run, "folder": str(made.folder.path), "stages": stages}


@app.command()
def status(
    run: Annotated[
        str | None, typer.Argument(help="a run's name [default: the one touched last]", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show where a run stands, from its folder alone."""
    from r1pipe.run.status import newest_run, run_status, status_lines

    found = run_status(newest_run() if run is None else run)
    if json:
        _print_json(found)
    else:
        print("\n".join(status_lines(found)))


@app.command()
def logs(
    stage: Annotated[str, typer.Argument(help="a stage's name", show_default=False)],
    run: Annotated[
        str | None, typer.Option("--run", help="the run's name [default: the one touched last]", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on while the stage runs")] = False,
    rank: Annotated[int, typer.Option(help="which rank's log")] = 0,
) -> None:
    """Print the log of a stage's last attempt."""
    from r1pipe.run.status import newest_run, print_log

    print_log(newest_run() if run is None else run, stage, rank, follow)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="where `configs/` is to be")] = Path(".")) -> None:
    """Copy the shipped configs here, to edit."""
    import shutil

    from r1pipe.errors import InputError

    target = folder / "configs"
    if target.exists() and target.resolve() != SHIPPED.resolve() and any(target.iterdir()):
        raise InputError(f"{target} is there already", fix="another folder: `r1pipe init DIR`; or remove it first")
    if target.resolve() == SHIPPED.resolve():
        raise InputError(f"{target} is the shipped folder itself", fix="another folder: `r1pipe init DIR`")
    try:
        shutil.copytree(
            SHIPPED,
            target,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "__init__.py", "*.sh"),
        )
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}", str(folder)) from None
    print(f"{target}/ is yours to edit; next: r1pipe run-all {target / 'r1.yaml'}")


@config_app.command("show")
def config_show(
    config: Config,
    sets: Sets = None,
    defaults: Annotated[bool, typer.Option(help="also what the YAML leaves to the defaults")] = True,
    json: Json = False,
) -> None:
    """Print the resolved config, each value with the file and line (or --set, or default) that states it."""
    from r1pipe.config.loader import load
    from r1pipe.run.status import config_lines, resolved

    loaded = load(config, sets or [])
    if json:
        _print_json(resolved(loaded))
    else:
        print("\n".join(config_lines(loaded, defaults)))


@audit_app.command("rewards", epilog=EPILOG)
def audit_rewards(
    config: Config,
    stage: Annotated[
        str | None, typer.Option(help="one RL stage [default: all whose prompts are there]", show_default=False)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="also write what was found, with all the worst rows")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="prompts that are tried, and stored responses, of each stage")
    ] = 200,
    max_adversarial: Share = None,
    max_unparseable: Share = None,
    max_unjudged: Share = None,
    max_disagreement: Share = None,
    min_gold: Share = None,
    sets: Sets = None,
    run: Run = None,
) -> None:
    """Try every reward of RL on gold solutions, on stored responses, and on responses that should not win."""
    from r1pipe.config.loader import load
    from r1pipe.errors import GateError
    from r1pipe.run.reward_audit import audit_pipeline, show, write

    given = {"max_adversarial": max_adversarial, "max_unparseable": max_unparseable, "max_unjudged": max_unjudged}
    given |= {"max_disagreement": max_disagreement, "min_gold": min_gold}
    audits, missing = audit_pipeline(
        load(config, sets or [], run), stage, limit, {name: value for name, value in given.items() if value is not None}
    )
    show(audits, missing)
    if json is not None:
        write(json, audits, missing)
    failures = [f"{found.stage}: {failure}" for found in audits for failure in found.failures]
    if failures:
        raise GateError(
            f"{len(failures)} threshold(s) passed:\n" + "\n".join(failures),
            str(config),
            "mend the rows or the rewards, or move the thresholds",
        )


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False))


def main() -> None:
    try:
        app()
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = None  # nothing is left to flush into
        raise SystemExit(141) from None
    except Exception as raised:
        from r1pipe.errors import R1PipeError
        from r1pipe.run.console import RichConsole, make_console

        error = _explain(raised)
        if not isinstance(error, R1PipeError):
            raise
        (RichConsole() if sys.stderr.isatty() else make_console()).error(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _explain(error: Exception) -> Exception:
    """An operating system's refusal as one of our errors; everything else as it is."""
    import errno

    from r1pipe.errors import InputError

    if isinstance(error, OSError) and error.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
    ):
        return InputError(
            f"cannot write or read: {error.strerror}",
            str(error.filename or ""),
            "free space or permissions, then the same command goes on",
        )
    return error


if __name__ == "__main__":
    main()
