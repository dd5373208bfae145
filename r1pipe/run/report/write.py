"""Writes report.html, report.md, report.json and samples.parquet into a run's folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.run.html_page import filled_page
from r1pipe.run.store import RunFolder, write_json, write_text

if TYPE_CHECKING:
    from r1pipe.config.loader import Pipeline

PAGE = "report.html"

# Seconds between two reports while a stage runs. One takes about 0.3 s, and a second at 50,000 samples.
EVERY_S = 60.0


def write_report(folder: RunFolder, *, all_samples: bool = False) -> Path:
    """Write the three, each whole or not at all.

    Args:
        all_samples: also write samples.parquet, which takes seconds where there are many.

    Returns:
        the page.

    Raises:
        InputError: there is no such run, or its config.json is damaged.
    """
    # Imported here, as below: a run that has nothing to do writes no report, and should not wait for it.
    from r1pipe.run.report.all_samples import FILE, write_all_samples
    from r1pipe.run.report.collect import blocks_of, collect
    from r1pipe.run.report.markdown import as_markdown
    from r1pipe.run.report.samples import reports_of

    data = collect(folder)
    page = folder.path / PAGE
    # On one line: with an indent Python's encoder takes five times as long.
    write_text(folder.path / "report.json", json.dumps(data, ensure_ascii=False) + "\n")
    write_text(folder.path / "report.md", as_markdown(data))
    write_text(page, filled_page("r1pipe.run.report", "page", f"r1pipe: {data['run']}", data))
    if all_samples:
        reports = reports_of(blocks_of(folder), folder)
        write_all_samples(reports, folder.path / FILE)
    return page


class LiveReport:
    """The report of a run that is under way, from its first stage to its end, whatever the end is.

    It is a context manager around the run's lock, so that the last page shows a run that nobody works on. A run ends
    for no report: what goes wrong with one is said.

    Args:
        note: takes one sentence.
    """

    def __init__(self, folder: RunFolder, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        # Of time.monotonic(); None before the first report.
        self._written: float | None = None

    def __enter__(self) -> LiveReport:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Who presses Ctrl-C waits for nothing; and a run that another command works on is not ours to describe.
        was_stopped = kind is not None and not issubclass(kind, Exception)
        if self._written is not None and not was_stopped:
            self.write(all_samples=True)

    def beat(self) -> None:
        """Write the report if the last one is old, so that a long training can be watched."""
        if self._written is None or time.monotonic() - self._written > EVERY_S:
            self.write()

    def write(self, *, all_samples: bool = False) -> None:
        """Write the report now."""
        try:
            write_report(self._folder, all_samples=all_samples)
        # Weeks of training are not lost to a mistake in a page.
        except Exception as error:
            self._note(f"the report was not written: {type(error).__name__}: {error}")
        self._written = time.monotonic()


def write_config_view(pipeline: Pipeline, folder: RunFolder) -> None:
    """What the report says of the config, for when its YAML has changed or moved."""
    from r1pipe.run.config_view import config_lines
    from r1pipe.run.report.collect import CONFIG_VIEW
    from r1pipe.run.report.departures import departures

    view = {"lines": config_lines(pipeline, defaults=False), "departures": departures(pipeline)}
    write_json(folder.path / CONFIG_VIEW, view)
