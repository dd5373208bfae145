"""Where a checkpoint comes from, as far as its run's folder says: stages, bases, datasets, scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1pipe.artifacts import Checkpoint
from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.data.card import TABLE
from r1pipe.errors import InputError
from r1pipe.run.artifact_lookup import find_artifact
from r1pipe.run.records import read_object
from r1pipe.run.store import StageFolder, outputs_of, whole_manifest
from r1pipe.text.checkpoint_files import read_checkpoint


@dataclass
class Lineage:
    """What was found.

    Attributes:
        path: the checkpoint's folder.
        name: the checkpoint's name in the figure, or its folder's.
        run: the run's name; empty where no run made it.
        stages: of the run, those that it was made by, in the order of the figure, each as its block of the config.
        manifests: of those stages.
        bases: models that were given to them from outside the run, as the config names them.
        sources: datasets that were.
        cards: dataset's name -> its card as Markdown.
        scores: checkpoint's name -> suite -> score, of the bases and of the checkpoint itself.
    """

    path: Path
    name: str
    run: str = ""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    bases: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    cards: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def own_scores(self) -> dict[str, Any]:
        return self.scores.get(self.name, {})


def find_checkpoint(text: str) -> Path:
    """The folder of a checkpoint.

    Args:
        text: embedded:NAME, a folder, or a name of the figure (find_artifact).

    Raises:
        InputError: there is none.
    """
    shipped = EMBEDDED / text.removeprefix("embedded:")
    if text.startswith("embedded:") and shipped.is_dir():
        return shipped
    return find_artifact(text, Checkpoint.kind).absolute()


def check_language_model(checkpoint: Path) -> None:
    """Refuse what is no checkpoint that writes text.

    Raises:
        InputError: it is not.
    """
    fix = "name a checkpoint that writes text, such as r1 or zero"
    config = read_checkpoint(checkpoint).config
    if not config:
        raise InputError("this is no checkpoint: it has no config.json", str(checkpoint), fix)
    architecture = next(iter(config.get("architectures") or []), "")
    if not architecture.endswith("ForCausalLM"):
        raise InputError(
            f"this is no language model, but {architecture or 'of no architecture that config.json names'}",
            str(checkpoint),
            fix,
        )


@dataclass(frozen=True)
class Asking:
    """How a checkpoint is asked: `chat` or a template file (schema.TemplateName), and the strings that end a reply."""

    template: str = "chat"
    stop: tuple[str, ...] = ()


def asking_of(checkpoint: Path) -> Asking:
    """How a checkpoint was asked by the stage that trained it, as far as a run says so; else by its chat template."""
    stage = StageFolder(checkpoint.parent.parent)
    if checkpoint not in {path.absolute() for _, path in outputs_of(stage)}:
        return Asking()
    config = (stage.record() or {}).get("config", {})
    stop = (config.get("grpo") or {}).get("stop") or ()
    return Asking(config.get("template") or "chat", tuple(stop))


def lineage_of(checkpoint: Path) -> Lineage:
    """Follow a checkpoint back through the stages of its run."""
    stage = StageFolder(checkpoint.parent.parent)
    made = {path.absolute(): output for output, path in outputs_of(stage)}
    run = stage.path.parent
    stages = read_object(run / "config.json").get("stages")
    if checkpoint not in made or not isinstance(stages, dict):
        base = f"embedded:{checkpoint.name}" if checkpoint.parent == EMBEDDED else str(checkpoint.name)
        return Lineage(checkpoint, checkpoint.name, bases=[base])

    lineage = Lineage(checkpoint, made[checkpoint]["name"], run.name)
    needed = _stages_behind(stage.path.name, stages, lineage)
    lineage.stages = {name: block for name, block in stages.items() if name in needed}
    for name in lineage.stages:
        folder = StageFolder(run / name)
        lineage.manifests[name] = whole_manifest(folder)
        for output, path in outputs_of(folder):
            card = path / TABLE
            if card.is_file():
                lineage.cards[output["name"]] = card.read_text(encoding="utf8")
    lineage.scores = _scores(run, stages, lineage)
    return lineage


def _stages_behind(last: str, stages: dict[str, dict[str, Any]], lineage: Lineage) -> set[str]:
    """The names of the stages that a stage reads from, itself among them.

    The lineage's bases and sources get what none of them makes.
    """
    makers = {name: stage for stage, block in stages.items() for name in _names(block.get("outputs"))}
    found: set[str] = set()
    waiting = [last]
    while waiting:
        stage = waiting.pop()
        if stage in found:
            continue
        found.add(stage)
        for role, value in (stages[stage].get("inputs") or {}).items():
            given = lineage.bases if role == "model" else lineage.sources
            for name in _names(value):
                if name in makers:
                    waiting.append(makers[name])
                elif name not in given:
                    given.append(name)
    return found


def _names(ports: Any) -> Iterator[str]:
    """The artifacts of a block's inputs or outputs, of which a port may have several."""
    if isinstance(ports, str):
        yield ports
    elif isinstance(ports, dict):
        for value in ports.values():
            yield from _names(value)


def _scores(run: Path, stages: dict[str, dict[str, Any]], lineage: Lineage) -> dict[str, dict[str, Any]]:
    """The scores of the bases and of the checkpoint, under the names that evaluate stages gave them."""
    scores = read_object(run / "summary.json").get("scores")
    if not isinstance(scores, dict):
        return {}
    found: dict[str, dict[str, Any]] = {}
    for block in stages.values():
        model = (block.get("inputs") or {}).get("model")
        label = str(block.get("checkpoint"))
        if label not in scores:
            continue
        if model == lineage.name:
            found[lineage.name] = scores[label]
        elif model in lineage.bases:
            found[label] = scores[label]
    return found
