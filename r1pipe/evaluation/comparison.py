"""Reports side by side: a judge's win rates, and paired differences on the same problems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1pipe.data.files import read_raw
from r1pipe.errors import InputError
from r1pipe.evaluation.scoring import by_problem
from r1pipe.evaluation.stats import mean_by_problem, paired_difference, wilson
from r1pipe.judges.judge import Criteria, Examiner
from r1pipe.text.rows import GENERAL_DOMAIN

Lines = list[dict[str, Any]]


def read_report(path: Path, name: str) -> Lines:
    """The lines of a report's first pass, without those that a service refused to answer: these are no replies.

    Raises:
        InputError: it is no report, or holds another checkpoint's scores.
    """
    file = path / "scores.json"
    if not file.is_file():
        raise InputError("the report has no scores.json", str(path), "a report is what the kind `evaluate` writes")
    held = json.loads(file.read_text(encoding="utf8"))
    if name not in held:
        raise InputError(
            f"the report {name!r} holds the scores of {', '.join(held)}",
            str(path),
            "name it in `inputs.reports` as its `checkpoint`",
        )
    return [line for _, line in read_raw(path) if line.get("pass") is None and not line.get("refused")]


def compare_reports(
    rows: Mapping[str, dict[str, Any]], mine: Lines, theirs: Lines, judge: Examiner, criteria: Criteria
) -> dict[tuple[str, int], float]:
    """{(problem, sample): 1 won, 0.5 tied, 0 lost}: the judge sees both orders, and what only one order decides counts by its sign.

    Args:
        rows: id -> prompt row, for the problems that are compared.
        mine, theirs: lines of two reports; sample i of a problem meets sample i.
    """
    reference = {(line["id"], line["sample"]): line["response"] for line in theirs}
    outcome: dict[tuple[str, int], float] = {}
    for line in mine:
        key = (line["id"], line["sample"])
        if line["id"] in rows and key in reference:
            row, a, b = rows[line["id"]], line["response"], reference[key]
            balance = judge.compare(row, a, b, criteria) - judge.compare(row, b, a, criteria)
            outcome[key] = 0.5 if not balance else float(balance > 0)
    return outcome


def win_rate(outcome: Mapping[tuple[str, int], float]) -> dict[str, float | int]:
    """pass@1 = win rate with ties half and its stderr by problem; wins, losses, ties; wins / (wins + losses) with its 95 % interval; share decided."""
    values: dict[str, list[float]] = {}
    for (problem, _), value in outcome.items():
        values.setdefault(problem, []).append(value)
    mean, counts = mean_by_problem(values), Counter(outcome.values())
    wins, losses = counts[1.0], counts[0.0]
    low, high = wilson(wins, losses)
    return {
        "pass@1": mean.mean,
        "stderr": mean.stderr,
        "n": mean.n,
        "wins": wins,
        "losses": losses,
        "ties": counts[0.5],
        "won": wins / (wins + losses) if wins + losses else 0.5,
        "won_low": low,
        "won_high": high,
        "decided": (wins + losses) / len(outcome) if outcome else 0.0,
    }


def general_rows(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The prompts on which helpfulness is compared, by id."""
    return {row["id"]: row for row in rows if row["domain"] == GENERAL_DOMAIN}


def differences(
    reports: Mapping[str, Lines],
    pairs: Sequence[tuple[str, str]],
    extra: Mapping[str, dict[str, dict[str, list[float]]]],
) -> list[dict[str, Any]]:
    """For every pair [a, b] and every suite that both have: mean(a - b) over the shared problems, with its 95 % interval.

    Args:
        extra: suite -> checkpoint -> {problem: values}, for suites that are not in the reports' lines.
    """
    found: list[dict[str, Any]] = []
    for a, b in pairs:
        suites = [suite for suite in _suites(reports[a]) if suite in _suites(reports[b])]
        values = {suite: (by_problem(reports[a], suite), by_problem(reports[b], suite)) for suite in suites}
        values |= {suite: (of[a], of[b]) for suite, of in extra.items() if a in of and b in of}
        for suite, (mine, theirs) in values.items():
            difference = paired_difference(mine, theirs)
            if difference.n:
                found.append(
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
    return found


def _suites(lines: Lines) -> list[str]:
    return list(dict.fromkeys(suite for line in lines for suite in line["scores"]))
