"""runs/<run>/lock.json: what each stage of a run was made with, so that the run can be repeated.

    run        its name
    config     the YAML and its --set
    stages     name -> fingerprint, seed, versions, device, the hashes of what it read and made, and the commit of
               r1pipe's checkout ("-dirty" behind it where tracked files differ; null for an installed package)

Its tokenizers have hashes of their own: a checkpoint's hash does not say whether its weights or its tokenizer differ.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.config.loader import Stage
from r1pipe.config.machine import cpu_cores, device_name
from r1pipe.run.digests import combined
from r1pipe.run.records import read_object
from r1pipe.run.store import whole_manifest, write_json

if TYPE_CHECKING:
    from r1pipe.run.plan import Plan

LOCK = "lock.json"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def write_lock(plan: Plan, stage: Stage) -> None:
    """Note a stage that was just made; those of before stay as they were noted."""
    path = plan.folder.path / LOCK
    before = read_object(path).get("stages")
    stages = before if isinstance(before, dict) else {}
    stages[stage.name] = _entry(plan, stage)
    lock = {
        "run": plan.pipeline.run,
        "config": {"file": str(plan.pipeline.file.absolute()), "sets": list(plan.pipeline.sets)},
        "stages": {name: stages[name] for name in plan.pipeline.stages if name in stages},
    }
    write_json(path, lock)


def _entry(plan: Plan, stage: Stage) -> dict[str, Any]:
    manifest = whole_manifest(plan.folder.stage(stage.name))
    files = {".".join(map(str, keys)): path for keys, path in stage.files.items() if path.exists()}
    tokenizers = {}
    for port, edge in stage.edges():
        # Those that a stage has made are noted there.
        if edge.path is not None and edge.path.is_dir():
            tokenizers[f"inputs.{port}"] = _tokenizer(plan.digests.files(edge.path))
    for port, output in manifest["outputs"].items():
        tokenizers[f"outputs.{port}"] = _tokenizer(output["files"])
    return {
        "kind": stage.kind.name,
        "fingerprint": manifest["fingerprint"],
        "seed": stage.config.seed,
        "commit": commit(),
        "versions": manifest["versions"],
        "device": device_name(),
        "cores": cpu_cores(),
        "inputs": {port: read["digest"] for port, read in manifest["read"].items()},
        "files": {key: plan.digests.path(path) for key, path in files.items()},
        "tokenizers": {place: digest for place, digest in tokenizers.items() if digest},
        "outputs": {port: output["digest"] for port, output in manifest["outputs"].items()},
    }


def _tokenizer(files: dict[str, str]) -> str | None:
    own = {name: digest for name, digest in files.items() if name in TOKENIZER}
    return combined(own) if own else None


@cache
def commit() -> str | None:
    """The commit of the checkout that this code lies in; None where it lies in none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        told = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() or None
