"""What the user sees: the figure with states, a bar per stage, the table of scores. Plain lines where there is no terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import R1PipeError

if TYPE_CHECKING:
    from r1pipe.config.loader import Stage
    from r1pipe.run.plan import Plan

MARKS = {"missing": "○", "partial": "◐", "done": "●", "stale": "✗"}
COLOURS = {"missing": "white", "partial": "yellow", "done": "green", "stale": "red"}
PLAIN_EVERY_S = 15.0  # between two progress lines of a stage in a log file


def seconds(value: float) -> str:
    """
    >>> seconds(7.4), seconds(754), seconds(7265)
    ('7.4 s', '12 min 34 s', '2 h 01 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"


def shown(metrics: dict[str, Any], limit: int = 4) -> str:
    """`reward 0.82  length 41` from the keys that are numbers or words."""
    parts = []
    for key, value in metrics.items():
        if key in ("time", "done", "total") or value is None:
            continue
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e9
        parts.append(
            f"{key} {value:.0f}" if whole else f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        )
    return "  ".join(parts[:limit])


def joins(stage: Stage) -> str:
    """`base, cold-start-chats -> dev1`."""
    sources = list(dict.fromkeys(source.name for _, source in stage.edges()))
    left = ", ".join(sources[:4]) + (", ..." if len(sources) > 4 else "")
    return f"{left} -> {', '.join(stage.outputs.values())}" if left else f"-> {', '.join(stage.outputs.values())}"


class Console:
    """Plain lines, one at a time: for log files and CI."""

    def __init__(self) -> None:
        self._started = self._said = 0.0
        self._notes = 0
        self._stage = ""
        self._first: tuple[float, float] | None = None

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def figure(self, plan: Plan) -> None:
        todo = len(plan.todo)
        self.line(f"run {plan.pipeline.run}: {len(plan.selected)} stages, {todo} to run ({plan.folder.path})")
        width = max(len(name) for name in plan.selected)
        for name in plan.selected:
            standing = plan.standings[name]
            state = "rebuild" if name in plan.rebuild else standing.state
            why = f"  [{'; '.join(standing.reasons)}]" if standing.reasons and name not in plan.rebuild else ""
            self.line(f"  {state:8} {name:{width}}  {joins(plan.pipeline.stages[name])}{why}")
            if standing.warnings and state == "done":
                self.line(f"           other versions: {'; '.join(standing.warnings)}")

    def skip(self, name: str) -> None:
        """A done stage; the figure has said so."""

    def note(self, text: str) -> None:
        self.line(f"note: {text}")

    def begin(self, stage: Stage, attempt: int, resumed: bool) -> None:
        self._stage, self._started, self._said, self._notes, self._first = stage.name, time.time(), time.time(), 0, None
        again = f" (attempt {attempt}{', goes on from what it saved' if resumed else ''})" if attempt > 1 else ""
        self.line(f"{stage.name}: started{again}")

    def tick(self, progress: dict[str, Any] | None, notes: Path) -> None:
        self._show_notes(notes)
        if progress:
            left = self._left(progress)
            if time.time() - self._said > PLAIN_EVERY_S:
                self._said = time.time()
                self.line(f"{self._stage}: {progress['done']}/{progress['total']}  {shown(progress)}  {left}".rstrip())

    def _left(self, progress: dict[str, Any]) -> str:
        """Time left, by the pace since the first progress seen: neither imports nor what an earlier attempt did count."""
        done, total = progress["done"], progress["total"]
        if self._first is None or done < self._first[1]:
            self._first = (progress["time"], done)
        if done <= self._first[1] or done >= total:
            return ""
        return f"{seconds((progress['time'] - self._first[0]) / (done - self._first[1]) * (total - done))} left"

    def _show_notes(self, notes: Path) -> None:
        try:
            lines = notes.read_text(encoding="utf8").split("\n")[:-1]  # the last may be half-written
        except OSError:
            return
        for line in lines[self._notes :]:
            self.note(f"{self._stage}: {json.loads(line)['note']}")
        self._notes = len(lines)

    def end(self, stage: Stage, wall_s: float, metrics: dict[str, Any]) -> None:
        self.line(f"{stage.name}: done in {seconds(wall_s)}  {shown(metrics, 6)}".rstrip())

    def finish(self, plan: Plan, summary: dict[str, Any]) -> dict[str, Any]:
        if not plan.todo:
            self.line("nothing to run: everything is done")
        for line in score_lines(summary["scores"]):
            self.line(line)
        self.line(f"{seconds(summary['wall_s'])} of stages on {summary['device']}; {plan.folder.path / 'summary.json'}")
        return summary

    def close(self) -> None:
        """Give the terminal back; also on the way out of a failure."""

    def error(self, error: R1PipeError) -> None:
        sys.stdout.flush()
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _cell(score: Any) -> str:
    if not isinstance(score, dict):
        return "-"
    value, error = score.get("pass@1"), score.get("stderr")
    if value is None:
        return str(score.get("note", "-"))
    return f"{value:.3f}" + (f"±{error:.3f}" if isinstance(error, int | float) else "")


def score_tables(scores: dict[str, Any], width: int) -> list[list[list[str]]]:
    """Tables of at most `width` characters, each with its head: a checkpoint a row, a suite a column.

    A cell is pass@1 ± its standard error; `tokens` is the mean response on the suite `reasoning`.
    """
    suites = list(
        dict.fromkeys(
            suite
            for of in scores.values()
            for suite, score in of.items()
            if isinstance(score, dict) and "pass@1" in score
        )
    )
    if not suites:
        return []
    columns = [["checkpoint", *scores]]
    for suite in suites:
        columns.append([suite, *(_cell(of.get(suite)) for of in scores.values())])
        if suite == "reasoning":
            tokens = [(of.get(suite) or {}).get("tokens") for of in scores.values()]
            columns.append(["tokens", *("-" if value is None else f"{value:.0f}" for value in tokens)])
    tables, chosen, used = [], [columns[0]], max(map(len, columns[0]))
    for column in columns[1:]:
        wide = max(map(len, column)) + 2
        if used + wide > width and len(chosen) > 1:
            tables.append(chosen)
            chosen, used = [columns[0]], max(map(len, columns[0]))
        chosen.append(column)
        used += wide
    return [[list(row) for row in zip(*table, strict=True)] for table in [*tables, chosen]]


def score_lines(scores: dict[str, Any], width: int = 150) -> list[str]:
    lines = []
    for table in score_tables(scores, width):
        widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
        lines += [
            "",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table),
        ]
    return [*lines, ""] if lines else []


class RichConsole(Console):
    """A terminal: boxes, bars, a table. Methods that are not here print as plain ones do."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console as Rich

        self._rich = Rich(highlight=False)
        self._progress: Any = None
        self._task: Any = None

    def line(self, text: str = "") -> None:
        self._rich.print(text, markup=False)

    def figure(self, plan: Plan) -> None:
        from rich.columns import Columns
        from rich.panel import Panel
        from rich.text import Text

        self._rich.print(
            f"[bold]{plan.pipeline.run}[/]  {len(plan.selected)} stages, {len(plan.todo)} to run   "
            + "  ".join(f"[{COLOURS[s]}]{m} {s}[/]" for s, m in MARKS.items())
        )
        depth: dict[str, int] = {}
        for name, stage in plan.pipeline.stages.items():
            depth[name] = 1 + max((depth[maker] for maker in stage.makers), default=-1)
        rows: dict[int, list[Any]] = {}
        for name in plan.selected:
            state = "missing" if name in plan.rebuild else plan.standings[name].state
            body = Text(joins(plan.pipeline.stages[name]), overflow="ellipsis", no_wrap=True)
            title = f"[{COLOURS[state]}]{MARKS[state]}[/] [bold]{name}[/]"
            rows.setdefault(depth[name], []).append(
                Panel(body, title=title, title_align="left", border_style=COLOURS[state], width=38)
            )
        for position, level in enumerate(sorted(rows)):
            if position:
                self._rich.print("   │" + " " * 12 + "▼", style="dim")
            self._rich.print(Columns(rows[level], padding=(0, 1)))
        for name in plan.selected:
            standing = plan.standings[name]
            if standing.reasons and name not in plan.rebuild:
                self._rich.print(f"[{COLOURS[standing.state]}]{MARKS[standing.state]}[/] {name}: ", end="")
                self.line("; ".join(standing.reasons))
            if standing.warnings and standing.state == "done":
                self.line(f"  {name}, other versions: {'; '.join(standing.warnings)}")

    def begin(self, stage: Stage, attempt: int, resumed: bool) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._stage, self._started, self._notes, self._first = stage.name, time.time(), 0, None
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(28),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[left]}"),
        )
        self._progress = Progress(*columns, console=self._rich, transient=True)
        again = " (goes on)" if resumed else ""
        self._task = self._progress.add_task(stage.name + again, total=None, count="", shown="", left="")
        self._progress.start()

    def tick(self, progress: dict[str, Any] | None, notes: Path) -> None:
        self._show_notes(notes)
        if progress and self._progress is not None:
            done, total = progress["done"], progress["total"]
            self._progress.update(
                self._task,
                completed=done,
                total=total,
                count=f"{done}/{total}",
                shown=shown(progress),
                left=self._left(progress),
            )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def end(self, stage: Stage, wall_s: float, metrics: dict[str, Any]) -> None:
        self.close()
        self._rich.print(f"[green]●[/] {stage.name:<24} {seconds(wall_s):>12}  [dim]{shown(metrics, 6)}[/]")

    def finish(self, plan: Plan, summary: dict[str, Any]) -> dict[str, Any]:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        self.close()
        for part in score_tables(summary["scores"], self._rich.width - 4):
            table = Table(title="scores: pass@1 ± standard error", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
            for column in part[0]:
                table.add_column(column, justify="left" if column == "checkpoint" else "right", no_wrap=True)
            for row in part[1:]:
                table.add_row(*row)
            self._rich.print(table)
        if not plan.todo:
            self.line("nothing to run: everything is done")
        self.line(f"{seconds(summary['wall_s'])} of stages on {summary['device']}; {plan.folder.path / 'summary.json'}")
        return summary

    def error(self, error: R1PipeError) -> None:
        from rich.console import Console as Rich
        from rich.panel import Panel
        from rich.text import Text

        self.close()
        body = Text(error.what)
        if error.where:
            body.append("\n\nwhere  ", style="bold").append(error.where)
        if error.fix:
            body.append("\nfix    " if error.where else "\n\nfix    ", style="bold").append(error.fix)
        Rich(stderr=True).print(
            Panel(body, title=f"[bold red]{type(error).__name__}[/]", title_align="left", border_style="red")
        )


class Silent(Console):
    """For --json: nothing on stdout but the answer."""

    def line(self, text: str = "") -> None:
        print(text, file=sys.stderr, flush=True)


def make_console(json_only: bool = False) -> Console:
    if json_only:
        return Silent()
    terminal = sys.stdout.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    return RichConsole() if terminal else Console()
