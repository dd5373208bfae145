"""Reports side by side: a judge's win rates, and paired differences on the same problems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1pipe.data.files import read_raw
from r1pipe.errors import InputError
from r1pipe.evaluation.scoring import Line, by_problem
from r1pipe.evaluation.stats import mean_by_problem, paired_difference, wilson
from r1pipe.judges.judge import Criteria, Examiner
from r1pipe.text.regular_files import read_regular, reason
from r1pipe.text.rows import GENERAL_DOMAIN

Outcomes = Mapping[tuple[str, int], float]
"""{(problem, sample): 1 won, 0.5 tied, 0 lost}."""


def read_report(path: Path, name: str | None) -> list[Line]:
    """Return the lines of a report's first pass, without those that a service refused to answer.

    Args:
        path: the report.
        name: the checkpoint whose scores it should hold; None where any will do.

    Raises:
        InputError: the folder is not a report, its files are damaged, or it holds another checkpoint's scores.
    """
    file = path / "scores.json"
    if not file.is_file():
        raise InputError(
            "the report has no scores.json", str(path), "a report is what the kind `evaluate` writes"
        )
    try:
        checkpoints = json.loads(read_regular(file).decode("utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"the scores of the report cannot be read: {reason(error)}", str(file), "evaluate again"
        ) from None
    if not isinstance(checkpoints, dict):
        raise InputError("the scores of the report are no JSON object", str(file), "evaluate again")
    if name is not None and name not in checkpoints:
        raise InputError(
            f"the report {name!r} holds the scores of {', '.join(checkpoints)}",
            str(path),
            "name it in `inputs.reports` as its `checkpoint`",
        )
    lines = []
    for where, line in read_raw(path):
        if line.get("pass") is not None or line.get("refused"):
            continue
        known = isinstance(line.get("id"), str) and isinstance(line.get("sample"), int)
        if not known or not isinstance(line.get("response"), str):
            what = "the line has no id, sample and response"
            raise InputError(what, where, "a report is what the kind `evaluate` writes")
        lines.append(line)
    return lines


def compare_reports(
    rows: Mapping[str, dict[str, Any]],
    own: Sequence[Line],
    others: Sequence[Line],
    judge: Examiner,
    *,
    criteria: Criteria,
) -> dict[tuple[str, int], float]:
    """Compare two reports; sample i of a problem meets sample i.

    The judge sees both orders. A comparison that only one order decides goes to the side that it favours.

    Args:
        rows: id -> prompt row, for the problems that are compared.
        own: lines of one report.
        others: lines of the report that it is compared with.
        judge: compares.
        criteria: by which.

    Returns:
        {(problem, sample): 1 won, 0.5 tied, 0 lost}.
    """
    outcomes: dict[tuple[str, int], float] = {}
    for key, row, a, b in pairs_of(rows, own, others):
        balance = judge.compare(row, a, b, criteria) - judge.compare(row, b, a, criteria)
        outcomes[key] = 0.5 if balance == 0 else float(balance > 0)
    return outcomes


def pairs_of(
    rows: Mapping[str, dict[str, Any]],
    own: Sequence[Line],
    others: Sequence[Line],
) -> Iterator[tuple[tuple[str, int], dict[str, Any], str, str]]:
    """The responses that meet: (problem, sample), the problem's row, the response of `own` and that of `others`."""
    other_responses = {(line["id"], line["sample"]): line["response"] for line in others}
    for line in own:
        key = (line["id"], line["sample"])
        if line["id"] in rows and key in other_responses:
            yield key, rows[line["id"]], line["response"], other_responses[key]


def win_rate(outcomes: Outcomes) -> dict[str, float | int]:
    """Summarise comparisons.

    Returns:
        pass@1, the win rate with ties as a half, with its stderr by problem and n problems; the counts wins, losses and
        ties; won = wins / (wins + losses) with its 95 % interval won_low, won_high; decided, the share without ties.
    """
    by_id: dict[str, list[float]] = {}
    for (problem, _), value in outcomes.items():
        by_id.setdefault(problem, []).append(value)
    mean = mean_by_problem(by_id)

    counts = Counter(outcomes.values())
    wins = counts[1.0]
    losses = counts[0.0]
    decided = wins + losses
    low, high = wilson(wins, losses)
    return {
        "pass@1": mean.mean,
        "stderr": mean.stderr,
        "n": mean.n,
        "wins": wins,
        "losses": losses,
        "ties": counts[0.5],
        "won": wins / decided if decided else 0.5,
        "won_low": low,
        "won_high": high,
        "decided": decided / len(outcomes) if outcomes else 0.0,
    }


def general_rows(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the prompts on which helpfulness is compared, by id."""
    return {row["id"]: row for row in rows if row["domain"] == GENERAL_DOMAIN}


def differences(
    reports: Mapping[str, Sequence[Line]],
    pairs: Sequence[tuple[str, str]],
    extra: Mapping[str, dict[str, dict[str, list[float]]]],
) -> list[dict[str, Any]]:
    """Return mean(a - b) with its 95 % interval, over the shared problems, for every pair and suite that both have.

    Args:
        reports: checkpoint -> lines.
        pairs: checkpoints [a, b].
        extra: suite -> checkpoint -> {problem: values}, for suites that are not in the reports' lines.
    """
    results: list[dict[str, Any]] = []
    for a, b in pairs:
        suites_b = _suites(reports[b])
        suites = [suite for suite in _suites(reports[a]) if suite in suites_b]
        values = {suite: (by_problem(reports[a], suite), by_problem(reports[b], suite)) for suite in suites}
        for suite, values_of in extra.items():
            if a in values_of and b in values_of:
                values[suite] = (values_of[a], values_of[b])

        for suite, (values_a, values_b) in values.items():
            difference = paired_difference(values_a, values_b)
            if difference.n:
                results.append(
                    {
                        "a": a,
                        "b": b,
                        "suite": suite,
                        "difference": difference.mean,
                        "low": difference.low,
                        "high": difference.high,
                        "n": difference.n,
                    }
                )
    return results


def _suites(lines: Sequence[Line]) -> list[str]:
    """Return the suites in the order in which they first occur."""
    return list(dict.fromkeys(suite for line in lines for suite in line["scores"]))
