"""An audit of the rewards as tables for people and as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from r1pipe.errors import InputError
from r1pipe.run.store import write_json

if TYPE_CHECKING:
    from r1pipe.rewards.checks import Audit, Cell

SHOWN = 10  # of the worst rows, in the table
RESPONSE_CHARACTERS = 160  # of a response in the table; its end is what the rewards look at
GOLD_CHARACTERS = 80
COLUMNS = ("id", "reward", "variant", "score", "why", "gold", "response")


def show(audits: Sequence[Audit], not_audited: Sequence[str]) -> None:
    """Print tables.

    Args:
        not_audited: a sentence for every stage that was left out.
    """
    console = Console(highlight=False)
    for audit in audits:
        console.print(f"[bold]{audit.stage}[/]  {escape(audit.line())}", soft_wrap=True)
        console.print(_means(audit))
        if audit.unparseable:
            ids = escape(", ".join(audit.unparseable[:SHOWN]))
            console.print(f"{len(audit.unparseable)} gold answers do not parse: {ids}", soft_wrap=True)
        if audit.compared:
            differ = f"{audit.disagreements} of {audit.compared} responses"
            console.print(f"accuracy and TRL's accuracy_reward differ on {differ}")
        if audit.worst:
            console.print(_worst_rows(audit))
        for note in audit.notes:
            console.print(f"note: {escape(note)}", soft_wrap=True)
        for failure in audit.failures:
            console.print(f"[red]limit not met:[/] {escape(failure)}", soft_wrap=True)
    for sentence in not_audited:
        console.print(f"not audited: {escape(sentence)}", soft_wrap=True)


def _means(audit: Audit) -> Table:
    """The mean score of every reward on every variant of the responses."""
    table = _table("mean score by reward")
    table.add_column("response", no_wrap=True)
    for reward in audit.cells:
        table.add_column(
            escape(reward),
            justify="right",
            overflow="fold",
        )

    variants = dict.fromkeys(variant for row in audit.cells.values() for variant in row)
    for variant in variants:
        means = []
        for row in audit.cells.values():
            cell = row.get(variant)
            means.append("-" if cell is None or cell.mean is None else f"{cell.mean:.3f}")
        table.add_row(variant, *means)

    table.add_section()
    rewards = audit.cells.values()
    table.add_row("not judged", *(f"{_mean(row.values(), 'none'):.3f}" for row in rewards))
    table.add_row("ms a response", *(f"{_mean(row.values(), 'ms'):.2f}" for row in rewards))
    return table


def _worst_rows(audit: Audit) -> Table:
    table = _table(f"worst rows ({min(SHOWN, len(audit.worst))} of {len(audit.worst)})")
    for column in COLUMNS:
        table.add_column(
            column,
            overflow="fold",
            max_width=60 if column == "response" else 24,
        )
    for row in audit.worst[:SHOWN]:
        cells = dict(row)
        cells["score"] = "-" if row["score"] is None else f"{row['score']:.3f}"
        cells["gold"] = row["gold"][:GOLD_CHARACTERS]
        on_one_line = re.sub(r"\s+", " ", row["response"])
        cells["response"] = _end(on_one_line)
        table.add_row(*(escape(str(cells[column])) for column in COLUMNS))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1),
    )


def _end(text: str) -> str:
    return text if len(text) < RESPONSE_CHARACTERS else f"...{text[3 - RESPONSE_CHARACTERS :]}"


def _mean(cells: Iterable[Cell], key: str) -> float:
    """Over all responses."""
    cells = list(cells)
    responses = sum(cell.n for cell in cells)
    return sum(getattr(cell, key) * cell.n for cell in cells) / (responses or 1)


def write(
    file: Path,
    audits: Sequence[Audit],
    not_audited: Sequence[str],
) -> None:
    """The audits as JSON, with all the worst rows.

    Raises:
        InputError: the file cannot be written.
    """
    report: dict[str, Any] = {
        "stages": [audit.record() for audit in audits],
        "not_audited": list(not_audited),
        "ok": not any(audit.failures for audit in audits),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, report)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}", str(file.parent)) from None
