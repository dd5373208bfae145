"""What a stage logged while it trained, as few points as a screen can show."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

from r1pipe.text.regular_files import open_regular

# Points of a curve: the lowest and the highest of each piece stay, so that no spike is lost.
MOST_POINTS = 400

# title -> the metrics in it, each with its name there. A panel without any of them is left out.
PANELS: dict[str, dict[str, str]] = {
    "right answers": {"right": "rollouts", "heldout/accuracy": "held out"},
    "length in tokens": {"completions/mean_length": "rollouts", "heldout/tokens": "held out"},
    "rewards by part": {},
    "entropy": {"entropy": "entropy"},
    "KL to the reference": {"kl": "kl"},
    "groups without a signal": {"zero_signal": "share"},
    "responses that think": {"thinks": "share"},
    "words of thinking": {"thinking_words": "words"},
    "reflection words per 1,000 tokens": {"reflection_words": "words"},
    "responses cut off": {"completions/clipped_ratio": "share"},
    "repetition": {"repetition": "share"},
    "accuracy of tokens": {"mean_token_accuracy": "share"},
    "accuracy": {"accuracy": "share"},
    "margin": {"margin": "margin"},
    "loss": {"loss": "loss"},
}
# The metrics of the panel whose names depend on the phase.
_BY_PART = re.compile(r"rewards/(.+)/mean")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; what cannot be read, or is still being written, is left out."""
    try:
        with open_regular(path) as stream:
            lines = stream.read().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def curves(path: Path) -> dict[str, Any]:
    """`read_curves`, once while the file stays as it is."""
    try:
        state = path.stat()
    except OSError:
        return {"panels": [], "phases": [], "guards": []}
    return read_curves(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def read_curves(path: Path, _size: int, _time: int) -> dict[str, Any]:
    """The panels of a metrics.jsonl, the steps at which its phases begin, and what its guards found.

    Returns:
        panels: [{title, series: [{name, points: [[step, value], ...]}]}]; phases: steps; guards: texts.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    phases: list[float] = []
    guards: list[str] = []
    phase: Any = None
    for line in read_lines(path):
        step = line.get("step")
        if "guard" in line:
            guards.append(f"step {step}: {line.get('guard')}: {line.get('what')} ({line.get('action')})")
        if not is_number(step):
            continue
        # A phase has other rewards, and so curves that jump where it begins.
        if "phase" in line and line["phase"] != phase:
            phase = line["phase"]
            phases.append(step)
        for name, value in line.items():
            if is_number(value):
                points.setdefault(name, []).append((step, value))

    panels = []
    for title, names in PANELS.items():
        series = [
            {"name": label, "points": thinned(points[name])}
            for name, label in (names or _parts(points)).items()
            if name in points
        ]
        if series:
            panels.append({"title": title, "series": series})
    # The first one begins where the curves do.
    return {"panels": panels, "phases": phases[1:], "guards": guards}


def thinned(points: list[tuple[float, float]], most: int = MOST_POINTS) -> list[list[float]]:
    """At most `most` of the points, the lowest and the highest of each piece among them.

    >>> thinned([(0, 1), (1, 9), (2, 0), (3, 1)], most=2)
    [[1, 9.0], [2, 0.0]]
    """
    if len(points) <= most:
        return [[step, _rounded(value)] for step, value in points]
    pieces = max(1, most // 2)
    kept: list[list[float]] = []
    for piece in range(pieces):
        part = points[piece * len(points) // pieces : (piece + 1) * len(points) // pieces]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += [[step, _rounded(value)] for step, value in sorted(ends)]
    return kept


def _parts(names: Iterable[str]) -> dict[str, str]:
    matches = map(_BY_PART.fullmatch, names)
    return {match[0]: match[1] for match in matches if match}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that JSON can hold: neither NaN nor infinite, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Five digits are more than a screen shows, and a page of 17 digits has twice the size.
def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
