"""`r1pipe status`, `report`, `logs`, `init` and `config show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r1pipe.cli.options import SHIPPED_CONFIGS, Config, Json, Sets, print_json


def status(
    run: Annotated[
        str | None, typer.Argument(help="a run's name [default: the one used last]", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Show how far a run is, from its folder alone."""
    from r1pipe.run.status import newest_run, run_status, status_lines

    progress = run_status(newest_run() if run is None else run)
    if json:
        print_json(progress)
    else:
        print("\n".join(status_lines(progress)))


def report(
    run: Annotated[
        str | None, typer.Argument(help="a run's name [default: the one used last]", show_default=False)
    ] = None,
    open: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    price: Annotated[
        float | None,
        typer.Option(min=0, help="of a GPU's hour: what the run cost is in this report and all later ones"),
    ] = None,
    json: Json = False,
) -> None:
    """Write a run's page, report.html, and its text, from its folder alone; also while it runs."""
    import webbrowser

    from r1pipe.run.records import read_object
    from r1pipe.run.report import write_report
    from r1pipe.run.report.collect import PRICE
    from r1pipe.run.status import newest_run, run_folder
    from r1pipe.run.store import write_json

    folder = run_folder(newest_run() if run is None else run)
    if price is not None:
        write_json(folder.path / PRICE, {"price": price})
    page = write_report(folder, all_samples=True)
    if json:
        print_json(read_object(page.with_name("report.json")))
    else:
        print(page)
    if open:
        webbrowser.open(page.as_uri())


def logs(
    stage: Annotated[str, typer.Argument(help="a stage's name", show_default=False)],
    run: Annotated[
        str | None,
        typer.Option("--run", help="the run's name [default: the one used last]", show_default=False),
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="go on while the stage runs")] = False,
    rank: Annotated[int, typer.Option(help="which rank's log")] = 0,
) -> None:
    """Print the log of a stage's last attempt."""
    from r1pipe.run.status import newest_run, print_log

    print_log(newest_run() if run is None else run, stage, rank, follow)


def init(folder: Annotated[Path, typer.Argument(help="where to put `configs/`")] = Path(".")) -> None:
    """Copy the shipped configs here, to edit."""
    import shutil

    from r1pipe.errors import InputError

    target = folder / "configs"
    if target.resolve() == SHIPPED_CONFIGS.resolve():
        raise InputError(
            f"{target} is the shipped folder itself", fix="choose another folder: `r1pipe init DIR`"
        )
    if target.exists() and any(target.iterdir()):
        fix = "choose another folder (`r1pipe init DIR`), or remove it first"
        raise InputError(f"{target} is already there and not empty", fix=fix)
    no_configs = shutil.ignore_patterns("__pycache__", "*.pyc", "__init__.py", "*.sh")
    try:
        shutil.copytree(SHIPPED_CONFIGS, target, dirs_exist_ok=True, ignore=no_configs)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}", str(folder)) from None
    print(f"{target}/ is yours to edit; next: r1pipe run-all {target / 'r1.yaml'}")


def config_show(
    config: Config,
    sets: Sets = None,
    defaults: Annotated[bool, typer.Option(help="also what the YAML leaves to the defaults")] = True,
    json: Json = False,
) -> None:
    """Print the resolved config, each value with the file and line (or --set, or default) that states it."""
    from r1pipe.config.loader import load
    from r1pipe.run.config_view import config_lines, resolved

    loaded = load(config, sets or [])
    if json:
        print_json(resolved(loaded))
    else:
        print("\n".join(config_lines(loaded, defaults)))
