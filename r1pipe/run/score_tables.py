"""The table of scores: a checkpoint a row, a suite a column."""

from __future__ import annotations

import math
from typing import Any

LINE_WIDTH = 150  # characters of a line where there is no terminal


def score_tables(scores: dict[str, Any], width: int) -> list[list[list[str]]]:
    """Tables of at most `width` characters, each with its head row and the names of the checkpoints.

    A cell is pass@1 ± its standard error. The column `tokens` has the mean length of a response of the suite before
    it, `reasoning`.
    """
    columns = _columns(scores)
    if not columns:
        return []

    names = ["checkpoint", *scores]
    tables = []
    table = [names]
    used = _width(names)
    # A table that is too wide continues below, with the names of the checkpoints again.
    for column in columns:
        wide = _width(column) + 2
        if used + wide > width and len(table) > 1:
            tables.append(table)
            table = [names]
            used = _width(names)
        table.append(column)
        used += wide
    tables.append(table)
    return [[list(row) for row in zip(*table, strict=True)] for table in tables]


def score_lines(scores: dict[str, Any], width: int = LINE_WIDTH) -> list[str]:
    """The tables as plain lines, with an empty line before, between and behind them."""
    lines: list[str] = []
    for table in score_tables(scores, width):
        widths = [_width(list(column)) for column in zip(*table, strict=True)]
        lines.append("")
        for row in table:
            cells = [cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)]
            lines.append("  ".join(cells).rstrip())
    return [*lines, ""] if lines else []


def _columns(scores: dict[str, Any]) -> list[list[str]]:
    """Every suite that has a score, in order of appearance, as a column with its name on top."""
    suites: dict[str, None] = {}
    for of_checkpoint in scores.values():
        for suite, score in of_checkpoint.items():
            if isinstance(score, dict) and "pass@1" in score:
                suites[suite] = None

    columns = []
    for suite in suites:
        columns.append([suite, *(_cell(of_checkpoint.get(suite)) for of_checkpoint in scores.values())])
        if suite == "reasoning":
            tokens = [(of_checkpoint.get(suite) or {}).get("tokens") for of_checkpoint in scores.values()]
            columns.append(["tokens", *("-" if mean is None else f"{mean:.0f}" for mean in tokens)])
    return columns


def _cell(score: Any) -> str:
    if not isinstance(score, dict):
        return "-"
    value = score.get("pass@1")
    if value is None:
        return str(score.get("note", "-"))
    error = score.get("stderr")
    # Of a single problem there is none.
    known = isinstance(error, int | float) and math.isfinite(error)
    return f"{value:.3f}±{error:.3f}" if known else f"{value:.3f}"


def _width(cells: list[str]) -> int:
    return max(map(len, cells))
