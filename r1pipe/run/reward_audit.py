"""`r1pipe audit rewards`: every reward of the RL stages over their prompts, before a GPU is used.

The checks themselves are in r1pipe/rewards/checks.py; what is printed is in r1pipe/run/audit_report.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.artifacts import Prompts
from r1pipe.config.loader import Edge, Pipeline, Stage
from r1pipe.config.yamltree import nearest
from r1pipe.data.files import read_raw
from r1pipe.errors import ConfigError, InputError
from r1pipe.run.inputs import brought_path
from r1pipe.run.store import RunFolder
from r1pipe.schema import AuditParams, GRPOParams, RewardSpec

if TYPE_CHECKING:
    from r1pipe.rewards.checks import Audit

Row = dict[str, Any]
Read = Callable[[Path], list[Row]]


def rl_stages(pipeline: Pipeline, only: str | None = None) -> list[Stage]:
    """The stages with a `grpo` block, or the one of that name.

    Raises:
        ConfigError: there is none, or the one named is of another kind.
    """
    stages = []
    for stage in pipeline.stages.values():
        if isinstance(getattr(stage.config, "grpo", None), GRPOParams):
            stages.append(stage)
    names = [stage.name for stage in stages]
    file = str(pipeline.file)
    if only is not None and only not in names:
        # A name that no stage has is reported as such.
        pipeline.stage(only)
        raise ConfigError(
            f"stage {only} has no rewards",
            file,
            nearest(only, names) if names else "",
        )
    if not stages:
        what = "no stage of this config trains on rewards"
        raise ConfigError(
            what,
            file,
            "rewards are listed in the phases of a `grpo:` block",
        )
    return [stage for stage in stages if only in (None, stage.name)]


def audit_pipeline(
    pipeline: Pipeline, only: str | None, sample: int, limits: dict[str, float]
) -> tuple[list[Audit], list[str]]:
    """Audit the RL stages whose prompts are there.

    Args:
        only: this stage alone; then its prompts must be there.
        sample: the most prompts whose variants are scored, and the most stored responses.
        limits: used instead of those of the stages' `audit:` blocks.

    Returns:
        the audits, and a sentence for every stage that was left out.

    Raises:
        InputError: no stage's prompts are there.
    """
    from r1pipe.data.io import read_rows

    folder = RunFolder(pipeline.run)
    # The stages share prompts, and an exam is read once for every checkpoint that it was put to.
    read: Read = lru_cache(maxsize=None)(lambda path: read_rows(path, Prompts))
    audits: list[Audit] = []
    left_out: list[InputError] = []
    stored: list[tuple[Row | None, str, str]] | None = None
    for stage in rl_stages(pipeline, only):
        try:
            rows = _all_prompts(pipeline, folder, stage, read)
            if stored is None:
                stored = list(
                    _stored_responses(
                        pipeline,
                        folder,
                        read,
                    )
                )
            audits.append(
                _audit_stage(
                    pipeline,
                    folder,
                    stage,
                    rows,
                    stored,
                    sample,
                    limits,
                )
            )
        except InputError as error:
            left_out.append(error)
    if not audits:
        raise left_out[0]
    return audits, [f"{error.what}; {error.fix}" if error.fix else error.what for error in left_out]


def _audit_stage(
    pipeline: Pipeline,
    folder: RunFolder,
    stage: Stage,
    rows: list[Row],
    stored: Sequence[tuple[Row | None, str, str]],
    sample: int,
    limits: dict[str, float],
) -> Audit:
    """Audit one stage.

    Raises:
        InputError: no prompt is left.
    """
    from r1pipe.rewards.checks import audit, specs_of

    params: GRPOParams = stage.config.grpo  # type: ignore[attr-defined]
    stated = getattr(stage.config, "audit", AuditParams())
    specs = specs_of(params.phases)
    notes: list[str] = []
    rows = _without_code_unless_isolated(rows, specs, notes)
    if not rows:
        what = f"{stage.name}: no prompt is left to audit: {'; '.join(notes) or 'there are none'}"
        raise InputError(what, str(pipeline.file))

    # A stored response of a row that is not among the prompts cannot be scored.
    by_id = {row["id"]: row for row in rows}
    answered = [(row or by_id[id_], text) for row, id_, text in stored if row or id_ in by_id]
    result = audit(
        stage.name,
        specs,
        rows,
        AuditParams.model_validate(stated.model_dump() | limits),
        sample=sample,
        stored=random.Random(0).sample(answered, min(sample, len(answered))),
        models=_reward_models(
            pipeline,
            folder,
            stage,
            [spec.name for spec in specs],
            notes,
        ),
    )
    result.notes += notes
    return result


# --- what is audited --------------------------------------------------------------------------------------------------


def _path_of(
    pipeline: Pipeline,
    folder: RunFolder,
    edge: Edge,
    reader: str,
) -> Path:
    """Where an input is.

    Args:
        reader: who reads it, for the message.

    Raises:
        InputError: it has not been made yet.
    """
    if edge.origin != "stage":
        return brought_path(edge)
    maker = folder.stage(edge.stage)
    manifest = maker.manifest()
    if manifest is None:
        what = f"{reader}: `{edge.text}` is not made yet ({edge.stage} has not run)"
        raise InputError(
            what,
            str(folder.path),
            f"make it: `{pipeline.command(edge.stage)} --upstream`",
        )
    return maker.path / manifest["outputs"][edge.port]["path"]


def _all_prompts(
    pipeline: Pipeline,
    folder: RunFolder,
    stage: Stage,
    read: Read,
) -> list[Row]:
    """The prompts of all phases, each port once."""
    params: GRPOParams = stage.config.grpo  # type: ignore[attr-defined]
    ports = dict.fromkeys(port for phase in params.phases for port in phase.prompts)
    rows: list[Row] = []
    for port in ports:
        edge = stage.inputs.get(port)
        if not isinstance(edge, Edge):
            what = f"a phase of {stage.name} reads prompts from `{port}`, which is not an input of the stage"
            raise ConfigError(
                what,
                stage.where,
                "add the input, or change grpo.phases.prompts",
            )
        rows += read(
            _path_of(
                pipeline,
                folder,
                edge,
                stage.name,
            )
        )
    return rows


def _without_code_unless_isolated(
    rows: list[Row],
    specs: Sequence[RewardSpec],
    notes: list[str],
) -> list[Row]:
    """As in training: code rows are left out where code cannot be isolated, unless a service executes it."""
    from r1pipe.rewards.sandbox import available

    if any(spec.name == "code" and "executor" in spec.params for spec in specs):
        return rows
    reason = available()
    if reason is None:
        return rows
    kept = [row for row in rows if not row.get("tests")]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} code prompts are left out: {reason}")
    return kept


def _reward_models(
    pipeline: Pipeline, folder: RunFolder, stage: Stage, names: Sequence[str], notes: list[str]
) -> dict[str, Any]:
    """A scorer for each reward that is a model and is there; a note for each that is not."""
    from r1pipe.rewards import MODEL_PORTS

    paths = {}
    for name, port in MODEL_PORTS.items():
        edge = stage.inputs.get(port)
        if name not in names or not isinstance(edge, Edge):
            continue
        try:
            paths[name] = _path_of(pipeline, folder, edge, name)
        except InputError as error:
            notes.append(f"{error.what}; {error.fix}")
    if not paths:
        return {}

    # Only now, since importing transformers takes seconds.
    from transformers.utils import logging

    from r1pipe.training.reward_model import Scorer

    logging.disable_progress_bar()
    return {name: Scorer(path) for name, path in paths.items()}


def _stored_responses(
    pipeline: Pipeline,
    folder: RunFolder,
    read: Read,
) -> Iterator[tuple[Row | None, str, str]]:
    """Responses that models gave in this run: (row, id of the row, text).

    The row is known for the responses in reports. Those in chats answer prompts of the run, found by their id.
    """
    for stage in pipeline.stages.values():
        files = folder.stage(stage.name)
        manifest = files.manifest() or {"outputs": {}}
        for output in manifest["outputs"].values():
            is_report = output["type"] == "report"
            if not is_report and output["type"] != "chats":
                continue
            asked: dict[str, Row] = {}
            if is_report:
                for _, edge in stage.edges():
                    if issubclass(edge.type, Prompts):
                        asked |= {
                            row["id"]: row
                            for row in read(
                                _path_of(
                                    pipeline,
                                    folder,
                                    edge,
                                    stage.name,
                                )
                            )
                        }
            for record in _records(files.path / output["path"]):
                text = record["messages"][-1]["content"] if "messages" in record else record.get("response")
                id_ = record.get("id", "")
                if isinstance(text, str) and (id_ in asked or not is_report):
                    yield asked.get(id_), id_, text


def _records(folder: Path) -> Iterator[Row]:
    """The lines of rows.jsonl and dropped.jsonl, where they are there."""
    for file in (folder / "rows.jsonl", folder / "dropped.jsonl"):
        if file.is_file():
            for _, record in read_raw(file):
                yield record
