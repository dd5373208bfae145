"""The two records of a stage: stage.json, which its workers read, and manifest.json, whose presence means done."""

from __future__ import annotations

import hashlib
import platform
import time
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from r1pipe.config.artifact_checks import missing_parts
from r1pipe.config.loader import Stage
from r1pipe.run.digests import Digests, combined
from r1pipe.run.failure import mistake_of
from r1pipe.run.store import StageFolder

if TYPE_CHECKING:
    from r1pipe.run.plan import Plan

# Whose version may change what a stage makes: what computes, what reads tokens and answers, what finds near copies.
RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "accelerate",
    "deepspeed",
    "vllm",
    "peft",
    "numpy",
    "tokenizers",
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
    "py3langid",
    "rensa",
)


def stage_record(
    plan: Plan,
    stage: Stage,
    folder: StageFolder,
    inputs: dict[str, Any],
    read: dict[str, Any],
    *,
    isolated: bool,
    ahead: bool,
) -> dict[str, Any]:
    """stage.json: everything that a worker needs, and what the stage is made from.

    Args:
        inputs: port -> type, name and path of what the stage reads.
        read: port -> name, maker and digest of what the stage reads, for the record.
        isolated: code can be executed in isolation on this machine.
        ahead: it is started before its turn, for which it waits.
    """
    outputs: dict[str, Any] = {}
    for port, declared in stage.kind.outputs.items():
        outputs[port] = None
        if port in stage.outputs:
            path = str(folder.partial / port)
            outputs[port] = {"type": declared.type.kind, "name": stage.outputs[port], "path": path}
    return {
        "stage": stage.name,
        "kind": stage.kind.name,
        "config": stage.config.model_dump(mode="json"),
        "inputs": inputs,
        "outputs": outputs,
        "workdir": str(folder.workdir),
        "metrics": str(folder.metrics),
        "progress": str(folder.progress),
        # Only an earlier attempt can have left something there.
        "resumed": any(folder.workdir.iterdir()),
        "isolation": isolated,
        "ahead": ahead,
        # Where a kind of the user is looked for: a worker starts without the driver's import path.
        "search": list(plan.pipeline.search),
        "fingerprint": plan.fingerprints.of(stage.name),
        "material": plan.fingerprints.material(stage.name),
        "read": read,
    }


def finished_manifest(
    stage: Stage, record: dict[str, Any], result: dict[str, Any], outputs: dict[str, Any]
) -> dict[str, Any]:
    """manifest.json of a stage that has run, from its stage.json and its worker's result."""
    copied = (
        "stage",
        "kind",
        "fingerprint",
        "material",
        "read",
        "isolation",
        "wall_s",
        "start_s",
        "ahead_s",
        "gpu",
        "predicted",
    )
    manifest = {key: record[key] for key in copied if key in record}
    manifest |= {"outputs": outputs, "metrics": result["metrics"]}
    if result.get("launched"):
        manifest["launched"] = result["launched"]
    return manifest | {"attempts": record["attempt"], "finished": _now(), "versions": versions(stage)}


def adopted_manifest(plan: Plan, stage: Stage) -> dict[str, Any]:
    """manifest.json of a stage with `use:`, which points at what the user already has."""
    outputs = {}
    for port, path in stage.use.items():
        outputs[port] = {
            "type": stage.kind.outputs[port].type.kind,
            "name": stage.outputs.get(port, port),
            "path": str(path),
            "digest": plan.digests.path(path),
            "files": plan.digests.files(path),
        }
    return {
        "stage": stage.name,
        "kind": stage.kind.name,
        "fingerprint": plan.fingerprints.of(stage.name),
        "material": plan.fingerprints.material(stage.name),
        "read": {},
        "adopted": True,
        "wall_s": 0.0,
        "outputs": outputs,
        "metrics": {},
        "finished": _now(),
        "versions": versions(stage),
    }


def describe_output(
    stage: Stage,
    folder: StageFolder,
    port: str,
    digests: Digests,
) -> dict[str, Any]:
    """An output that is about to be published: hashed, and checked to be what its type says.

    Raises:
        UserCodeError or StageError: the stage ended well and left the output incomplete.
    """
    declared = stage.kind.outputs[port]
    partial = folder.partial / port
    lacks = missing_parts(declared.type, partial)
    if lacks:
        raise mistake_of(
            stage.kind,
            f"stage {stage.name} ended without an error, but its output '{port}' is incomplete: {lacks}",
            "correct the stage's run(), which has to write it",
        )
    files = digests.files(partial)
    return {
        "type": declared.type.kind,
        "name": stage.outputs[port],
        "path": f"out/{port}",
        "digest": combined(files),
        "files": files,
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


# --- versions ---------------------------------------------------------------------------------------------------------


def versions(stage: Stage) -> dict[str, str]:
    """The versions that a stage is made with. They are recorded and compared, but not fingerprinted."""
    module = hashlib.sha256(stage.kind.source.read_bytes()).hexdigest()[:12]
    found = {"python": platform.python_version(), f"stage {stage.kind.name}": module}
    for name in ("r1pipe", *RECORDED_PACKAGES):
        version = _version_of(name)
        if version is not None:
            found[name] = version
    return found


def version_differences(manifest: dict[str, Any], stage: Stage) -> list[str]:
    then = manifest["versions"]
    differing = [(name, now) for name, now in versions(stage).items() if then.get(name, now) != now]
    return [f"{name}: {then[name]} then, {now} now" for name, now in differing]


@cache
def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
