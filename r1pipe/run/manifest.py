"""What a stage was made from, and so whether what lies on disk is still it.

Fingerprint = kind + config (without launch, engine, audit, guards and how a service is asked; path fields by content) + identities of
the inputs: a produced input is its maker's fingerprint and port, a brought one the hash of its content. Where the order of a mapping decides
something, it is compared apart (r1pipe/run/order.py). States: missing (run), partial (resume), done (skip), stale (refuse). Versions of r1pipe, the
stage module and the libraries are recorded, not fingerprinted.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from r1pipe.config.loader import Edge, Pipeline, Stage
from r1pipe.config.validation import trainings
from r1pipe.data.files import before_pattern, matches
from r1pipe.run.hub_models import hub_commit
from r1pipe.run.order import find_in, reordered
from r1pipe.run.store import RunFolder, StageFolder, read_json, write_json
from r1pipe.schema import GRPOParams, SamplingEndpoint, ServedModel, StageConfig

State = Literal["missing", "partial", "done", "stale"]
RECORDED_PACKAGES = ("torch", "transformers", "trl", "datasets", "accelerate", "deepspeed", "vllm")
_SERVICE = {
    "endpoint": set(SamplingEndpoint.model_fields) - {"model", "extra"}
}  # where and how a model is asked, and for how much money
_HOW_ASKED = set(ServedModel.model_fields) - {"model", "extra"}
NOT_FINGERPRINTED: dict[str, Any] = {  # how a stage is run and watched
    "launch": True,
    "audit": True,
    "engine": True,
    "grpo": {"guards"},
    "judge": _HOW_ASKED,
    "sampling": _SERVICE,
    "passes": {"__all__": {"sampling": _SERVICE}},
    "sources": {"__all__": {"sampling": _SERVICE}},
    "writer": {"sampling": _SERVICE},
    "rewriter": {"sampling": _SERVICE},
}


@dataclass
class Standing:
    """Where a stage stands and why."""

    state: State
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    manifest: dict[str, Any] | None = None


class Digests:
    """Content hashes, remembered by size and modification time so that a run that does nothing reads no data."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / ".digests.json"
        self._known: dict[str, list[Any]] = read_json(self._path) or {}
        self._changed = False

    def file(self, path: Path, fresh: bool = False) -> str:
        """sha256 of a file; `fresh` reads it even if size and time are as remembered."""
        stat = path.stat()
        known = self._known.get(str(path))
        if not fresh and known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return known[2]
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        self._known[str(path)] = [stat.st_size, stat.st_mtime_ns, digest]
        self._changed = True
        return digest

    def files(self, path: Path, fresh: bool = False) -> dict[str, str]:
        """Every file below a folder (or the file itself) with its hash; hidden ones and caches are passed over."""
        if path.is_file():
            return {path.name: self.file(path, fresh)}
        return {str(p.relative_to(path)): self.file(p, fresh) for p in sorted(_walk(path))}

    def path(self, path: Path, fresh: bool = False) -> str:
        """One hash for a file or folder. A file's name does not count, names within a folder do."""
        return self.file(path, fresh) if path.is_file() else together(self.files(path, fresh))

    def moved(self, old: Path, new: Path) -> None:
        """A folder was renamed: what is known of its files still holds."""
        for name in [n for n in self._known if n.startswith(f"{old}{os.sep}")]:
            self._known[f"{new}{name[len(str(old)) :]}"] = self._known.pop(name)
            self._changed = True

    def save(self) -> None:
        if self._changed and self._path.parent.is_dir():
            write_json(self._path, self._known)
            self._changed = False


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        yield from (Path(root, name) for name in names if not name.startswith("."))


def together(files: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


# --- fingerprints -----------------------------------------------------------------------------------------------------


class Fingerprints:
    """Materials and fingerprints of a pipeline's stages, each computed once."""

    def __init__(self, pipeline: Pipeline, digests: Digests) -> None:
        self._pipeline, self._digests = pipeline, digests
        self._materials: dict[str, dict[str, Any]] = {}

    def material(self, name: str) -> dict[str, Any]:
        """What the fingerprint is made of; kept in the manifest so that a difference can be shown."""
        if name not in self._materials:
            stage = self._pipeline.stages[name]
            material: dict[str, Any] = {"kind": stage.kind.name}
            if stage.use:
                material["use"] = {port: self._digests.path(path) for port, path in stage.use.items()}
            else:
                material["config"] = self._config(stage)
                material["inputs"] = {port: self.identity(source) for port, source in stage.edges()}
            self._materials[name] = material
        return self._materials[name]

    def of(self, name: str) -> str:
        return hashlib.sha256(json.dumps(self.material(name), sort_keys=True).encode()).hexdigest()

    def identity(self, source: Edge) -> str:
        if source.origin == "stage":
            return f"{self.of(source.stage)}:{source.port}"
        if source.origin == "hub":
            return f"hub:{hub_commit(source)}"
        assert source.path is not None
        return f"sha256:{self._digests.path(source.path)}"

    def _config(self, stage: Stage) -> dict[str, Any]:
        dumped = stage.config.model_dump(mode="json", exclude=NOT_FINGERPRINTED)
        _without_how_judges_are_asked(stage.config, dumped)
        for keys, path in stage.files.items():
            if keys[0] not in dumped:  # a hostfile
                continue
            holder: Any = dumped
            for key in keys[:-1]:
                holder = holder[key]
            if path.exists():
                holder[keys[-1]] = f"sha256:{self._digests.path(path)}"
            else:  # a pattern: names and contents of what it matches
                start = before_pattern(path)
                holder[keys[-1]] = (
                    f"sha256:{together({str(m.relative_to(start)): self._digests.path(m) for m in matches(path)})}"
                )
        return dumped


def _without_how_judges_are_asked(config: StageConfig, dumped: dict[str, Any]) -> None:
    for keys, training in trainings(config):
        if isinstance(training, GRPOParams):
            for reward in (
                reward
                for phase in find_in(dumped, keys)["phases"]
                for reward in phase["rewards"]
                if reward["name"] == "judge"
            ):
                reward["params"] = {name: value for name, value in reward["params"].items() if name not in _HOW_ASKED}


# --- states -----------------------------------------------------------------------------------------------------------


def standings(pipeline: Pipeline, folder: RunFolder, prints: Fingerprints, digests: Digests) -> dict[str, Standing]:
    """The state of every stage, in order."""
    result: dict[str, Standing] = {}
    for name, stage in pipeline.stages.items():
        result[name] = _standing(pipeline, stage, folder, prints, digests, result)
    return result


def _standing(
    pipeline: Pipeline,
    stage: Stage,
    folder: RunFolder,
    prints: Fingerprints,
    digests: Digests,
    above: dict[str, Standing],
) -> Standing:
    here = folder.stage(stage.name)
    manifest = read_json(here.manifest_json)
    record = manifest or read_json(here.stage_json)
    if record is None:
        return Standing("missing")
    if record["fingerprint"] != prints.of(stage.name) or reordered(record["material"], stage):
        return Standing(
            "stale",
            differences(record["material"], prints.material(stage.name), stage, pipeline, above),
            manifest=manifest,
        )
    rebuilt = [m for m in stage.makers if above[m].state in ("missing", "partial") or _remade(stage, m, record, folder)]
    if rebuilt and not stage.use:
        return Standing("stale", [f"input {_port_of(stage, m)}: {m} is made anew" for m in rebuilt], manifest=manifest)
    upstream = [m for m in stage.makers if above[m].state == "stale"]
    if upstream and not stage.use:
        return Standing("stale", [f"input {_port_of(stage, m)}: {m} is stale" for m in upstream], manifest=manifest)
    if manifest is None:
        return Standing("partial", [f"{here.attempts} attempt(s), not finished"])
    changed = changed_files(manifest, here, digests)
    if changed:
        return Standing(
            "stale",
            [
                f"{changed[0]} changed after it was published"
                + (f" (and {len(changed) - 1} more)" if changed[1:] else "")
            ],
            manifest=manifest,
        )
    without = (
        [] if manifest.get("isolation", True) else ["made where code could not be isolated: without the code kind"]
    )
    return Standing("done", without, warnings=version_differences(manifest, stage), manifest=manifest)


def _port_of(stage: Stage, maker: str) -> str:
    return next(port for port, source in stage.edges() if source.stage == maker)


def _remade(stage: Stage, maker: str, record: dict[str, Any], folder: RunFolder) -> bool:
    """The maker was run again since this stage read from it, and what it made differs."""
    made = read_json(folder.stage(maker).manifest_json)
    if made is None:
        return False
    for port, source in stage.edges():
        read = record["read"].get(port)
        if (
            source.stage == maker
            and read
            and source.port in made["outputs"]
            and read["digest"] != made["outputs"][source.port]["digest"]
        ):
            return True
    return False


def changed_files(manifest: dict[str, Any], here: StageFolder, digests: Digests, fresh: bool = False) -> list[str]:
    """Published files that are gone or whose content is another; unless `fresh`, only files whose size or time moved are read."""
    changed = []
    for output in manifest["outputs"].values():
        root = here.path / output["path"]  # an adopted path is absolute
        for name, digest in output["files"].items():
            file = root if root.is_file() else root / name
            if not file.is_file() or digests.file(file, fresh) != digest:
                changed.append(str(file))
    return changed


def differences(
    old: dict[str, Any], new: dict[str, Any], stage: Stage, pipeline: Pipeline, above: dict[str, Standing]
) -> list[str]:
    """What moved between two materials, in words."""
    lines = []
    if old["kind"] != new["kind"]:
        lines.append(f"kind: {old['kind']} -> {new['kind']}")
    if ("use" in old) != ("use" in new):
        lines.append(
            "use: it was made by a run, now a path is adopted"
            if "use" in new
            else "use: a path was adopted, now it is to be made"
        )
    lines += [
        f"use.{port}: other content"
        for port in new.get("use", {})
        if port in old.get("use", {}) and old["use"][port] != new["use"][port]
    ]
    before, after = dict(_flat(old.get("config", {}))), dict(_flat(new.get("config", {})))
    if "config" in old and "config" in new:
        for key in sorted(before.keys() | after.keys()):
            if before.get(key, _ABSENT) != after.get(key, _ABSENT):
                lines.append(f"{key}: {_show(before.get(key, _ABSENT))} -> {_show(after.get(key, _ABSENT))}")
    sources = dict(stage.edges())
    for port in sorted(old.get("inputs", {}).keys() | new.get("inputs", {}).keys()):
        one, other = old.get("inputs", {}).get(port), new.get("inputs", {}).get(port)
        if one == other or "inputs" not in old or "inputs" not in new:
            continue
        source = sources.get(port)
        if source is not None and source.stage and one and ":" in one and not one.startswith(("sha256:", "hub:")):
            state = above[source.stage].state
            lines.append(
                f"input {port}: {source.stage} "
                + ("is stale" if state == "stale" else "is made from another config or other inputs")
            )
        else:
            lines.append(
                f"input {port}: " + ("added" if one is None else "removed" if other is None else "other content")
            )
    return lines + reordered(old, stage) or ["recorded by another version of r1pipe"]


_ABSENT = object()


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value:
        yield prefix, value
        return
    for key, child in items:
        yield from _flat(child, f"{prefix}.{key}" if prefix else str(key))


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


# --- versions ---------------------------------------------------------------------------------------------------------


@cache
def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions(stage: Stage) -> dict[str, str]:
    """What is recorded and compared, but not fingerprinted."""
    found = {name: version for name in ("r1pipe", *RECORDED_PACKAGES) if (version := _package(name))}
    source = hashlib.sha256(stage.kind.source.read_bytes()).hexdigest()[:12]
    return {"python": platform.python_version(), f"stage {stage.kind.name}": source, **found}


def version_differences(manifest: dict[str, Any], stage: Stage) -> list[str]:
    now, then = versions(stage), manifest.get("versions", {})
    return [f"{name}: {then[name]} then, {now[name]} now" for name in now if name in then and then[name] != now[name]]
