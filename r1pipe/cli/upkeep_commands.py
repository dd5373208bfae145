"""`r1pipe reproduce` and `clean`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from r1pipe.cli.options import Json, print_json


def reproduce(
    run: Annotated[str, typer.Argument(help="a run's name", show_default=False)],
    again: Annotated[
        str | None, typer.Option("--run", help="the new run's name [default: RUN-again]", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Make a run again beside it, and say whether the same came out; exit code 1 where it did not."""
    from r1pipe.cli.interruptions import ends_tidily
    from r1pipe.run.console import make_console
    from r1pipe.run.reproduce import reproduce as repeat

    console = make_console(json)
    with ends_tidily(console):
        found = repeat(run, again or f"{run}-again", console)
    if json:
        print_json({"equal": not found.first} | asdict(found))
    else:
        print("\n".join(found.lines()))
    raise SystemExit(bool(found.first))


def clean(
    run: Annotated[str, typer.Argument(help="a run's name", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="remove without asking")] = False,
    json: Json = False,
) -> None:
    """Show what in a run's folder nothing needs any more, and remove it after a question."""
    from r1pipe.run.cleaning import lines, removable, remove
    from r1pipe.run.status import run_folder

    folder = run_folder(run)
    found = removable(folder)
    if not json:
        print("\n".join(lines(folder, found)) if found else f"run {run}: nothing can be removed")
    if found and not (yes or json) and sys.stdin.isatty():
        yes = typer.confirm("remove it?")
    if found and yes:
        found = remove(folder)
    if json:
        entries = [{"path": str(entry.path), "bytes": entry.size, "why": entry.why} for entry in found]
        print_json({"removed": yes, "bytes": sum(entry.size for entry in found), "entries": entries})
    elif found:
        print("removed" if yes else "nothing was removed; --yes removes it")
