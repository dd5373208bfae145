"""What the user sees of a run, as plain lines for log files and CI. For a terminal: r1pipe/run/rich_console.py."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import R1PipeError
from r1pipe.run.gate_checks import outcomes
from r1pipe.run.score_tables import score_lines

if TYPE_CHECKING:
    from r1pipe.config.loader import Stage
    from r1pipe.run.plan import Plan

MARKS = {"missing": "○", "partial": "◐", "done": "●", "stale": "✗"}
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
    """The first few metrics in one line.

    >>> shown({"reward": 0.8234, "length": 41.0, "lost": None})
    'reward 0.823  length 41'
    """
    parts = []
    for key, value in metrics.items():
        if key in ("time", "done", "total") or value is None:
            continue
        if isinstance(value, float):
            whole = value.is_integer() and abs(value) < 1e9
            parts.append(f"{key} {value:.0f}" if whole else f"{key} {value:.3g}")
        else:
            parts.append(f"{key} {value}")
    return "  ".join(parts[:limit])


def joins(stage: Stage) -> str:
    """What a stage reads and makes: `base, cold-start-chats -> dev1`."""
    made = f"-> {', '.join(stage.outputs.values())}"
    names = list(dict.fromkeys(edge.name for _, edge in stage.edges()))
    if not names:
        return made
    more = ", ..." if len(names) > 4 else ""
    return f"{', '.join(names[:4])}{more} {made}"


class Console:
    """Plain lines, one at a time."""

    def __init__(self) -> None:
        self._stage = ""
        self._last_line_at = float("-inf")
        self._notes_shown = 0
        self._first_progress: tuple[float, float] | None = None  # (time, done), of this attempt

    def line(self, text: str = "") -> None:
        print(text, flush=True)

    def note(self, text: str) -> None:
        self.line(f"note: {text}")

    def figure(self, plan: Plan) -> None:
        """All selected stages with their states, before anything runs."""
        self.line(
            f"run {plan.pipeline.run}: {len(plan.selected)} stages, {len(plan.todo)} to run ({plan.folder.path})"
        )
        width = max(len(name) for name in plan.selected)
        for name in plan.selected:
            of_stage = plan.states[name]
            rebuilt = name in plan.rebuild
            state = "rebuild" if rebuilt else of_stage.state
            why = f"  [{'; '.join(of_stage.reasons)}]" if of_stage.reasons and not rebuilt else ""
            self.line(f"  {state:8} {name:{width}}  {joins(plan.pipeline.stages[name])}{why}")
            if of_stage.warnings and state == "done":
                self.line(f"           made by other versions: {'; '.join(of_stage.warnings)}")
            gates = outcomes(plan, plan.pipeline.stages[name])
            for outcome in gates if name not in plan.rebuild else []:
                self.line(f"           {outcome.line}")

    def begin(
        self,
        stage: Stage,
        attempt: int,
        resumed: bool,
    ) -> None:
        self._reset(stage)
        again = ""
        if attempt > 1:
            again = (
                f" (attempt {attempt}, goes on from what it saved)" if resumed else f" (attempt {attempt})"
            )
        self.line(f"{stage.name}: started{again}")

    def tick(self, progress: dict[str, Any] | None, notes: Path) -> None:
        """Show what is new of a running stage; called several times a second."""
        self._show_notes(notes)
        if progress is None:
            return
        left = self._time_left(progress)
        if time.monotonic() - self._last_line_at > PLAIN_EVERY_S:
            self._last_line_at = time.monotonic()
            done = f"{progress['done']}/{progress['total']}"
            self.line(f"{self._stage}: {done}  {shown(progress)}  {left}".rstrip())

    def end(
        self,
        stage: Stage,
        wall_s: float,
        metrics: dict[str, Any],
    ) -> None:
        self.line(f"{stage.name}: done in {seconds(wall_s)}  {shown(metrics, 6)}".rstrip())

    def finish(self, plan: Plan, summary: dict[str, Any]) -> dict[str, Any]:
        """The scores and where they are; returns the summary."""
        if not plan.todo:
            self.line("nothing to run: everything is done")
        self._scores(summary["scores"])
        took = f"{seconds(summary['wall_s'])} of stages on {summary['device']}"
        self.line(f"{took}; {plan.folder.path / 'summary.json'}")
        page = plan.folder.path / "report.html"
        if page.is_file():
            self.line(f"what happened, in a browser: {page}")
        return summary

    def close(self) -> None:
        """Give the terminal back; also called on the way out of a failure."""

    def error(self, error: R1PipeError) -> None:
        # Where stdout and stderr go to one file, the error stands behind what was printed before it.
        sys.stdout.flush()
        print(
            f"{type(error).__name__}: {error}",
            file=sys.stderr,
            flush=True,
        )

    def _reset(self, stage: Stage) -> None:
        self._stage = stage.name
        self._last_line_at = time.monotonic()
        self._notes_shown = 0
        self._first_progress = None

    def _scores(self, scores: dict[str, Any]) -> None:
        for line in score_lines(scores):
            self.line(line)

    def _time_left(self, progress: dict[str, Any]) -> str:
        """Time left, by the pace since the first progress seen: imports and an earlier attempt's work do not count."""
        done, total = progress["done"], progress["total"]
        if self._first_progress is None or done < self._first_progress[1]:
            self._first_progress = (progress["time"], done)
        first_time, first_done = self._first_progress
        if done <= first_done or done >= total:
            return ""
        seconds_each = (progress["time"] - first_time) / (done - first_done)
        return f"{seconds(seconds_each * (total - done))} left"

    def _show_notes(self, notes: Path) -> None:
        try:
            lines = notes.read_text(encoding="utf8").split("\n")
        except OSError:
            return
        # What stands behind the last line break is still being written.
        complete = lines[:-1]
        for line in complete[self._notes_shown :]:
            note = _note_in(line)
            if note:
                self.note(f"{self._stage}: {note}")
        self._notes_shown = len(complete)


def _note_in(line: str) -> str:
    try:
        return str(json.loads(line)["note"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


class Silent(Console):
    """For --json: nothing on stdout but the answer."""

    def line(self, text: str = "") -> None:
        print(text, file=sys.stderr, flush=True)


def make_console(json_only: bool = False) -> Console:
    if json_only:
        return Silent()
    # Some CI systems give a terminal, and their logs would keep every frame of a moving bar.
    if sys.stdout.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb":
        from r1pipe.run.rich_console import RichConsole

        return RichConsole()
    return Console()
