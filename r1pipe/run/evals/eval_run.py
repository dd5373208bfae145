"""One model on some suites, as a run of its own: two stages for each suite, with all that runs have.

So a kill loses no sample, the same call goes on, another model under the same name is refused, and the run's folder has
the scores, every sample in Parquet, and the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from r1pipe.config.loader import Pipeline, load
from r1pipe.errors import R1PipeError
from r1pipe.run import pipeline
from r1pipe.run.console import Console
from r1pipe.run.evals.eval_models import AskedModel
from r1pipe.run.evals.suite_files import Suite
from r1pipe.run.plan import Plan, make_plan
from r1pipe.run.records import read_object
from r1pipe.run.store import RunFolder, outputs_of, write_json, write_text
from r1pipe.text.regular_files import in_home

CONFIG = "eval.yaml"
SCORES = "eval.json"
COLUMNS = (
    "suite",
    "problems",
    "samples",
    "pass@1",
    "strict",
    "pass@k",
    "cons@k",
    "cut off",
    "tokens",
    "unjudged",
)
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Changes:
    """What a command says in place of the suites; None = as they do.

    Attributes:
        limit: problems of each source.
        samples, temperature, max_tokens: of the first way of sampling.
        template: how a prompt becomes text.
        backend: hf or vllm.
    """

    limit: int | None = None
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    template: str | None = None
    backend: str | None = None


def evaluate(
    model: AskedModel,
    suites: Sequence[Suite],
    changes: Changes,
    console: Console,
    *,
    run: str | None = None,
    again: bool = False,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Ask the model everything that it was not asked yet.

    Args:
        run: the run's name; None = one made of the model's and the suites'.
        again: redo what is done.
        minutes: after which it stops; None = no limit.

    Returns:
        The content of eval.json: run, model, scores {suite file: {suite: its scores}}, and where the files are.

    Raises:
        Interrupted: the same call goes on.
        R1PipeError: a mistake in a suite, another model or suite in the run of that name, or a stage failed.
    """
    folder = RunFolder(run or run_name(model, suites))
    loaded = _load(folder, config_of(model, suites, changes))

    def replan() -> Plan:
        return make_plan(loaded, rebuild=list(loaded.stages) if again else ())

    pipeline.run(replan, console, minutes)
    scores: dict[str, Any] = {}
    for suite in suites:
        for _, path in outputs_of(folder.stage(stage_of(suite))):
            (scores[suite.name],) = read_object(path / "scores.json").values()
    result = {
        "run": folder.run,
        "model": model.label,
        "scores": scores,
        "samples": str(folder.path / "samples.parquet"),
        "report": str(folder.path / "report.html"),
    }
    write_json(folder.path / SCORES, result)
    return result


def run_name(model: AskedModel, suites: Sequence[Suite]) -> str:
    """The name of the run where the user gives none."""
    names = "-".join(suite.name for suite in suites)
    return _NOT_A_NAME.sub("-", f"eval-{model.label}-{names}")[:100]


def stage_of(suite: Suite) -> str:
    """The stage that evaluates a suite."""
    return f"evaluate-{suite.name}"


def config_of(model: AskedModel, suites: Sequence[Suite], changes: Changes) -> dict[str, Any]:
    """The config of the run."""
    stages: dict[str, Any] = {}
    for suite in suites:
        prompts: dict[str, str] = suite.prompts
        source = _fewer(suite, changes.limit)
        if source is not None:
            prompts = {suite.name: f"{suite.name}-problems"}
            stages[f"problems-{suite.name}"] = {
                "kind": "prompts",
                "source": source,
                "outputs": {"prompts": f"{suite.name}-problems"},
            }
        fields = dict(suite.fields)
        if changes.template:
            fields["template"] = _template(changes.template)
        # Two suites may have scores of one name, such as `format`.
        label = model.label if len(suites) == 1 else f"{model.label} {suite.name}"
        stages[stage_of(suite)] = {
            "kind": "evaluate",
            "inputs": {"prompts": prompts} | ({"model": model.edge} if model.edge else {}),
            "outputs": {"report": f"scores-{suite.name}"},
            "checkpoint": label,
            **fields,
            "passes": _passes(model, fields.get("passes") or [{}], changes),
        }
    return {"stages": stages}


def _fewer(suite: Suite, limit: int | None) -> Any:
    """The suite's source, with a limit on each of several; None where its prompts are there already."""
    if limit is None:
        return suite.source
    sources = suite.source
    if sources is None:
        sources = [{"path": path} for path in suite.prompts.values()]
    if isinstance(sources, Mapping):
        sources = [sources]
    return [{**source, "count": min(limit, source.get("count") or limit)} for source in sources]


def _template(text: str) -> str:
    """A template by name, or a file's absolute path, since the config lies elsewhere."""
    path = in_home(Path(text))
    return str(path.absolute()) if path.is_file() else text


def _passes(model: AskedModel, passes: Sequence[Mapping[str, Any]], changes: Changes) -> list[dict[str, Any]]:
    first = {
        "n": changes.samples,
        "temperature": changes.temperature,
        "max_tokens": changes.max_tokens,
        "backend": changes.backend,
    }
    changed = []
    for position, way in enumerate(passes):
        sampling = dict(way.get("sampling") or {})
        if position == 0:
            sampling |= {name: value for name, value in first.items() if value is not None}
        # How the suite's own run reached its model says nothing of this one.
        sampling.pop("endpoint", None)
        if model.endpoint is not None:
            sampling |= {"backend": "openai", "endpoint": model.endpoint}
        elif sampling.get("backend") == "openai":
            del sampling["backend"]
        if sampling.get("backend") != "vllm":
            sampling.pop("vllm", None)
        changed.append({**way, "sampling": sampling})
    return changed


def _load(folder: RunFolder, config: dict[str, Any]) -> Pipeline:
    """Write the config into the run's folder, so that the run can be repeated, and read it.

    Raises:
        ConfigError: it is wrong, and nothing is left of it.
    """
    is_new = not folder.path.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    file = folder.path / CONFIG
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120)
    write_text(file, text)
    try:
        return load(file, run=folder.run)
    except R1PipeError:
        if is_new:
            file.unlink()
            folder.path.rmdir()
        raise


# --- the table --------------------------------------------------------------------------------------------------------


def table_lines(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every suite a line, with all that was measured of the first way of sampling."""
    rows = [_row(file, suite, score) for file, of_file in scores.items() for suite, score in of_file.items()]
    # A column that no suite has is left out.
    head = [name for name in COLUMNS if any(name in row for row in rows)]
    cells = [head] + [[row.get(name, "") for name in head] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def _row(file: str, suite: str, score: Mapping[str, Any]) -> dict[str, str]:
    row = {"suite": suite if suite == file else f"{file}: {suite}", "problems": str(score.get("n", 0))}
    if score.get("pass@1") is None:
        return row | {"pass@1": str(score.get("note", "-"))}
    row["samples"] = str(score["k"])
    row["pass@1"] = _with_error(score, "pass@1", "stderr")
    names = [name for name in score if re.fullmatch(r"strict|(?:pass|cons)@\d+", name) and name != "pass@1"]
    for name in names:
        # Of all pass@k the last one is enough, which is the best that so many samples give.
        if not name.startswith("pass@") or name == f"pass@{score['k']}":
            label = {"strict": "strict"}.get(name, name.partition("@")[0] + "@k")
            row[label] = _with_error(score, name, f"{name}_stderr")
    row["cut off"] = f"{score['truncated']:.1%}"
    row["tokens"] = f"{score['tokens']:.0f}"
    if score.get("unjudged"):
        row["unjudged"] = str(score["unjudged"])
    return row


def _with_error(score: Mapping[str, Any], name: str, error: str) -> str:
    stderr = score.get(error)
    known = isinstance(stderr, float) and math.isfinite(stderr)
    return f"{score[name]:.3f}±{stderr:.3f}" if known else f"{score[name]:.3f}"
