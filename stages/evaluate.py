"""evaluate: one checkpoint answers held-out prompts and is scored, suite by suite (v2 sec. 4 and D.1).

Reads a checkpoint (or none: `sampling.endpoint` of every pass is a model behind a service) and one or several sets of prompts; the suites
follow from the rows' domains (r1pipe/evaluation/scoring.py). Writes a report: scores.json {checkpoint: {suite: {pass@1, stderr, n, k, tokens,
...}}} and rows.jsonl with every response. pass@1 is the mean over k samples a problem; the paper samples at temperature 0.6 with top-p 0.95
and calls greedy decoding unreliable.

    scores-r1:
      kind: evaluate
      inputs: {model: r1, prompts: {reasoning: reasoning-heldout, general: general-heldout, safety: safety-heldout}}
      outputs: {report: scores-r1}
      passes:
        - {sampling: {temperature: 1.0, top_p: 1.0, max_tokens: 64}}
        - {name: greedy, sampling: {temperature: 0, max_tokens: 64}}

Alone: `r1pipe run-stage scores-r1 -c my.yaml`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from r1pipe.artifacts import Checkpoint, Prompts, Report
from r1pipe.here import Here
from r1pipe.judges.judge import JudgeName
from r1pipe.schema import Model, Ports, Sampling, StageConfig, TemplateName

UNNAMED = "main"  # in the names of the first pass's files


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: dict[str, Prompts]


class Outputs(Ports):
    report: Report


class Pass(Model):
    """One way of sampling; its scores stand under pass@1 where it has no name, else under pass@1/<name>."""

    name: str | None = None
    sampling: Sampling = Sampling()


class Config(StageConfig):
    checkpoint: str | None = Field(default=None, description="the name in the scores; none = the input's")
    template: TemplateName = Field(
        default="chat", description="chat, or the path of a template file: what the checkpoint was trained on"
    )
    judge: JudgeName = Field(default="none", description="who judges general, harmful and lookalike rows")
    passes: list[Pass] = Field(
        default_factory=lambda: [Pass()], min_length=1, description="the first is the run's own; default: v2 D.1, k = 1"
    )

    @field_validator("passes")
    @classmethod
    def _named(cls, value: list[Pass]) -> list[Pass]:
        names = [one.name for one in value]
        if names[0] is not None or None in names[1:] or len(set(names)) < len(names):
            raise ValueError("the first pass has no name, each other one has a name of its own")
        if odd := [name for name in names if name is not None and (name in ("", UNNAMED) or "/" in name)]:
            raise ValueError(
                f"a pass cannot be called {odd[0]!r}: {UNNAMED} is what the first pass's files are called, and its name is part of a file's"
            )
        return value

    def mismatch(self, given: set[str]) -> str:
        return next(filter(None, (one.sampling.mismatch("model" in given) for one in self.passes)), "")


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample, score, summarise."""
    import json

    from r1pipe.data.io import read_several, write_rows
    from r1pipe.evaluation.scoring import not_run, score_samples, summarise
    from r1pipe.generation import sample
    from r1pipe.judges.judge import load_judge

    rows = read_several(inputs.prompts, here.stage)
    left_out = {row["domain"] for row in rows if row["domain"] == "code"} if not here.isolation else set()
    asked = [row for row in rows if row["domain"] not in left_out]
    judge, model = load_judge(config.judge), inputs.model.path if inputs.model else None

    suites: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    for one in config.passes:
        completions = sample(
            model, asked, one.sampling, config.template, here, config.seed, label=f"pass-{one.name or UNNAMED}"
        )
        if not here.main:
            continue
        scored = score_samples(asked, completions, judge)
        lines += [{"pass": one.name, **line} for line in scored]
        for suite, values in summarise(scored, one.sampling.n).items():
            suites.setdefault(suite, {}).update(
                values
                if one.name is None
                else {f"{key}/{one.name}": value for key, value in values.items() if key != "n"}
            )
    if not here.main:
        return {}
    suites |= {domain: not_run("no isolation") for domain in left_out}
    served = config.passes[0].sampling.endpoint
    own = served.model if served else inputs.model and (inputs.model.name or inputs.model.path.name)
    assert own is not None, "sample() refuses a stage without a model"
    name = config.checkpoint or own
    write_rows(outputs.report.path, lines)
    (outputs.report.path / "scores.json").write_text(json.dumps({name: suites}, indent=1) + "\n", encoding="utf8")
    return {
        f"{suite}/{key}": values[key]
        for suite, values in suites.items()
        for key in ("pass@1", "stderr", "tokens", "unjudged")
        if values.get(key) is not None
    }
