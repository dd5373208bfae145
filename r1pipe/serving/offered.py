"""The checkpoints that the web chat offers."""

from __future__ import annotations

from pathlib import Path

from r1pipe.artifacts import Checkpoint
from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.run.artifact_lookup import made_in
from r1pipe.run.status import run_names
from r1pipe.run.store import RunFolder
from r1pipe.serving.lineage import find_checkpoint


def offered(named: list[str]) -> list[str]:
    """The checkpoints that a user has named, then those of the same runs, then the models that ship.

    Returns:
        names as `find_checkpoint` reads them, each checkpoint once.

    Raises:
        InputError: there is no such checkpoint.
    """
    found: dict[Path, str] = {}
    for name in named:
        found.setdefault(find_checkpoint(name).resolve(), name)
    for run in run_names():
        folder = RunFolder(run).path.resolve()
        if not any(folder in path.parents for path in list(found)):
            continue
        for artifact in made_in(run):
            if artifact.kind == Checkpoint.kind and artifact.path.is_dir():
                found.setdefault(artifact.path.resolve(), f"{run}/{artifact.name}")
    for config in sorted(EMBEDDED.glob("*/config.json")):
        found.setdefault(config.parent.resolve(), f"embedded:{config.parent.name}")
    return list(found.values())
