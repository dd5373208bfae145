"""`r1pipe reproduce RUN`: make a run again in a folder of its own, and say whether the same came out.

lock.json says with which YAML and which --set the run was made. Where the config or what it reads is another one by
now, nothing is repeated. Other versions of libraries and another device are said, and do not stop it: whether they
change something is what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from r1pipe.config.loader import Pipeline, load
from r1pipe.config.machine import device_name
from r1pipe.errors import InputError, StaleError
from r1pipe.run import pipeline
from r1pipe.run.console import Console
from r1pipe.run.file_differences import first_difference
from r1pipe.run.lock import LOCK
from r1pipe.run.manifest import version_differences
from r1pipe.run.plan import Plan, make_plan
from r1pipe.run.records import read_object
from r1pipe.run.states import differences
from r1pipe.run.status import run_folder
from r1pipe.run.store import RunFolder, StageFolder, whole_manifest


@dataclass
class Comparison:
    """A run beside its repetition.

    Attributes:
        other: what is not as it was: versions, the device, one line each.
        first: stage -> where it differs first; a stage that is the same is not named.
        stages: the stages that were compared.
    """

    stages: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    first: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people: what is not as it was, then the verdict."""
        lines = list(self.other)
        if not self.first:
            return [*lines, f"equal: all {len(self.stages)} stages made the same"]
        name, what = next(iter(self.first.items()))
        lines.append(f"first difference: {name}, {what}")
        rest = [stage for stage in self.first if stage != name]
        if rest:
            lines.append(f"other stages that differ: {', '.join(rest)}")
        equal = len(self.stages) - len(self.first)
        return [*lines, f"equal: {equal} of {len(self.stages)} stages"]


def reproduce(run: str, again: str, console: Console) -> Comparison:
    """Make the stages of a run that are done again, as the run `again`, and compare.

    A repetition that was interrupted goes on.

    Raises:
        InputError: there is no such run, or it has no record of how it was made.
        StaleError: the config, or what it reads, is not what it was.
        R1PipeError: a stage failed.
    """
    folder = run_folder(run)
    if again.lower() == run.lower():
        raise InputError(
            f"'{again}' is the run itself", fix="--run NAME, the name of a run that is not there"
        )
    lock = read_object(folder.path / LOCK)
    loaded = _config_of(lock, folder, again)
    names = [name for name in loaded.stages if whole_manifest(folder.stage(name))]
    # The question is whether the same comes out, not whether it is good enough.
    for name, stage in loaded.stages.items():
        loaded.stages[name] = replace(stage, gates=())

    def replan() -> Plan:
        return make_plan(loaded, only=names)

    _refuse_another_config(replan(), lock, folder)
    pipeline.run(replan, console)
    return compare(folder, RunFolder(again), loaded, lock)


def _config_of(lock: dict[str, Any], folder: RunFolder, again: str) -> Pipeline:
    """The config that the run was made with, as another run."""
    config = lock.get("config")
    if not isinstance(config, dict) or not isinstance(lock.get("stages"), dict):
        what = f"run '{folder.run}' has no whole {LOCK}, which says how it was made"
        raise InputError(what, str(folder.path / LOCK), "runs that this version makes have one")
    file = Path(config["file"])
    if not file.is_file():
        raise InputError(f"the config of run '{folder.run}' is gone", str(file), "put it back")
    return load(file, config["sets"], again)


def _refuse_another_config(plan: Plan, lock: dict[str, Any], folder: RunFolder) -> None:
    for name in plan.selected:
        manifest = whole_manifest(folder.stage(name))
        if plan.fingerprints.of(name) == manifest["fingerprint"]:
            continue
        stage = plan.pipeline.stages[name]
        reasons = differences(manifest["material"], plan.fingerprints.material(name), stage, plan.states)
        raise StaleError(
            f"{name} would be made from something else than it was: {'; '.join(reasons)}",
            lock["config"]["file"],
            "undo the change; or make another run: r1pipe run-all CONFIG --run NAME",
        )


def compare(then: RunFolder, now: RunFolder, figure: Pipeline, lock: dict[str, Any]) -> Comparison:
    """Every stage that both runs have made, and what is not as it was."""
    found = Comparison()
    for name, stage in figure.stages.items():
        manifest = whole_manifest(then.stage(name))
        repeated = whole_manifest(now.stage(name))
        if not manifest or not repeated:
            continue
        found.stages.append(name)
        # What the repetition was made with: it may be older than this command.
        changed = [
            f"{package}: {version} then, {repeated['versions'][package]} now"
            for package, version in manifest["versions"].items()
            if repeated["versions"].get(package, version) != version
        ]
        found.other += [
            line for line in changed or version_differences(manifest, stage) if line not in found.other
        ]
        what = stage_difference(then.stage(name), now.stage(name), manifest, repeated)
        if what:
            found.first[name] = what

    devices = {entry.get("device") for entry in lock["stages"].values()} - {device_name()}
    found.other += [f"device: {device} then, {device_name()} now" for device in sorted(map(str, devices))]
    return found


def stage_difference(
    then: StageFolder, now: StageFolder, manifest: dict[str, Any], repeated: dict[str, Any]
) -> str:
    """The first difference between what two attempts at a stage have made; empty where it is the same."""
    for port, output in manifest["outputs"].items():
        other = repeated["outputs"].get(port)
        if other is None:
            return f"output {port}: it was not made again"
        if output["digest"] == other["digest"]:
            continue
        for name in sorted({*output["files"], *other["files"]}):
            if output["files"].get(name) == other["files"].get(name):
                continue
            if name not in output["files"] or name not in other["files"]:
                return f"{port}/{name}: only {'now' if name in other['files'] else 'then'}"
            what = first_difference(then.path / output["path"] / name, now.path / other["path"] / name)
            if what:
                return f"{port}/{name}, {what}"
    return ""
