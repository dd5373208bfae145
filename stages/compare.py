"""compare: checkpoints side by side, from their reports (v2 sec. 4, Table 3, with intervals).

Reads the reports of several checkpoints, which answered the same prompts, and those prompts. A judge sets each checkpoint's answers to the
general prompts against those of `against`, both orders; it looks at the answer and not at the thinking, and by criteria that no training
saw ('heldout'); by those that made the reward model's pairs ('seen') it is reported as well. Writes a report: scores.json with `helpful` for
every checkpoint (pass@1 = win rate, ties half; won = wins / (wins + losses)), rows.jsonl with every comparison, and paired.json with the
paired difference of each [a, b] in `differences` on every suite, with its 95 % interval.

    compare:
      kind: compare
      inputs:
        reports: {base: scores-base, zero: scores-zero, dev3: scores-dev3, r1: scores-r1}
        prompts: general-heldout
      outputs: {report: comparison}
      against: dev3
      judge: world
      differences: [[zero, base], [r1, dev3]]

Alone: `r1pipe run-stage compare -c my.yaml`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from r1pipe.artifacts import Prompts, Report
from r1pipe.here import Here
from r1pipe.judges.judge import JudgeName
from r1pipe.schema import Ports, StageConfig


class Inputs(Ports):
    reports: dict[str, Report]
    prompts: Prompts | None = None


class Outputs(Ports):
    report: Report


class Config(StageConfig):
    against: str = Field(default="dev3", description="the checkpoint that all others are set against")
    judge: JudgeName = Field(default="none", description="who compares; none = only paired differences")
    differences: list[tuple[str, str]] = Field(default_factory=list, description="[a, b]: how much higher a is than b")


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Read, compare, subtract."""
    import json

    from r1pipe.data.io import read_rows, write_rows
    from r1pipe.errors import ConfigError
    from r1pipe.evaluation.comparison import compare_reports, differences, general_rows, read_report, win_rate
    from r1pipe.judges.judge import load_judge

    judge = load_judge(config.judge)
    asked = {name for pair in config.differences for name in pair} | ({config.against} if judge else set())
    if unknown := asked - set(inputs.reports):
        raise ConfigError(
            f"there is no report of {', '.join(sorted(unknown))}",
            here.stage,
            f"inputs.reports has {', '.join(inputs.reports)}",
        )
    if (judge is None) != (inputs.prompts is None):
        raise ConfigError(
            "a judge and prompts go together, and one of them is missing",
            here.stage,
            "give both `judge` and `inputs.prompts`, or neither",
        )
    if not here.main:
        return {}
    reports = {name: read_report(report.path, name) for name, report in inputs.reports.items()}
    scores: dict[str, dict[str, Any]] = {}
    lines: list[dict[str, Any]] = []
    helpful: dict[str, dict[str, list[float]]] = {}
    if judge is not None and inputs.prompts is not None:
        rows = general_rows(read_rows(inputs.prompts.path, Prompts))
        for name, mine in reports.items():
            heldout, seen = (
                compare_reports(rows, mine, reports[config.against], judge, criteria)
                for criteria in ("heldout", "seen")
            )
            tokens = [line["tokens"] for line in mine if line["id"] in rows]
            k = len({sample for _, sample in heldout})
            by_seen = {f"{key}/seen": value for key, value in win_rate(seen).items() if key != "n"}
            scores[name] = {
                "helpful": {
                    **win_rate(heldout),
                    **by_seen,
                    "k": k,
                    "tokens": sum(tokens) / max(1, len(tokens)),
                    "against": config.against,
                }
            }
            helpful[name] = {}
            for key, value in heldout.items():
                helpful[name].setdefault(key[0], []).append(value)
                lines.append(
                    {
                        "id": key[0],
                        "sample": key[1],
                        "checkpoint": name,
                        "against": config.against,
                        "heldout": value,
                        "seen": seen[key],
                    }
                )
    found = differences(reports, config.differences, {"helpful": helpful})
    write_rows(outputs.report.path, lines)
    (outputs.report.path / "paired.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
    (outputs.report.path / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf8")
    metrics = {f"helpful/{name}": values["helpful"]["pass@1"] for name, values in scores.items()}
    for one in found:
        metrics |= {
            f"{one['a']}-{one['b']}/{one['suite']}{end}": one[key]
            for end, key in (("", "difference"), ("/low", "low"), ("/high", "high"))
        }
    return metrics
