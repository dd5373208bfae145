"""Where a stage's inputs lie, and what exactly it reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.config.artifact_checks import missing_parts
from r1pipe.config.loader import Edge, Stage
from r1pipe.errors import InputError
from r1pipe.run.hub_models import fetch
from r1pipe.run.states import changed_files

if TYPE_CHECKING:
    from r1pipe.run.plan import Plan


def locate_inputs(plan: Plan, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs of a stage that is about to start.

    Returns:
        for the worker, each port's type, name and path; and for the record, each port's name, maker and digest.

    Raises:
        InputError: a published input is not what was published, or a brought one is not what its port asks for.
    """
    inputs: dict[str, Any] = {}
    read: dict[str, Any] = {}

    def locate(port: str, edge: Edge) -> dict[str, str]:
        if edge.origin == "stage":
            path, digest = _published(plan, stage, port, edge)
        else:
            path = brought_path(edge)
            # The config was checked when it was read; a download or another program may have changed the files since.
            lacks = missing_parts(edge.type, path)
            if lacks:
                raise InputError(lacks, f"input {port} of {stage.name}")
            digest = plan.digests.path(path)
        read[port] = {"name": edge.text, "from": edge.stage or edge.origin, "digest": digest}
        return {"type": edge.type.kind, "name": edge.name, "path": str(path)}

    for port, edge in stage.inputs.items():
        if edge is None:
            inputs[port] = None
        elif isinstance(edge, dict):
            inputs[port] = {key: locate(f"{port}.{key}", part) for key, part in edge.items()}
        else:
            inputs[port] = locate(port, edge)
    return inputs, read


def brought_path(edge: Edge) -> Path:
    """The path of an input that no stage of the run makes; from the hub it is downloaded first.

    Raises:
        InputError: the hub does not give it.
    """
    path = fetch(edge) if edge.origin == "hub" else edge.path
    assert path is not None
    return path


def _published(
    plan: Plan,
    stage: Stage,
    port: str,
    edge: Edge,
) -> tuple[Path, str]:
    """Path and digest of an input that a stage of the run has made."""
    maker = plan.folder.stage(edge.stage)
    manifest = maker.manifest()
    assert manifest is not None, f"{edge.stage} is not done"
    # What this command made itself was hashed just now. Anything else is read in full before it is used: a file may
    # have changed and kept its size and time.
    changed = changed_files(
        manifest,
        maker,
        plan.digests,
        fresh=edge.stage not in plan.todo,
    )
    if changed:
        what = f"{changed[0]} is not what {edge.stage} published"
        raise InputError(
            what,
            f"input {port} of {stage.name}",
            f"restore it, or redo it: --rebuild {edge.stage}",
        )
    output = manifest["outputs"][edge.port]
    return maker.path / output["path"], output["digest"]
