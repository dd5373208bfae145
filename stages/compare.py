"""compare: checkpoints side by side, from their reports.

Reads     reports of several checkpoints that answered the same prompts, and those prompts
Writes    report: scores.json with `helpful` for every checkpoint, rows.jsonl with every comparison, and paired.json
Paper     v2 sec. 4, Table 3; the intervals are ours
Alone     r1pipe run-stage compare -c my.yaml

A judge compares each checkpoint's answers to the general prompts with those of `against`, in both orders. It sees the
answer and not the thinking, and judges by criteria that no training saw ('heldout'); the win rate by those that made
the reward model's pairs ('seen') is reported as well. pass@1 of `helpful` is the win rate, ties half; won is wins /
(wins + losses). A language model behind a service judges by what helps more, without a second set of criteria.
A report of this run stands under its checkpoint's name, one of another run under any.
paired.json holds the paired difference of each [a, b] in `differences` on every suite, with its 95 % interval.

    compare:
      kind: compare
      inputs:
        reports: {base: scores-base, zero: scores-zero, dev3: scores-dev3, r1: scores-r1}
        prompts: general-heldout
      outputs: {report: comparison}
      against: dev3
      judge: world
      differences: [[zero, base], [r1, dev3]]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from r1pipe.artifacts import Prompts, Report
from r1pipe.here import Here
from r1pipe.judges.judge import JudgeName
from r1pipe.schema import JudgeEndpoint, Ports, StageConfig

if TYPE_CHECKING:
    from r1pipe.evaluation.comparison import Outcomes
    from r1pipe.judges.judge import Examiner

Line = dict[str, Any]


class Inputs(Ports):
    reports: dict[str, Report]
    prompts: Prompts | None = None


class Outputs(Ports):
    report: Report


class Config(StageConfig):
    against: str = "dev3"
    """The checkpoint that all others are compared with."""

    judge: JudgeName | JudgeEndpoint = "none"
    """Who compares: a name, or a language model behind a service; none = only paired differences."""

    differences: list[tuple[str, str]] = Field(default_factory=list)
    """[a, b]: how much higher a is than b."""


class Comparison(NamedTuple):
    """One checkpoint's answers beside those of `against`."""

    scores: dict[str, Any]
    lines: list[Line]
    """Of rows.jsonl."""
    by_prompt: dict[str, list[float]]
    """Prompt id -> the values by the held-out criteria, for paired differences."""


Reports = dict[str, list[Line]]
Rows = dict[str, dict[str, Any]]
Comparer = Callable[[str, Reports, Rows], Comparison]


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Read, compare, subtract."""
    from r1pipe.data.io import read_rows
    from r1pipe.evaluation.comparison import differences, general_rows, read_report

    # On every rank, so that a mistake in the config ends all of them.
    compare = _comparer(config, here)
    _check_inputs(config, inputs, here)
    if not here.main:
        return {}

    # Another run's checkpoint may have the name of one of this run, so it has a name of its own here.
    run_folder = here.workdir.parents[1]
    reports = {
        name: read_report(report.path, name if report.path.is_relative_to(run_folder) else None)
        for name, report in inputs.reports.items()
    }
    comparisons: dict[str, Comparison] = {}
    if compare is not None and inputs.prompts is not None:
        rows = general_rows(read_rows(inputs.prompts.path, Prompts))
        for name in reports:
            comparisons[name] = compare(name, reports, rows)

    by_prompt = {name: comparison.by_prompt for name, comparison in comparisons.items()}
    paired = differences(reports, config.differences, {"helpful": by_prompt})
    _write(outputs.report, comparisons, paired)

    metrics = {f"helpful/{name}": comparison.scores["pass@1"] for name, comparison in comparisons.items()}
    for difference in paired:
        name = f"{difference['a']}-{difference['b']}/{difference['suite']}"
        metrics[name] = difference["difference"]
        metrics[f"{name}/low"] = difference["low"]
        metrics[f"{name}/high"] = difference["high"]
    return metrics


def _check_inputs(config: Config, inputs: Inputs, here: Here) -> None:
    from r1pipe.errors import ConfigError

    has_judge = config.judge != "none"
    needed = {name for pair in config.differences for name in pair}
    if has_judge:
        needed.add(config.against)
    unknown = needed - set(inputs.reports)
    if unknown:
        raise ConfigError(
            f"there is no report of {', '.join(sorted(unknown))}",
            here.stage,
            f"inputs.reports has {', '.join(inputs.reports)}",
        )
    if has_judge != (inputs.prompts is not None):
        raise ConfigError(
            "a judge and prompts go together, and one of them is missing",
            here.stage,
            "give both `judge` and `inputs.prompts`, or neither",
        )


def _comparer(config: Config, here: Here) -> Comparer | None:
    """What compares a checkpoint's answers to the general rows with those of another; None without a judge.

    Raises:
        ConfigError: the service's address or key is missing.
    """
    from r1pipe.judges.judge import load_judge

    if not isinstance(config.judge, JudgeEndpoint):
        examiner = load_judge(config.judge)
        return None if examiner is None else partial(_by_both_criteria, config.against, examiner)

    from r1pipe.evaluation.comparison import win_rate
    from r1pipe.evaluation.pairwise import compare_by_service

    judge = load_judge(config.judge)
    assert judge is not None

    def by_service(name: str, reports: Reports, rows: Rows) -> Comparison:
        own = reports[name]
        outcomes, numbers = compare_by_service(
            rows,
            own,
            reports[config.against],
            judge,
            here=here,
            label=f"judge-{name}",
        )
        return _comparison(
            name, config.against, own, rows, {"heldout": outcomes}, win_rate(outcomes) | numbers
        )

    return by_service


def _by_both_criteria(against: str, judge: Examiner, name: str, reports: Reports, rows: Rows) -> Comparison:
    from r1pipe.evaluation.comparison import compare_reports, win_rate

    own = reports[name]
    # Only `heldout` counts: by `seen` a policy could win that has learned to please the reward model.
    heldout = compare_reports(rows, own, reports[against], judge, criteria="heldout")
    seen = compare_reports(rows, own, reports[against], judge, criteria="seen")
    by_seen = {f"{key}/seen": value for key, value in win_rate(seen).items() if key != "n"}
    outcomes = {"heldout": heldout, "seen": seen}
    return _comparison(name, against, own, rows, outcomes, win_rate(heldout) | by_seen)


def _comparison(
    name: str,
    against: str,
    own: list[Line],
    rows: Rows,
    outcomes: Mapping[str, Outcomes],
    scores: dict[str, Any],
) -> Comparison:
    """What is written of a comparison.

    Args:
        outcomes: criteria -> what was found by them; `heldout` are those that count.
    """
    tokens = [line["tokens"] for line in own if line["id"] in rows]
    heldout = outcomes["heldout"]
    scores = scores | {
        "k": len({sample for _, sample in heldout}),
        "tokens": sum(tokens) / max(1, len(tokens)),
        "against": against,
    }
    lines: list[Line] = []
    by_prompt: dict[str, list[float]] = {}
    for (prompt, sample), value in heldout.items():
        by_prompt.setdefault(prompt, []).append(value)
        line = {"id": prompt, "sample": sample, "checkpoint": name, "against": against}
        values = {criteria: found[prompt, sample] for criteria, found in outcomes.items()}
        lines.append(line | values)
    return Comparison(scores, lines, by_prompt)


def _write(report: Report, comparisons: dict[str, Comparison], paired: list[dict[str, Any]]) -> None:
    import json

    from r1pipe.data.io import write_rows

    scores = {name: {"helpful": comparison.scores} for name, comparison in comparisons.items()}
    write_rows(report.path, [line for comparison in comparisons.values() for line in comparison.lines])
    (report.path / "paired.json").write_text(json.dumps(paired, indent=1) + "\n", encoding="utf8")
    (report.path / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf8")
