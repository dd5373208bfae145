"""`r1pipe data ...`: look at rows, count them, let people review them. Thin, as cli.py is; everything but typer is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from r1pipe.data.listing import Row

app = typer.Typer(no_args_is_help=True, help="Look at datasets, and review them.")

Artifact = Annotated[
    str,
    typer.Argument(help="a file, a dataset's folder, or RUN/STAGE[/OUTPUT], e.g. r1/general-data", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def show(
    artifact: Artifact,
    count: Annotated[int, typer.Option("-n", min=1, help="rows at most")] = 5,
    where: Annotated[
        list[str] | None, typer.Option("--where", metavar="COLUMN=VALUE", help="only rows with this value (repeatable)")
    ] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="only this row (repeatable)")] = None,
    dropped: Annotated[bool, typer.Option("--dropped", help="the rows that were left out, with their reasons")] = False,
    full: Annotated[bool, typer.Option("--full", help="all of the thinking and of every column")] = False,
    json: Json = False,
) -> None:
    """Print rows, with the thinking folded to its first line."""
    from itertools import islice

    from r1pipe.data.listing import described, pick
    from r1pipe.errors import InputError

    if bad := [one for one in where or () if "=" not in one]:
        raise InputError(f"'{bad[0]}' is no condition", "--where", "--where COLUMN=VALUE, e.g. --where domain=math")
    conditions = {column: value for column, _, value in (one.partition("=") for one in where or ())}
    rows = list(islice(pick(place(artifact), conditions, ids or (), dropped), count + 1))
    if json:
        _print_json(rows[:count])
        return
    for row in rows[:count]:
        _print_row(described(row, full))
    if not rows:
        print("no row was dropped" if dropped and not conditions and not ids else "no row matches")
    elif len(rows) > count:
        print(f"... and more: -n {4 * count}")


@app.command()
def stats(
    artifact: Artifact,
    tokenizer: Annotated[
        Path | None, typer.Option(help="a checkpoint's folder: lengths in its tokens, not in words", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Count rows by domain, language and source, and dropped ones by reason; lengths of prompt, thinking and response."""
    from r1pipe.data.listing import NOT_STATED, PERCENTILES, statistics, tokens, visible, words

    found = statistics(place(artifact), tokens(tokenizer) if tokenizer else words)
    if json:
        _print_json({"unit": "tokens" if tokenizer else "words", **found})
        return
    print(f"{found['rows']:,} rows")
    for name in ("domain", "language", "source", "dropped"):
        if set(found[name]) - {NOT_STATED}:
            rows = [
                [visible(value), f"{count:,}", f"{count / sum(found[name].values()):.1%}"]
                for value, count in found[name].items()
            ]
            _print_table([name, "rows", "share"], rows)
    columns = ["rows", "mean", *(f"p{share}" for share in PERCENTILES), "max"]
    domains = ["all", *found["domain"]] if len(found["domain"]) > 1 else ["all"]
    rows = [
        [visible(domain), part, *(f"{sizes[key]:,}" for key in columns)]
        for domain in domains
        for part, sizes in found["lengths"].get(domain, {}).items()
    ]
    if rows:
        _print_table([f"length in {'tokens' if tokenizer else 'words'}", "of", *columns], rows)


@app.command()
def review(
    artifact: Artifact,
    decisions: Annotated[
        Path, typer.Option(help="the file of decisions; `mix` reads it: reviews: {INPUT: FILE}")
    ] = Path("reviews.jsonl"),
    export: Annotated[
        Path | None,
        typer.Option("--export", metavar="CSV", help="write a table to be filled, and ask nothing", show_default=False),
    ] = None,
    filled: Annotated[
        Path | None,
        typer.Option("--import", metavar="CSV", help="take the decisions of a filled table", show_default=False),
    ] = None,
) -> None:
    """Accept, reject or edit chats, one at a time or in a spreadsheet. Stop at any time; the same command goes on."""
    from r1pipe.artifacts import Chats
    from r1pipe.data.io import read_rows
    from r1pipe.data.review import add_decisions, export_csv, import_csv, open_rows, read_decisions

    rows = read_rows(place(artifact), Chats)
    known = read_decisions(decisions) if decisions.exists() else {}
    if filled is not None:
        new = import_csv(rows, known, filled)
        add_decisions(decisions, new)
        known |= {one["id"]: one for one in new}
        print(f"{len(new)} new decisions in {decisions}")
    elif export is None:
        known = _ask_all(rows, known, decisions)
    waiting = len(open_rows(rows, known))
    if export is not None:
        waiting = export_csv(rows, known, export)
        print(
            f"{export}: {len(rows)} rows; fill `decision`, then: r1pipe data review {artifact} --decisions {decisions} --import {export}"
        )
    print(
        f"{len(rows) - waiting} of {len(rows)} rows decided, {waiting} open"
        + (f" ({decisions})" if decisions.exists() else "")
    )


def _ask_all(rows: list[Row], known: dict[str, Row], file: Path) -> dict[str, Row]:
    """Every decision is on disk before the next row is shown."""
    from r1pipe.data.listing import described
    from r1pipe.data.review import add_decisions, decide, open_rows

    waiting = open_rows(rows, known)
    for number, row in enumerate(waiting):
        print(f"\n{len(rows) - len(waiting) + number + 1} of {len(rows)}")
        _print_row(described(row, full=True))
        while True:
            try:
                answer = input("[a]ccept  [r]eject  [e]dit  [s]kip  [q]uit > ").strip().lower()
            except EOFError:
                answer = "q"
            if answer in ("q", "quit"):
                return known
            if answer in ("s", "skip"):
                break
            text = _edited(row["messages"][-1]["content"]) if answer in ("e", "edit") else None
            word = {"a": "accept", "r": "reject", "e": "edit"}.get(answer[:1])
            if word is None or (word == "edit" and text is None):
                print("nothing was changed" if word else "one of a, r, e, s, q")
                continue
            one = decide(row, word, text)
            add_decisions(file, [one])
            known = known | {row["id"]: one}
            break
    return known


def _edited(text: str) -> str | None:
    """What the user's editor leaves; None where nothing was changed or nothing is left.

    Raises:
        MissingToolError: there is no such editor.
    """
    import os
    import shlex
    import subprocess
    import tempfile

    from r1pipe.errors import MissingToolError

    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "response.md")
        path.write_text(text + "\n", encoding="utf8")
        try:
            subprocess.run([*shlex.split(editor), str(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise MissingToolError(f"the editor failed: {error}", fix="export EDITOR=nano, or another one") from None
        edited = path.read_text(encoding="utf8").removesuffix("\n")
    return edited if edited.strip() and edited != text else None


@app.command()
def pin(dataset: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub", show_default=False)]) -> None:
    """Print the newest commit of a dataset on the hub, to be written as `revision`."""
    from r1pipe.data.hub_datasets import newest_commit

    print(f"hub: {dataset}\nrevision: {newest_commit(dataset)}")


def place(artifact: str) -> Path:
    """The path of a dataset named by path or by RUN/STAGE[/OUTPUT].

    Raises:
        InputError: there is none, or the stage has several outputs.
    """
    from r1pipe.errors import InputError
    from r1pipe.run.store import RUNS

    path = Path(artifact).expanduser()
    if path.exists():
        return path
    run, stage, output = [*artifact.split("/", 2), "", ""][:3]
    out = RUNS / run / stage / "out"
    outputs = sorted(one.name for one in out.iterdir()) if stage and out.is_dir() else []
    if output in outputs or (len(outputs) == 1 and not output):
        return out / (output or outputs[0])
    if outputs:
        raise InputError(
            f"{run}/{stage} has the outputs {', '.join(outputs)}", artifact, f"name one: {run}/{stage}/{outputs[0]}"
        )
    raise InputError(
        "nothing is there",
        artifact,
        "a file, a dataset's folder, or RUN/STAGE[/OUTPUT] of a stage that is done (`r1pipe status` lists them)",
    )


# --- what is printed: coloured and wrapped on a terminal, else plain lines --------------------------------------------


def _print_row(labelled: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    (name, tags), *rest = labelled
    if not console.is_terminal:
        print(f"-- {name}  {tags}".rstrip())
        for label, text in rest:
            print(f"{label:>10}  " + text.replace("\n", "\n" + " " * 12))
        return
    console.rule(Text.assemble((name, "bold"), "  ", (tags, "cyan")), align="left", style="dim")
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", min_width=9)
    for label, text in rest:
        quiet = "thinking" in label
        table.add_row(Text(label, "bold" if not quiet else "dim"), Text(text, "dim" if quiet else ""))
    console.print(table)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    texts = 2 if head[1] == "of" else 1  # columns of words stand left, numbers right
    print()
    for row in [head, ["-" * width for width in widths], *rows]:
        print(
            "  ".join(
                cell.ljust(width) if i < texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
        )


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=1, ensure_ascii=False))
