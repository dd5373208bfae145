"""The report as Markdown: scores, differences, stages, what was found; for a terminal, a diff, an issue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from r1pipe.run.console import seconds
from r1pipe.run.gate_checks import Outcome
from r1pipe.run.score_tables import score_tables

WIDTH = 120


def as_markdown(data: dict[str, Any]) -> str:
    """The content of report.md."""
    return "\n".join(_lines(data)) + "\n"


def _lines(data: dict[str, Any]) -> Iterator[str]:
    done = sum(stage["state"] == "done" for stage in data["stages"])
    yield f"# {data['run']}"
    yield ""
    yield f"{done} of {len(data['stages'])} stages done in {seconds(data['wall_s'])}"
    yield f"on {data['device'] or 'an unknown machine'}; written {data['written']}."

    if data["cost"]:
        yield cost_line(data["cost"])

    # The terminal's table, continued below where it is too wide.
    tables = score_tables(data["scores"], WIDTH)
    if tables:
        yield from _head("Scores")
        yield "pass@1 ± standard error."
    for head, *rows in tables:
        yield ""
        yield from _table(head, rows)

    if data["differences"]:
        yield from _head("Differences")
        rows = [
            [
                f"{row['a']} - {row['b']}",
                row["suite"],
                f"{row['difference']:+.3f}",
                f"{row['low']:+.3f} to {row['high']:+.3f}",
            ]
            for row in data["differences"]
        ]
        yield from _table(["checkpoints", "suite", "difference", "95 % interval"], rows)

    yield from _head("Stages")
    rows = [
        [stage["name"], stage["kind"], stage["state"], seconds(stage["wall_s"]), ", ".join(stage["makes"])]
        for stage in data["stages"]
    ]
    yield from _table(["stage", "kind", "state", "time", "makes"], rows)

    found = [(stage["name"], text) for stage in data["stages"] for text in stage["guards"]]
    if found:
        yield from _head("What the guards found")
        yield from (f"- {name}: {text}" for name, text in found)

    gates = [(stage["name"], gate) for stage in data["stages"] for gate in stage["gates"]]
    if gates:
        yield from _head("Gates")
        yield from (
            f"- {name} {Outcome(gate['gate'], gate['met'], gate['said']).line}" for name, gate in gates
        )

    if data["cards"]:
        yield from _head("Data")
        rows = [
            [
                card["name"],
                str(card["rows"]),
                ", ".join(f"{reason} {count}" for reason, count in card["dropped"].items()),
            ]
            for card in data["cards"]
        ]
        yield from _table(["dataset", "rows", "left out"], rows)

    if data["departures"]:
        yield from _head("Other values than the paper's")
        rows = [
            [row["field"], str(row["value"]), str(row["default"]), row["source"], ", ".join(row["stages"])]
            for row in data["departures"]
        ]
        yield from _table(["field", "here", "default", "section", "stages"], rows)


def cost_line(cost: dict[str, float]) -> str:
    """
    >>> cost_line({"price": 2.5, "gpu_hours": 4.0, "money": 10.0})
    '4.0 GPU hours, 10.00 of money at 2.5 an hour.'
    """
    return f"{cost['gpu_hours']:.1f} GPU hours, {cost['money']:.2f} of money at {cost['price']:g} an hour."


def _head(text: str) -> list[str]:
    return ["", f"## {text}", ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield _row(head)
    yield _row(["---"] * len(head))
    for row in rows:
        yield _row(row)


def _row(cells: Sequence[str]) -> str:
    # A bar would begin another cell.
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
