"""Suites: what is asked, how it is sampled and judged. A file of YAML, one that ships, or an evaluation of a run.

# suites/mine.yaml: the `source` of a stage `prompts`, and fields of a stage `evaluate`
source: {path: exam.jsonl, domain: exam, language: en}
passes: [{sampling: {n: 4, max_tokens: 2048}}]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r1pipe.config.edges import NAME, NAME_RULE
from r1pipe.config.mistakes import Mistakes
from r1pipe.config.paths import resolve_paths
from r1pipe.config.registry import load_kind
from r1pipe.config.shipped_files import SHIPPED
from r1pipe.config.validation import validate
from r1pipe.config.yamltree import Node, nearest, read, shorten
from r1pipe.errors import InputError
from r1pipe.run.report.figure import kind_of
from r1pipe.run.status import run_folder, run_names, stage_names
from r1pipe.run.store import StageFolder
from r1pipe.text.regular_files import in_home

# Fields of the stage that say which model is asked and where, not what.
NOT_OF_A_SUITE = ("checkpoint", "launch")
SUITES = Path("configs/suites")


@dataclass(frozen=True)
class Suite:
    """A suite, with absolute paths.

    Attributes:
        name: of the file, or of the run's stage.
        fields: of a stage `evaluate`.
        source: of a stage `prompts`.
        prompts: name -> a dataset that is there already, in place of a source.
    """

    name: str
    fields: dict[str, Any]
    source: Any = None
    prompts: dict[str, str] = field(default_factory=dict)


def find_suite(text: str) -> Suite:
    """The suite that a user names.

    Args:
        text: a YAML file; a name, of configs/suites/NAME.yaml here or among those that ship; or RUN/STAGE, a stage
            `evaluate` of a run.

    Raises:
        InputError: there is none.
        ConfigError: its file is wrong.
    """
    for path in (in_home(Path(text)), SUITES / f"{text}.yaml", SHIPPED / "suites" / f"{text}.yaml"):
        if path.is_file():
            return _of_file(path)
    run, _, stage = text.partition("/")
    if stage and run in run_names():
        return _of_run(run, stage)
    names = {path.stem for folder in (SUITES, SHIPPED / "suites") for path in folder.glob("*.yaml")}
    raise InputError(
        f"there is no suite '{text}'",
        fix=f"{nearest(text, sorted(names))}\nor give a file, or RUN/STAGE: an evaluation of a run",
    )


def _of_file(path: Path) -> Suite:
    tree = read(path)
    problems = Mistakes()
    shown = shorten(path.absolute())
    if not NAME.fullmatch(path.stem):
        problems.add(f"'{path.stem}' is not a name for a suite", shown, NAME_RULE)
    for key in NOT_OF_A_SUITE:
        if key in tree.value:
            problems.add(f"{key} is not of a suite: `r1pipe eval` says which model is asked", shown)

    parts = {key: node for key, node in tree.value.items() if key != "source"}
    evaluate = Node(parts, tree.origin)
    prompts = Node({key: node for key, node in tree.value.items() if key == "source"}, tree.origin)
    values = {}
    for kind, block in (("evaluate", evaluate), ("prompts", prompts)):
        model = load_kind(kind).Config
        values[kind] = resolve_paths(model, block, {}, problems)
        validate(model, block, values[kind], path.stem, problems)
    problems.raise_all(shown)
    return Suite(path.stem, values["evaluate"], values["prompts"]["source"])


def _of_run(run: str, stage: str) -> Suite:
    """What a stage `evaluate` of a run asked, from the run's folder: its prompts are not made again."""
    folder = run_folder(run)
    evaluations = []
    for name in stage_names(folder):
        record = folder.stage(name).record()
        if record and kind_of(name, record) == "evaluate":
            evaluations.append(name)
    if stage not in evaluations:
        raise InputError(
            f"run '{run}' has no evaluation '{stage}' that was started",
            str(folder.path),
            nearest(stage, evaluations),
        )
    return _of_record(run, folder.stage(stage))


def _of_record(run: str, folder: StageFolder) -> Suite:
    record = folder.record()
    assert record is not None
    fields = {key: value for key, value in record["config"].items() if key not in NOT_OF_A_SUITE}
    prompts = {}
    for name, edge in record["inputs"]["prompts"].items():
        prompts[name] = str(Path(edge["path"]).absolute())
    return Suite(f"{run}-{folder.path.name}", fields, prompts=prompts)
