"""What a run of the same config has shown already: lengths of responses, rows, seconds. They go before guesses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1pipe.config.loader import Pipeline
from r1pipe.errors import InputError
from r1pipe.run.planning.lengths import Length
from r1pipe.run.records import read_object
from r1pipe.run.store import RunFolder, whole_manifest
from r1pipe.text.regular_files import read_regular

# Points of a curve of lengths; more say nothing new.
POINTS = 24
# What TRL calls the mean tokens of the responses of a rollout.
MEAN_LENGTH = "completions/mean_length"
# GiB that PyTorch has allocated at most, so far: r1pipe/training/telemetry.py.
PEAK = "peak_memory_gib"
# Metrics of data stages that are the rows of their output.
ROW_METRICS = ("rows", "kept", "chats", "prompts")


def seen_lengths(folder: RunFolder, pipeline: Pipeline) -> dict[str, Length]:
    """Mean tokens of responses over the updates of RL stages, and of the answers of evaluations."""
    found = {}
    for name in pipeline.stages:
        points = _points(folder.stage(name).metrics)
        # SFT says how many tokens carry loss: those of the replies.
        metrics = _manifest(folder, name).get("metrics", {})
        if not points and metrics.get("rows") and metrics.get("tokens"):
            points = ((0.0, metrics["tokens"] / metrics["rows"]),)
        if not points:
            points = _answered(folder, name)
        if points:
            found[name] = Length(points, "run")
    return found


def _answered(folder: RunFolder, name: str) -> tuple[tuple[float, float], ...]:
    """The mean tokens of the answers that an evaluation has scored, over its suites."""
    tokens = []
    for output in _manifest(folder, name).get("outputs", {}).values():
        if output.get("type") != "report":
            continue
        scores = read_object(folder.stage(name).path / output["path"] / "scores.json")
        for suites in scores.values():
            values = suites.values() if isinstance(suites, dict) else ()
            tokens += [suite["tokens"] for suite in values if isinstance(suite, dict) and suite.get("tokens")]
    return ((0.0, sum(tokens) / len(tokens)),) if tokens else ()


def _points(metrics: Path) -> tuple[tuple[float, float], ...]:
    """(update, mean tokens) of metrics.jsonl, thinned out."""
    seen: dict[float, float] = {}
    for record in _records(metrics, MEAN_LENGTH):
        step = record.get("step")
        tokens = record[MEAN_LENGTH]
        if isinstance(step, int | float) and tokens > 0:
            seen[float(step)] = float(tokens)
    # Lines of an attempt that was resumed may repeat an update: the last one counts.
    points = sorted(seen.items())
    every = max(1, len(points) // POINTS)
    return tuple(points[::every])


def peak_of(metrics: Path) -> dict[str, float]:
    """`peak_gib`, the most memory of a GPU that a training had allocated; empty where it did not say."""
    peaks = [record[PEAK] for record in _records(metrics, PEAK)]
    return {"peak_gib": round(max(peaks), 2)} if peaks else {}


def _records(metrics: Path, name: str) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl that have this number."""
    if not metrics.is_file():
        return
    try:
        lines = read_regular(metrics).decode("utf8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        # Most lines are of something else, and need not be read.
        if name not in line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get(name), int | float):
            yield record


def seen_rows(folder: RunFolder, pipeline: Pipeline) -> dict[str, float]:
    """Rows that data stages have made, by stage and, where a metric has a port's name, by `stage/port`."""
    found = {}
    for name, stage in pipeline.stages.items():
        metrics = _manifest(folder, name).get("metrics", {})
        # A training's rows are what it has read.
        if "loss" in metrics:
            continue
        for port in stage.outputs:
            if _is_count(metrics.get(port)):
                found[f"{name}/{port}"] = float(metrics[port])
        counts = [metrics[metric] for metric in ROW_METRICS if _is_count(metrics.get(metric))]
        if counts:
            found[name] = float(counts[0])
    return found


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def seen_seconds(folder: RunFolder, stage: str) -> float | None:
    """Seconds of a stage that is done."""
    manifest = _manifest(folder, stage)
    return manifest.get("wall_s") if manifest and not manifest.get("adopted") else None


def _manifest(folder: RunFolder, stage: str) -> dict[str, Any]:
    try:
        return whole_manifest(folder.stage(stage))
    except InputError:
        return {}
