"""The state of every stage: is what lies on disk still what the config describes?

missing   nothing is there: it will run
partial   started and not finished: it will go on from its workdir
done      finished, and made from this config and these inputs: it is skipped
stale     made from something else, or changed since: the run is refused until the user decides
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from r1pipe.config.loader import Edge, Pipeline, Stage
from r1pipe.errors import InputError
from r1pipe.run.digests import Digests
from r1pipe.run.fingerprints import Fingerprints
from r1pipe.run.manifest import version_differences
from r1pipe.run.store import RunFolder, StageFolder, whole_manifest

State = Literal["missing", "partial", "done", "stale"]


@dataclass
class StageState:
    """The state of a stage.

    Attributes:
        reasons: why it is in this state, one sentence each.
        warnings: of a done stage, versions that differ from those it was made with.
    """

    state: State
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_states(
    pipeline: Pipeline, folder: RunFolder, fingerprints: Fingerprints, digests: Digests
) -> dict[str, StageState]:
    """The state of every stage, in order."""
    states: dict[str, StageState] = {}
    for name, stage in pipeline.stages.items():
        states[name] = _state_of(
            stage,
            folder,
            fingerprints,
            digests,
            states,
        )
    return states


def _state_of(
    stage: Stage,
    folder: RunFolder,
    fingerprints: Fingerprints,
    digests: Digests,
    above: dict[str, StageState],
) -> StageState:
    """One stage's state; `above` has those of the stages before it."""
    files = folder.stage(stage.name)
    try:
        manifest = files.manifest()
        record = manifest or files.record()
    except InputError as error:
        return StageState("stale", [error.what])
    if record is None:
        return StageState("missing")

    if record["fingerprint"] != fingerprints.of(stage.name):
        return StageState(
            "stale",
            differences(
                record["material"],
                fingerprints.material(stage.name),
                stage,
                above,
            ),
        )
    # What is adopted does not depend on inputs, so nothing above it can make it stale.
    if not stage.use:
        moved = _moved_inputs(stage, record, folder, above)
        if moved:
            return StageState("stale", moved)

    if manifest is None:
        times = "once" if files.attempts == 1 else f"{files.attempts} times"
        return StageState("partial", [f"started {times}, not finished"])

    changed = changed_files(manifest, files, digests)
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        return StageState("stale", [f"{changed[0]} changed after it was published{more}"])

    reasons = []
    if not manifest.get("isolation", True):
        reasons.append("made without the code rows: code could not be isolated then")
    return StageState(
        "done",
        reasons,
        warnings=version_differences(manifest, stage),
    )


def _moved_inputs(
    stage: Stage,
    record: dict[str, Any],
    folder: RunFolder,
    above: dict[str, StageState],
) -> list[str]:
    """Inputs that are, or will be, other ones than those that the stage read, though its config is the same."""
    rerun, stale = [], []
    for maker in stage.makers:
        port = next(port for port, edge in stage.edges() if edge.stage == maker)
        if above[maker].state in ("missing", "partial"):
            rerun.append(f"input {port}: {maker} has to run again")
        elif _output_differs(stage, maker, record, folder):
            rerun.append(f"input {port}: {maker} was run again and made something else")
        elif above[maker].state == "stale":
            stale.append(f"input {port}: {maker} is stale")
    # One cause is enough: what has to run again explains why later stages are stale.
    return rerun or stale


def _output_differs(
    stage: Stage,
    maker: str,
    record: dict[str, Any],
    folder: RunFolder,
) -> bool:
    """Whether what the maker has published is not what this stage read from it."""
    # A damaged manifest makes the maker stale, and this stage with it.
    published = whole_manifest(folder.stage(maker))
    for port, edge in stage.edges():
        read = record["read"].get(port)
        if edge.stage != maker or not read or edge.port not in published.get("outputs", {}):
            continue
        if read["digest"] != published["outputs"][edge.port]["digest"]:
            return True
    return False


def changed_files(
    manifest: dict[str, Any],
    files: StageFolder,
    digests: Digests,
    *,
    fresh: bool = False,
) -> list[str]:
    """Published files that are gone or have other content.

    Args:
        fresh: read every file, not only those whose size or modification time differs.
    """
    changed = []
    for output in manifest["outputs"].values():
        # The path of an adopted output is absolute, so joining leaves it as it is.
        root = files.path / output["path"]
        for name, digest in output["files"].items():
            file = root if root.is_file() else root / name
            if not file.is_file() or digests.file(file, fresh=fresh) != digest:
                changed.append(str(file))
    return changed


# --- differences, for people ------------------------------------------------------------------------------------------

_ABSENT = object()


def differences(
    old: dict[str, Any],
    new: dict[str, Any],
    stage: Stage,
    above: dict[str, StageState],
) -> list[str]:
    """What differs between a recorded material and the config's (Fingerprints.material), one line each."""
    if old.get("version") != new["version"]:
        return ["made by another version of r1pipe, whose fingerprints cannot be compared with these"]

    lines = []
    if old["kind"] != new["kind"]:
        lines.append(f"kind: {old['kind']} -> {new['kind']}")
    if "use" in new and "use" not in old:
        return [*lines, "use: it was made by a run, and now a path is to be adopted"]
    if "use" in old and "use" not in new:
        return [*lines, "use: a path was adopted, and now it is to be made by a run"]
    if "use" in new:
        ports = sorted(old["use"].keys() & new["use"].keys())
        return lines + [
            f"use.{port}: other content" for port in ports if old["use"][port] != new["use"][port]
        ]

    before = dict(_flat(old["config"]))
    after = dict(_flat(new["config"]))
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, _ABSENT), after.get(key, _ABSENT)
        if was != now:
            lines.append(f"{key}: {_short(was)} -> {_short(now)}")

    for place in sorted(old["order"].keys() & new["order"].keys()):
        was, now = old["order"][place], new["order"][place]
        # Where keys were added or removed, the lines above say so.
        if was != now and sorted(was) == sorted(now):
            lines.append(f"{place}: order {', '.join(was)} -> {', '.join(now)}")

    edges = dict(stage.edges())
    for port in sorted(old["inputs"].keys() | new["inputs"].keys()):
        was, now = old["inputs"].get(port), new["inputs"].get(port)
        if was != now:
            lines.append(f"input {port}: {_input_difference(was, now, edges.get(port), above)}")
    return lines


def _input_difference(
    was: str | None,
    now: str | None,
    edge: Edge | None,
    above: dict[str, StageState],
) -> str:
    """How two identities of an input differ (Fingerprints.identity)."""
    if was is None:
        return "added"
    if now is None or edge is None:
        return "removed"
    if was.startswith("hub:") and now.startswith("hub:"):
        return f"{was} -> {now}"
    if edge.stage and not was.startswith(("sha256:", "hub:")):
        if above[edge.stage].state == "stale":
            return f"{edge.stage} is stale"
        return f"{edge.stage} is made from another config or other inputs"
    return "other content"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar of a nested value with its dotted key; empty mappings and lists count as scalars."""
    if value and isinstance(value, dict):
        items = list(value.items())
    elif value and isinstance(value, list):
        items = list(enumerate(value))
    else:
        yield prefix, value
        return
    for key, child in items:
        yield from _flat(child, f"{prefix}.{key}" if prefix else str(key))


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
