"""evaluate: one checkpoint answers held-out prompts and is scored, suite by suite.

Reads     model (or none, with a model behind every pass's `sampling.endpoint`), prompts: one or several sets
Writes    report: scores.json {checkpoint: {suite: {pass@1, stderr, n, k, strict, pass@4, cons@4, ...}}}, and
          rows.jsonl with every response
Paper     v2 sec. 4 and D.1: temperature 0.6 with top-p 0.95, pass@1 as the mean over k samples; greedy is unreliable
Alone     r1pipe run-stage scores-r1 -c my.yaml

The suites follow from the rows' domains (r1pipe/evaluation/scoring.py).

    scores-r1:
      kind: evaluate
      inputs: {model: r1, prompts: {reasoning: reasoning-heldout, general: general-heldout, safety: safety-heldout}}
      outputs: {report: scores-r1}
      passes:
        - {sampling: {temperature: 1.0, top_p: 1.0, max_tokens: 64}}
        - {name: greedy, sampling: {temperature: 0, max_tokens: 64}}
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from r1pipe.artifacts import Checkpoint, Prompts, Report
from r1pipe.here import Here
from r1pipe.judges.judge import GraderName
from r1pipe.schema import JudgeEndpoint, Model, Ports, Sampling, StageConfig, TemplateName

# The first pass has no name in the YAML; its files in workdir have this one.
FIRST_PASS = "main"
# Metrics of the stage, beside pass@k and cons@k.
SHOWN = ("stderr", "strict", "strict_stderr", "tokens", "unjudged")


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: dict[str, Prompts]


class Outputs(Ports):
    report: Report


class Pass(Model):
    """One way of sampling."""

    name: str | None = None
    """Its scores stand under pass@1/<name>; those of the first pass, which has no name, under pass@1."""

    sampling: Sampling = Sampling()


class Config(StageConfig):
    lets_get_ready = True

    checkpoint: str | None = None
    """The name in the scores; none = the input's."""

    template: TemplateName = "chat"
    """`chat`, or the path of a template file: the one that the checkpoint was trained with."""

    judge: GraderName | JudgeEndpoint = "none"
    """Who judges general, harmful and look-alike rows: a name, or a language model behind a service; `refusals` =
    harmful and look-alike ones, by a list of phrases (r1pipe/judges/refusals.py)."""

    asks: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Domain -> samples of each of its problems, where a pass draws at random; the others have `sampling.n`. Few
    problems that are asked often give a smaller error."""

    passes: list[Pass] = Field(default_factory=lambda: [Pass()], min_length=1)
    """Ways of sampling. The first is the stage's own; the default is v2 D.1 with k = 1."""

    @field_validator("passes")
    @classmethod
    def _check_names(cls, passes: list[Pass]) -> list[Pass]:
        names = [way.name for way in passes]
        if names[0] is not None or None in names[1:] or len(set(names)) < len(names):
            raise ValueError("the first pass has no name, each other one has a name of its own")
        for name in names:
            if name is not None and (name in ("", FIRST_PASS) or "/" in name):
                raise ValueError(
                    f"a pass cannot be called {name!r}: names are parts of files' names, without '/', "
                    f"and {FIRST_PASS} is taken by the first pass"
                )
        return passes

    def mismatch(self, given: set[str]) -> str:
        for way in self.passes:
            problem = way.sampling.mismatch("model" in given)
            if problem:
                return problem
        return ""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample, score, summarise."""
    import json
    import warnings
    from functools import partial

    from r1pipe.data.io import read_several, write_rows
    from r1pipe.evaluation.judged import grades, grades_of_service
    from r1pipe.evaluation.scoring import example, not_run, score_samples, summarise
    from r1pipe.generation.contract import Sample
    from r1pipe.generation.sampling import sample
    from r1pipe.judges.judge import load_grader
    from r1pipe.rewards import symbolic

    rows = read_several(inputs.prompts, here.stage)
    judge = load_grader(config.judge)
    model = inputs.model.path if inputs.model else None
    if here.main and model is not None:
        import torch

        # They get ready while a GPU draws, on cores that have nothing else to do. Cores that draw have no time for it.
        if torch.cuda.is_available():
            symbolic.start_workers()

    # Code is not run where nothing can isolate it; its suite says so.
    left_out = set() if here.isolation else {row["domain"] for row in rows if _is_code(row)}
    prompts = [row for row in rows if row["domain"] not in left_out]

    nowhere = set(config.asks) - {row["domain"] for row in rows}
    if nowhere:
        warnings.warn(f"asks: no prompt has the domain {', '.join(sorted(nowhere))}", stacklevel=2)

    suites: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    for way in config.passes:
        # Sampling draws the same number for all its rows, so rows that are asked more often are drawn apart.
        by_count: dict[int, list[dict[str, Any]]] = {}
        # A greedy answer is the same each time.
        asks = config.asks if way.sampling.temperature else {}
        for row in prompts:
            by_count.setdefault(asks.get(row["domain"], way.sampling.n), []).append(row)

        samples_of: dict[str, list[Sample]] = {}
        for count, rows_asked in sorted(by_count.items()):
            samples = sample(
                model,
                rows_asked,
                way.sampling.model_copy(update={"n": count}),
                config.template,
                here=here,
                seed=config.seed,
                label=f"pass-{way.name or FIRST_PASS}-{count}",
            )
            # Samples are on rank 0 only, and so are the scores.
            if here.main:
                samples_of |= {row["id"]: drawn for row, drawn in zip(rows_asked, samples, strict=True)}
        if not here.main:
            continue
        grade = partial(grades, judge=judge)
        if isinstance(config.judge, JudgeEndpoint):
            assert judge is not None
            grade = partial(
                grades_of_service,
                judge=judge,
                max_in_flight=config.judge.max_in_flight,
                here=here,
                label=f"judge-{way.name or FIRST_PASS}",
            )
        scored = score_samples(prompts, [samples_of[row["id"]] for row in prompts], grade)
        lines += [{"pass": way.name, **line} for line in scored]
        for suite, values in summarise(scored).items():
            if way.name is not None:
                values = {f"{key}/{way.name}": value for key, value in values.items() if key != "n"}
            suites.setdefault(suite, {}).update(values)
    if not here.main:
        return {}
    suites |= {domain: not_run("no isolation") for domain in left_out}

    write_rows(outputs.report.path, lines)
    shown = example(prompts, lines)
    if shown:
        here.note(f"{_checkpoint_name(config, inputs)}: {shown}")
    scores = {_checkpoint_name(config, inputs): suites}
    (outputs.report.path / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf8")
    return _metrics(suites)


def _is_code(row: dict[str, Any]) -> bool:
    return row["domain"] == "code" or "tests" in row


def _metrics(suites: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The scores of the first pass that summary.json and gates read."""
    metrics: dict[str, float] = {}
    for suite, values in suites.items():
        for key, value in values.items():
            is_shown = key in SHOWN or key.startswith(("pass@", "cons@"))
            # Those of the other passes have the pass's name behind a slash.
            if is_shown and "/" not in key and value is not None:
                metrics[f"{suite}/{key}"] = value
    return metrics


def _checkpoint_name(config: Config, inputs: Inputs) -> str:
    """The config's name, else the service's model, else the input's name."""
    if config.checkpoint:
        return config.checkpoint
    service = config.passes[0].sampling.endpoint
    if service is not None:
        return service.model
    assert inputs.model is not None, "sample() refuses a stage without a model"
    return inputs.model.name or inputs.model.path.name
