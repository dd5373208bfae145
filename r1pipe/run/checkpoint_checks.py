"""The contract of every checkpoint that a plan's stages read (r1pipe/text/checkpoint_contract.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from r1pipe.artifacts import Checkpoint, RewardModel
from r1pipe.config.loader import Edge, Stage
from r1pipe.config.validation import blocks
from r1pipe.errors import InputError
from r1pipe.models.folders import RENDER_SECONDS, check_folder, readable, within
from r1pipe.run.hub_models import cached
from r1pipe.schema import DPOParams, GRPOParams, RewardModelParams, Sampling, SFTParams
from r1pipe.text.checkpoint_contract import Finding, Use, check_checkpoint
from r1pipe.text.checkpoint_files import CheckpointFiles, read_checkpoint

if TYPE_CHECKING:
    from r1pipe.run.plan import Plan

NOT_READ = "the config, tokenizer or chat template cannot be read"


def checkpoint_findings(plan: Plan, names: Iterable[str]) -> list[Finding]:
    """What is to be said of the checkpoints that these stages read.

    A checkpoint that the run has yet to make is judged by what it is trained from: tokenizer, template and positions
    stay as they are there. Each thing is said once, of the first stage that it concerns.
    """
    found: dict[tuple[str, ...], Finding] = {}
    for name in names:
        stage = plan.pipeline.stages[name]
        if stage.use:
            continue
        for port, edge in stage.edges():
            if issubclass(edge.type, Checkpoint | RewardModel):
                for finding in _of_edge(plan, stage, port, edge):
                    key = (finding.level, finding.what, finding.where.partition("(")[2])
                    found.setdefault(key, finding)
    return list(found.values())


def _of_edge(plan: Plan, stage: Stage, port: str, edge: Edge) -> Iterator[Finding]:
    where = f"{stage.name}.inputs.{port}"
    use = _use(stage, port, edge)
    path, positions = _lies_at(plan, edge)
    if path is None:
        if edge.origin == "hub":
            yield Finding(
                "unchecked",
                where,
                f"{edge.text} is not on this machine, so its tokenizer, template and positions are unchecked",
                "they are checked when it is there, before the stage runs",
            )
        return
    if positions is not None and use.positions is None:
        use = replace(use, positions=positions)
    try:
        check_folder(path)
        with readable(path, NOT_READ, "bring the whole checkpoint as it was published"):
            found = _found(path, _state(path), use)
        yield from (replace(finding, where=where + finding.where) for finding in found)
    except InputError as error:
        yield Finding("error", f"{where} ({error.where})", error.what, error.fix)


def _lies_at(plan: Plan, edge: Edge) -> tuple[Path | None, int | None]:
    """Where a checkpoint lies, or what it will be trained from; and the positions that training gives it.

    None, None where it is not known: it is on the hub, or a stage makes it of something else.
    """
    positions: int | None = None
    while edge.origin == "stage":
        maker = plan.pipeline.stages[edge.stage]
        if maker.use:
            return maker.use.get(edge.port), positions
        published = plan.folder.stage(maker.name).out / edge.port
        if plan.states[maker.name].state == "done" and published.is_dir():
            return published, positions
        # A reward model has another head; its tokenizer is checked with the model that it is made from.
        model = maker.inputs.get("model")
        if not isinstance(model, Edge) or issubclass(edge.type, RewardModel):
            return None, None
        for _, params in blocks(maker.config, SFTParams):
            positions = positions or params.positions
        edge = model
    if edge.origin == "hub":
        return cached(edge), positions
    return edge.path, positions


def _use(stage: Stage, port: str, edge: Edge) -> Use:
    """What a stage does with the checkpoint of a port."""
    template = getattr(stage.config, "template", "chat")
    if issubclass(edge.type, RewardModel):
        return Use("scoring")
    if port == "model":
        for _, sft in blocks(stage.config, SFTParams):
            return Use("sft", max_length=sft.max_length, positions=sft.positions)
        for _, grpo in blocks(stage.config, GRPOParams):
            return Use("rl", template, max_tokens=max(phase.max_tokens for phase in grpo.phases))
        for _, rm in blocks(stage.config, RewardModelParams):
            return Use("reward model", max_length=rm.max_length)
        for _, dpo in blocks(stage.config, DPOParams):
            return Use("dpo", max_length=dpo.max_length)
    # A teacher has a block of its own, which is called like its place among the inputs.
    name = port.rpartition(".")[2]
    samplings = list(blocks(stage.config, Sampling))
    own = [sampling for keys, sampling in samplings if name in keys]
    others = [sampling for keys, sampling in samplings if not {"sources", "rewriter"} & set(keys)]
    drawn = [sampling for sampling in own or others if sampling.endpoint is None]
    if drawn:
        longest = max(sampling.max_tokens for sampling in drawn)
        return Use("sampling", "chat" if own else template, max_tokens=longest)
    return Use()


@lru_cache(maxsize=256)
def _found(path: Path, state: tuple[tuple[str, int, int], ...], use: Use) -> list[Finding]:
    """What is to be said, once for the many stages that read one checkpoint alike; where they do is left out."""
    # A template is a program of its author's, which may not end.
    with within(RENDER_SECONDS):
        return check_checkpoint(_read(path, state), use, "")


@lru_cache(maxsize=32)
def _read(path: Path, _state: tuple[tuple[str, int, int], ...]) -> CheckpointFiles:
    return read_checkpoint(path)


def _state(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files that are read: a checkpoint is read once while they stay the same."""
    files = sorted(file for pattern in ("*.json", "*.jinja", "*.safetensors") for file in path.glob(pattern))
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
