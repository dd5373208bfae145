"""runs/<run>/summary.json, rewritten after each stage: what ran, how long it took, every score."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from r1pipe.config.loader import Pipeline
from r1pipe.config.machine import cpu_cores, device_name
from r1pipe.run.gate_checks import outcomes
from r1pipe.run.planning.grading import graded
from r1pipe.run.records import read_object
from r1pipe.run.store import RunFolder, whole_manifest, write_json

if TYPE_CHECKING:
    from r1pipe.run.plan import Plan


def summarise(plan: Plan) -> dict[str, Any]:
    """The content of summary.json.

    Seconds: `wall_s` is the sum over the stages, each with all its attempts; a stage's `start_s` is the part of its
    last attempt before its own code began. `gpu` is what gpu_watch.py saw in the last attempt. `predicted`, `measured`
    and `off` grade the plan (r1pipe/run/planning/grading.py). `gates` are what `require:` says, each with `met`.
    """
    # All stages of the figure, also those that this command did not select.
    stages = []
    for name, stage in plan.pipeline.stages.items():
        folder = plan.folder.stage(name)
        manifest = whole_manifest(folder)
        # A stage that is not done has no manifest; its stage.json counts the seconds of its attempts.
        record = manifest or read_object(folder.stage_json)
        entry = {
            "name": name,
            "kind": stage.kind.name,
            "state": plan.states[name].state,
            "wall_s": record.get("wall_s", 0.0),
            "start_s": record.get("start_s", 0.0),
            "gpu": record.get("gpu", {}),
            "metrics": manifest.get("metrics", {}),
        }
        if manifest.get("adopted"):
            entry["adopted"] = True
        entry |= graded(manifest)
        if stage.gates:
            entry["gates"] = [outcome._asdict() for outcome in outcomes(plan, stage)]
        stages.append(entry)
    return {
        "run": plan.pipeline.run,
        "wall_s": round(sum(entry["wall_s"] for entry in stages), 3),
        "device": device_name(),
        "cores": cpu_cores(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "stages": stages,
        "scores": scores(plan.pipeline, plan.folder),
    }


def write_summary(plan: Plan) -> None:
    write_json(plan.folder.path / "summary.json", summarise(plan))


def scores(pipeline: Pipeline, folder: RunFolder) -> dict[str, Any]:
    """scores.json of all finished reports, merged in the order of the stages."""
    merged: dict[str, Any] = {}
    for name in pipeline.stages:
        stage = folder.stage(name)
        for output in whole_manifest(stage).get("outputs", {}).values():
            if output["type"] == "report":
                merged = deep_merge(merged, read_object(stage.path / output["path"] / "scores.json"))
    return merged


def deep_merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Mappings key by key; anything else is replaced.

    >>> deep_merge({"zero": {"math": {"n": 1}}}, {"zero": {"math": {"k": 2}}})
    {'zero': {'math': {'n': 1, 'k': 2}}}
    """
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = deep_merge(merged[key], value)
        else:
            merged[key] = value
    return merged
