"""`r1pipe data ...`: look at rows, count them, let people review them, pin what is on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1pipe.cli.options import print_json

if TYPE_CHECKING:
    from r1pipe.data.listing import Row

app = typer.Typer(no_args_is_help=True, help="Look at datasets, and review them.")

Artifact = Annotated[
    str,
    typer.Argument(
        help="a file, a dataset's folder, or a name of the figure, e.g. cold-start-chats, RUN/NAME or RUN/STAGE/PORT",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command()
def show(
    artifact: Artifact,
    count: Annotated[int, typer.Option("-n", min=1, help="the most rows to print")] = 5,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="only rows with this value (repeatable)"),
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="only this row (repeatable)")
    ] = None,
    dropped: Annotated[
        bool, typer.Option("--dropped", help="the rows that were left out, with their reasons")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="all of the thinking and of every column")] = False,
    json: Json = False,
) -> None:
    """Print rows, with the thinking folded to its first line."""
    from itertools import islice

    from r1pipe.data.listing import described, pick
    from r1pipe.errors import InputError
    from r1pipe.run.artifact_lookup import find_artifact

    conditions = {}
    for condition in where or ():
        column, equals, value = condition.partition("=")
        if not equals:
            fix = "write --where COLUMN=VALUE, e.g. --where domain=math"
            raise InputError(f"'{condition}' is not a condition", "--where", fix)
        conditions[column] = value

    # One row more than is printed tells whether there are more.
    rows = list(islice(pick(find_artifact(artifact), conditions, ids or (), dropped), count + 1))
    if json:
        print_json(rows[:count])
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
        Path | None,
        typer.Option(help="a checkpoint's folder: lengths in its tokens, not in words", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Count rows, and measure prompts, thinking and responses."""
    from r1pipe.data.listing import NOT_STATED, PERCENTILES, statistics, tokens, visible, words
    from r1pipe.run.artifact_lookup import find_artifact

    unit = "tokens" if tokenizer else "words"
    counts = statistics(find_artifact(artifact), tokens(tokenizer) if tokenizer else words)
    if json:
        print_json({"unit": unit, **counts})
        return

    print(f"{counts['rows']:,} rows")
    for name in ("domain", "language", "source", "dropped"):
        by_value = counts[name]
        if set(by_value) - {NOT_STATED}:
            total = sum(by_value.values())
            rows = [
                [visible(value), f"{count:,}", f"{count / total:.1%}"] for value, count in by_value.items()
            ]
            _print_table([name, "rows", "share"], rows)

    columns = ["rows", "mean", *(f"p{share}" for share in PERCENTILES), "max"]
    # With one domain, its rows are all rows.
    domains = ["all", *counts["domain"]] if len(counts["domain"]) > 1 else ["all"]
    rows = []
    for domain in domains:
        for part, sizes in counts["lengths"].get(domain, {}).items():
            rows.append([visible(domain), part, *(f"{sizes[column]:,}" for column in columns)])
    if rows:
        _print_table([f"length in {unit}", "of", *columns], rows)


@app.command()
def review(
    artifact: Artifact,
    decisions: Annotated[
        Path, typer.Option(help="the file of decisions; `mix` reads it: reviews: {INPUT: FILE}")
    ] = Path("reviews.jsonl"),
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="CSV",
            help="write a table to be filled in, and ask nothing",
            show_default=False,
        ),
    ] = None,
    filled: Annotated[
        Path | None,
        typer.Option(
            "--import", metavar="CSV", help="take the decisions of a filled-in table", show_default=False
        ),
    ] = None,
) -> None:
    """Accept, reject or edit chats, one at a time or in a spreadsheet. Stop at any time; the same command goes on."""
    from r1pipe.artifacts import Chats
    from r1pipe.data.io import read_rows
    from r1pipe.data.review import add_decisions, export_csv, import_csv, open_rows, read_decisions
    from r1pipe.run.artifact_lookup import find_artifact

    rows = read_rows(find_artifact(artifact), Chats)
    known = read_decisions(decisions) if decisions.exists() else {}
    if filled is not None:
        new = import_csv(rows, known, filled)
        add_decisions(decisions, new)
        known |= {decision["id"]: decision for decision in new}
        print(f"{len(new)} new decisions in {decisions}")
    elif export is None:
        known = _ask_all(rows, known, decisions)

    waiting = len(open_rows(rows, known))
    if export is not None:
        waiting = export_csv(rows, known, export)
        command = f"r1pipe data review {artifact} --decisions {decisions} --import {export}"
        print(f"{export}: {len(rows)} rows; fill in the column `decision`, then: {command}")
    file = f" ({decisions})" if decisions.exists() else ""
    print(f"{len(rows) - waiting} of {len(rows)} rows decided, {waiting} open{file}")


def _ask_all(rows: list[Row], known: dict[str, Row], file: Path) -> dict[str, Row]:
    """Ask about every row that is open. Each decision is on disk before the next row is shown."""
    from r1pipe.data.listing import described
    from r1pipe.data.review import add_decisions, decide, open_rows

    waiting = open_rows(rows, known)
    decided = len(rows) - len(waiting)
    for number, row in enumerate(waiting, decided + 1):
        print(f"\n{number} of {len(rows)}")
        _print_row(described(row, full=True))
        answer = _ask(row)
        if answer == "quit":
            return known
        if answer == "skip":
            continue
        word, text = answer
        decision = decide(row, word, text)
        add_decisions(file, [decision])
        known = known | {row["id"]: decision}
    return known


def _ask(row: Row) -> Any:
    """`quit`, `skip`, or a decision and the edited text; asks until it understands."""
    words = {"a": "accept", "r": "reject", "e": "edit", "s": "skip", "q": "quit"}
    while True:
        try:
            typed = input("[a]ccept  [r]eject  [e]dit  [s]kip  [q]uit > ").strip().lower()
        except EOFError:
            return "quit"
        word = words.get(typed[:1])
        if word is None:
            print("type one of a, r, e, s, q")
        elif word in ("quit", "skip"):
            return word
        elif word == "edit":
            text = _edited(row["messages"][-1]["content"])
            if text is not None:
                return word, text
            print("nothing was changed")
        else:
            return word, None


def _edited(text: str) -> str | None:
    """What the user's editor leaves; None where nothing was changed or nothing is left.

    Raises:
        MissingToolError: the editor cannot be started, or ended with an error.
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
            raise MissingToolError(
                f"the editor failed: {error}", fix="choose another: export EDITOR=nano"
            ) from None
        edited = path.read_text(encoding="utf8").removesuffix("\n")
    return edited if edited.strip() and edited != text else None


@app.command()
def pin(
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face hub", show_default=False)],
    model: Annotated[bool, typer.Option("--model", help="it is a model, not a dataset")] = False,
) -> None:
    """Print the newest commit of a dataset or model."""
    from r1pipe.run.hub_models import newest_commit

    commit = newest_commit(repository, "model" if model else "dataset")
    print(f"hub:{repository}@{commit}" if model else f"hub: {repository}\nrevision: {commit}")


# --- what is printed: coloured and wrapped on a terminal, else plain lines --------------------------------------------


def _print_row(labelled: list[tuple[str, str]]) -> None:
    """Print a row: first its id and tags, then each label with its text."""
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
        if "thinking" in label:
            table.add_row(Text(label, "dim"), Text(text, "dim"))
        else:
            table.add_row(Text(label, "bold"), Text(text))
    console.print(table)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    # Columns of words are aligned left, columns of numbers right.
    word_columns = 2 if head[1] == "of" else 1
    print()
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = []
        for position, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.ljust(width) if position < word_columns else cell.rjust(width))
        print("  ".join(cells).rstrip())
