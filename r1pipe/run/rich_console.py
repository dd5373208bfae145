"""What the user sees of a run in a terminal: boxes, a bar for the running stage, a table, a panel for an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console as Rich
from rich.panel import Panel
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from r1pipe.errors import R1PipeError
from r1pipe.run.console import MARKS, Console, joins, seconds, shown
from r1pipe.run.gate_checks import outcomes
from r1pipe.run.score_tables import score_tables

if TYPE_CHECKING:
    from r1pipe.config.loader import Stage
    from r1pipe.run.plan import Plan

COLOURS = {"missing": "white", "partial": "yellow", "done": "green", "stale": "red"}
BOX_WIDTH = 48  # of a stage in the figure: two of them fit into 100 columns
LABEL_WIDTH = 5  # "where", the longer of an error's two labels


class RichConsole(Console):
    """A terminal. Methods that are not here print as plain ones do."""

    def __init__(self) -> None:
        super().__init__()
        self._rich = Rich(highlight=False)
        self._progress: Progress | None = None
        self._task: Any = None

    def line(self, text: str = "") -> None:
        self._rich.print(text, markup=False)

    def figure(self, plan: Plan) -> None:
        legend = "  ".join(f"[{COLOURS[state]}]{mark} {state}[/]" for state, mark in MARKS.items())
        counts = f"{len(plan.selected)} stages, {len(plan.todo)} to run"
        self._rich.print(f"[bold]{plan.pipeline.run}[/]  {counts}   {legend}")

        for position, boxes in enumerate(self._levels(plan)):
            if position:
                self._rich.print("   ▼", style="dim")
            self._rich.print(Columns(boxes, padding=(0, 1)))

        for name in plan.selected:
            of_stage = plan.states[name]
            if of_stage.reasons and name not in plan.rebuild:
                self._rich.print(f"[{COLOURS[of_stage.state]}]{MARKS[of_stage.state]}[/] {name}: ", end="")
                self.line("; ".join(of_stage.reasons))
            if of_stage.warnings and of_stage.state == "done":
                self.line(f"  {name}, made by other versions: {'; '.join(of_stage.warnings)}")
            gates = outcomes(plan, plan.pipeline.stages[name])
            for outcome in gates if name not in plan.rebuild else []:
                self.line(f"  {name} {outcome.line}")

    def _levels(self, plan: Plan) -> list[list[Panel]]:
        """The boxes of the selected stages: a stage stands one level below the lowest stage that it reads from."""
        # Of all stages, not only the selected ones: a stage keeps its level whatever is selected.
        depth: dict[str, int] = {}
        for name, stage in plan.pipeline.stages.items():
            depth[name] = 1 + max((depth[maker] for maker in stage.makers), default=-1)

        levels: dict[int, list[Panel]] = {}
        for name in plan.selected:
            state = "missing" if name in plan.rebuild else plan.states[name].state
            # A cut-off line keeps the boxes of one level equal; `plan --json` and log files have the names in full.
            body = Text(joins(plan.pipeline.stages[name]), overflow="ellipsis", no_wrap=True)
            title = f"[{COLOURS[state]}]{MARKS[state]}[/] [bold]{name}[/]"
            box = Panel(
                body,
                title=title,
                title_align="left",
                border_style=COLOURS[state],
                width=BOX_WIDTH,
            )
            levels.setdefault(depth[name], []).append(box)
        return [levels[level] for level in sorted(levels)]

    def begin(
        self,
        stage: Stage,
        attempt: int,
        resumed: bool,
    ) -> None:
        self._reset(stage)
        # The bar disappears when the stage ends; `end` prints the line that stays.
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<22}"),
            BarColumn(28),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[left]}"),
            console=self._rich,
            transient=True,
        )
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self._task = self._progress.add_task(
            stage.name + again,
            total=None,
            count="",
            shown="",
            left="",
        )
        self._progress.start()
        if resumed:
            self.note(f"{stage.name} goes on from what attempt {attempt - 1} saved")

    def tick(self, progress: dict[str, Any] | None, notes: Path) -> None:
        self._show_notes(notes)
        if progress is None or self._progress is None:
            return
        self._progress.update(
            self._task,
            completed=progress["done"],
            total=progress["total"],
            count=f"{progress['done']}/{progress['total']}",
            shown=shown(progress),
            left=self._time_left(progress),
        )

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def end(
        self,
        stage: Stage,
        wall_s: float,
        metrics: dict[str, Any],
    ) -> None:
        self.close()
        self._rich.print(f"[green]●[/] {stage.name:<24} {seconds(wall_s):>12}  [dim]{shown(metrics, 6)}[/]")

    def _scores(self, scores: dict[str, Any]) -> None:
        tables = score_tables(scores, self._rich.width - 4)
        if tables:
            self.line("\nscores: pass@1 ± standard error")
        for head, *rows in tables:
            table = Table(
                header_style="bold",
                box=SIMPLE_HEAD,
                padding=(0, 1),
            )
            for column in head:
                table.add_column(
                    column,
                    justify="left" if column == "checkpoint" else "right",
                    no_wrap=True,
                )
            for row in rows:
                table.add_row(*row)
            self._rich.print(table)

    def error(self, error: R1PipeError) -> None:
        self.close()
        parts = Table.grid(padding=(0, 2))
        parts.add_column(
            style="bold",
            min_width=LABEL_WIDTH,
            vertical="top",
        )
        parts.add_column(overflow="fold")
        for label, text in (("what", error.what), ("where", error.where), ("fix", error.fix)):
            if text:
                parts.add_row(label, Text(text))
        title = f"[bold red]{type(error).__name__}[/]"
        # On stderr, so that the output of a command with --json stays JSON.
        Rich(stderr=True).print(
            Panel(
                parts,
                title=title,
                title_align="left",
                border_style="red",
            )
        )
