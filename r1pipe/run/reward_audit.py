"""`r1pipe audit rewards`: every reward of the RL stages over their prompts, before a GPU is used (the checks: r1pipe/rewards/checks.py)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.artifacts import Prompts
from r1pipe.config.loader import Edge, Pipeline, Stage
from r1pipe.config.yamltree import nearest
from r1pipe.errors import ConfigError, InputError
from r1pipe.run.hub_models import fetch
from r1pipe.run.store import RunFolder, read_json, write_json
from r1pipe.schema import AuditParams, GRPOParams

if TYPE_CHECKING:
    from r1pipe.rewards.checks import Audit, Cell

SHOWN = 10  # of the worst rows, in the table
Read = Callable[[Path], list[dict[str, Any]]]


def rl_stages(pipeline: Pipeline, only: str | None = None) -> list[Stage]:
    """The stages with a `grpo` block, or the one of that name.

    Raises:
        ConfigError: there is none, or the one named is of another kind.
    """
    found = [stage for stage in pipeline.stages.values() if isinstance(getattr(stage.config, "grpo", None), GRPOParams)]
    names = [stage.name for stage in found]
    if only is not None and only not in names:
        pipeline.stage(only)
        raise ConfigError(f"stage {only} has no rewards", str(pipeline.file), nearest(only, names) if names else "")
    if not found:
        raise ConfigError(
            "no stage of this config trains on rewards",
            str(pipeline.file),
            "rewards stand in the phases of a `grpo:` block",
        )
    return [stage for stage in found if only in (None, stage.name)]


def audit_pipeline(
    pipeline: Pipeline, only: str | None, sample: int, thresholds: dict[str, float]
) -> tuple[list[Audit], list[str]]:
    """Audit the RL stages whose prompts are there.

    Args:
        only: this stage alone; then its prompts must be there.
        sample: prompts whose variants are scored, and stored responses, at most.
        thresholds: over those of the stages' `audit:` blocks.

    Returns:
        what was found, and a sentence for every stage that was passed over.

    Raises:
        InputError: no stage's prompts are there.
    """
    from r1pipe.data.io import read_rows
    from r1pipe.rewards.checks import audit, specs_of

    folder, audits, missing = RunFolder(pipeline.run), [], []
    read: Read = lru_cache(maxsize=None)(lambda path: read_rows(path, Prompts))  # an exam is asked of every checkpoint
    stored = None
    for stage in rl_stages(pipeline, only):
        params: GRPOParams = stage.config.grpo  # type: ignore[attr-defined]
        limits = AuditParams.model_validate(getattr(stage.config, "audit", AuditParams()).model_dump() | thresholds)
        try:
            ports = dict.fromkeys(port for phase in params.phases for port in phase.prompts)
            rows = [row for port in ports for row in _prompts(pipeline, folder, stage, port, read)]
        except InputError as error:
            missing.append(error)
            continue
        specs, notes = specs_of(params.phases), []
        rows = _isolated(rows, specs, notes)
        if not rows:
            missing.append(
                InputError(
                    f"{stage.name}: no prompt is left to audit: {'; '.join(notes) or 'there are none'}",
                    str(pipeline.file),
                )
            )
            continue
        models = _models(pipeline, folder, stage, [spec.name for spec in specs], notes)
        stored = list(_stored(pipeline, folder, read)) if stored is None else stored
        by_id = {row["id"]: row for row in rows}
        known = [(asked or by_id[number], text) for asked, number, text in stored if asked or number in by_id]
        known = random.Random(0).sample(known, min(sample, len(known)))
        found = audit(stage.name, specs, rows, limits, sample=sample, stored=known, models=models)
        found.notes += notes
        audits.append(found)
    if not audits:
        raise missing[0]
    return audits, [f"{error.what}; {error.fix}" if error.fix else error.what for error in missing]


def _place(pipeline: Pipeline, folder: RunFolder, source: Edge, wanted_by: str) -> Path:
    """Where an input lies.

    Raises:
        InputError: it has not been made yet.
    """
    if source.origin != "stage":
        path = fetch(source) if source.origin == "hub" else source.path
        assert path is not None
        return path
    maker = folder.stage(source.stage)
    manifest = read_json(maker.manifest_json)
    if manifest is None:
        fix = f"`{pipeline.command(source.stage)} --upstream` makes it"
        raise InputError(
            f"{wanted_by}: `{source.text}` is not there yet ({source.stage} has not run)", str(folder.path), fix
        )
    return maker.path / manifest["outputs"][source.port]["path"]


def _prompts(pipeline: Pipeline, folder: RunFolder, stage: Stage, port: str, read: Read) -> list[dict[str, Any]]:
    source = stage.inputs.get(port)
    if not isinstance(source, Edge):
        raise ConfigError(
            f"a phase of {stage.name} asks for prompts from `{port}`, which is no input",
            stage.where,
            "see grpo.phases.prompts",
        )
    return read(_place(pipeline, folder, source, stage.name))


def _isolated(rows: list[dict[str, Any]], specs: Sequence[Any], notes: list[str]) -> list[dict[str, Any]]:
    """Without isolation, as in training, code is left out."""
    from r1pipe.rewards.sandbox import available

    reason = None if any(spec.name == "code" and "executor" in spec.params for spec in specs) else available()
    kept = rows if reason is None else [row for row in rows if not row.get("tests")]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} code prompts are left out: {reason}")
    return kept


def _models(
    pipeline: Pipeline, folder: RunFolder, stage: Stage, names: Sequence[str], notes: list[str]
) -> dict[str, Any]:
    """The reward models that are there."""
    from r1pipe.rewards import MODEL_PORTS

    paths = {}
    for name, port in MODEL_PORTS.items():
        source = stage.inputs.get(port)
        if name not in names or not isinstance(source, Edge):
            continue
        try:
            paths[name] = _place(pipeline, folder, source, name)
        except InputError as error:
            notes.append(f"{error.what}; {error.fix}")
    if not paths:
        return {}
    from transformers.utils import logging

    from r1pipe.training.reward_model import Scorer

    logging.disable_progress_bar()
    return {name: Scorer(path) for name, path in paths.items()}


def _stored(pipeline: Pipeline, folder: RunFolder, read: Read) -> Iterator[tuple[dict[str, Any] | None, str, str]]:
    """Responses that models gave in this run: the row that was asked, in reports; its id; the text. Data stages' rows are the prompts' own."""
    for maker in pipeline.stages.values():
        manifest = read_json(folder.stage(maker.name).manifest_json)
        for made in (manifest or {"outputs": {}})["outputs"].values():
            if made["type"] not in ("report", "chats"):
                continue
            path = folder.stage(maker.name).path / made["path"]
            asked = {}
            if made["type"] == "report":
                prompts = [source for _, source in maker.edges() if issubclass(source.type, Prompts)]
                asked = {
                    row["id"]: row for source in prompts for row in read(_place(pipeline, folder, source, maker.name))
                }
            for file in (path / "rows.jsonl", path / "dropped.jsonl"):
                for line in file.read_text(encoding="utf8").splitlines() if file.is_file() else ():
                    told = json.loads(line)
                    text = told["messages"][-1]["content"] if "messages" in told else told.get("response")
                    if isinstance(text, str) and (made["type"] == "chats" or told.get("id") in asked):
                        yield asked.get(told.get("id")), told.get("id"), text


# --- showing it -----------------------------------------------------------------------------------------------------------


def show(audits: Sequence[Audit], missing: Sequence[str]) -> None:
    """Tables for people."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for found in audits:
        console.print(f"[bold]{found.stage}[/]  {escape(found.line())}", soft_wrap=True)
        table = Table(title="mean score by reward", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
        table.add_column("response", no_wrap=True)
        for name in found.cells:
            table.add_column(escape(name), justify="right", overflow="fold")
        for variant in dict.fromkeys(variant for row in found.cells.values() for variant in row):
            cells = [row.get(variant) for row in found.cells.values()]
            table.add_row(
                variant, *("-" if cell is None or cell.mean is None else f"{cell.mean:.3f}" for cell in cells)
            )
        table.add_section()
        for label, key, digits in (("not judged", "none", 3), ("ms a response", "ms", 2)):
            table.add_row(label, *(f"{_mean(row.values(), key):.{digits}f}" for row in found.cells.values()))
        console.print(table)
        if found.unparseable:
            console.print(
                f"{len(found.unparseable)} gold answers do not parse: {escape(', '.join(found.unparseable[:SHOWN]))}",
                soft_wrap=True,
            )
        if found.compared:
            console.print(
                f"accuracy and TRL's accuracy_reward differ on {found.disagreements} of {found.compared} responses"
            )
        if found.worst:
            worst = Table(
                title=f"worst rows ({min(SHOWN, len(found.worst))} of {len(found.worst)})",
                title_justify="left",
                box=SIMPLE_HEAD,
                padding=(0, 1),
            )
            for column in ("id", "reward", "variant", "score", "why", "gold", "response"):
                worst.add_column(column, overflow="fold", max_width=60 if column == "response" else 24)
            for row in found.worst[:SHOWN]:
                score = "-" if row["score"] is None else f"{row['score']:.3f}"
                response = re.sub(r"\s+", " ", row["response"])
                cells = (
                    row["id"],
                    row["reward"],
                    row["variant"],
                    score,
                    row["why"],
                    row["gold"][:80],
                    response if len(response) < 160 else f"...{response[-157:]}",
                )
                worst.add_row(*(escape(str(cell)) for cell in cells))
            console.print(worst)
        for note in found.notes:
            console.print(f"note: {escape(note)}", soft_wrap=True)
        for failure in found.failures:
            console.print(f"[red]did not pass:[/] {escape(failure)}", soft_wrap=True)
    for sentence in missing:
        console.print(f"not audited: {escape(sentence)}", soft_wrap=True)


def _mean(cells: Iterable[Cell], key: str) -> float:
    """Over all responses."""
    cells = list(cells)
    return sum(getattr(cell, key) * cell.n for cell in cells) / (sum(cell.n for cell in cells) or 1)


def write(file: Path, audits: Sequence[Audit], missing: Sequence[str]) -> None:
    """The same and all the worst rows, as JSON.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            file,
            {
                "stages": [found.record() for found in audits],
                "not_audited": list(missing),
                "ok": not any(found.failures for found in audits),
            },
        )
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}", str(file.parent)) from None
