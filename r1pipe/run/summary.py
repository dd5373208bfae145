"""runs/<run>/summary.json, rewritten after each stage: what ran, how long it took, every score."""

from __future__ import annotations

import time
from typing import Any

from r1pipe.config.loader import Pipeline
from r1pipe.config.machine import cpu_cores, device_name
from r1pipe.run.manifest import Standing
from r1pipe.run.store import RunFolder, read_json, write_json


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings key by key, anything else replaced.

    >>> deep_merge({"zero": {"math": {"n": 1}}}, {"zero": {"math": {"k": 2}}})
    {'zero': {'math': {'n': 1, 'k': 2}}}
    """
    merged = dict(base)
    for key, value in over.items():
        merged[key] = (
            deep_merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def scores(pipeline: Pipeline, folder: RunFolder) -> dict[str, Any]:
    """All finished Reports' scores.json, merged in the order of the stages."""
    merged: dict[str, Any] = {}
    for name in pipeline.stages:
        manifest = read_json(folder.stage(name).manifest_json) or {"outputs": {}}
        for output in manifest["outputs"].values():
            if output["type"] == "report":
                merged = deep_merge(merged, read_json(folder.stage(name).path / output["path"] / "scores.json") or {})
    return merged


def summarise(pipeline: Pipeline, folder: RunFolder, standings: dict[str, Standing]) -> dict[str, Any]:
    """The contract: run, wall_s (s, the stages' sum over all attempts), device, cores, stages, scores."""
    stages = []
    for name, stage in pipeline.stages.items():
        manifest = read_json(folder.stage(name).manifest_json)
        told = read_json(folder.stage(name).stage_json) or {}
        state = standings[name].state
        entry = {
            "name": name,
            "kind": stage.kind.name,
            "state": state,
            "wall_s": (manifest or told).get("wall_s", 0.0),
            "metrics": (manifest or {}).get("metrics", {}),
        }
        if manifest and manifest.get("adopted"):
            entry["adopted"] = True
        stages.append(entry)
    return {
        "run": pipeline.run,
        "wall_s": round(sum(entry["wall_s"] for entry in stages), 3),
        "device": device_name(),
        "cores": cpu_cores(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "stages": stages,
        "scores": scores(pipeline, folder),
    }


def write_summary(pipeline: Pipeline, folder: RunFolder, standings: dict[str, Standing]) -> dict[str, Any]:
    summary = summarise(pipeline, folder, standings)
    write_json(folder.path / "summary.json", summary)
    return summary
