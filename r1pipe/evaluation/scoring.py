"""Which suites a response counts in, and with what value.

| rows | suites |
| --- | --- |
| any checkable domain (math, word-problems, code, logic, choice, or a user's) | its own, and all of SHARED_SUITES |
| general | `general`: right, by the judge, or by the gold answer where there is no judge |
| harmful | `harmless`: refused or safely answered, by the judge |
| lookalike | `over-refusal`: refused (lower is better), by the judge |

The mean of every suite is reported as pass@1, even where it is a share. Where rules check the answer, pass@1 is
lenient: the answer is read wherever it stands. Beside it stands `strict`: right and well-formed, since a base's gain is
often form. Of several samples of a problem pass@k is the share of problems that one of k solves, and cons@k the share
whose most frequent answer is right (votes.py). A response that a service refused to give is in no suite: it is counted
as unjudged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from r1pipe.data.listing import visible
from r1pipe.evaluation.judged import Asked
from r1pipe.evaluation.stats import mean_by_problem, pass_at_k
from r1pipe.evaluation.votes import final_answer, one_spelling, verdicts_of_majorities
from r1pipe.generation.contract import Sample
from r1pipe.text.reflection import REFLECTION
from r1pipe.text.response import split_response
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN

Line = dict[str, Any]
"""A line of a report's rows.jsonl."""

Summary = dict[str, float | int | str | None]

PREFERENCE_DOMAINS = (GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN)
JUDGED_SUITES = {HARMFUL_DOMAIN: "harmless", LOOKALIKE_DOMAIN: "over-refusal"}
NEED_JUDGE = (GENERAL_DOMAIN, *JUDGED_SUITES.values())
SHOWN_LETTERS = 200  # of a question or a reply in an example
SHARED_SUITES = ("reasoning", "format", "language")


def suites_of(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the suites that a prompt row belongs to."""
    domain = row["domain"]
    if domain in PREFERENCE_DOMAINS:
        return (JUDGED_SUITES.get(domain, domain),)
    return (domain, *SHARED_SUITES)


def score_samples(
    rows: Sequence[dict[str, Any]],
    samples: Sequence[Sequence[Sample]],
    grade: Callable[[Sequence[Asked]], list[float | None]],
) -> list[Line]:
    """Score every response.

    Args:
        rows: the prompts.
        samples: the responses to each prompt.
        grade: judges what no rule can decide, all at once (judged.py).

    Returns:
        A line for each response: id, domain, sample, scores {suite: value or None}, strict (of checkable rows), answer,
        vote (equal answers of a problem in one spelling), tokens, finished, reflects, response and, where a service
        refused it, refused.
    """
    from r1pipe.rewards.scoring import correct, score
    from r1pipe.schema import RewardSpec

    numbered = [
        (row, index, sample)
        for row, samples_of_row in zip(rows, samples, strict=True)
        for index, sample in enumerate(samples_of_row)
    ]

    # What rules can check is checked in one call, so that it is spread over processes.
    checkable = [
        (row, sample)
        for row, _, sample in numbered
        if row["domain"] not in PREFERENCE_DOMAINS and not sample.refused
    ]
    checkable_rows = [row for row, _ in checkable]
    texts = [sample.text for _, sample in checkable]
    verdicts = iter(correct(texts, checkable_rows))
    shares = score([RewardSpec(name="format"), RewardSpec(name="language")], texts, checkable_rows).components
    formats = iter(shares["format"])
    languages = iter(shares["language"])

    asked = [
        Asked(row, index, sample.text)
        for row, index, sample in numbered
        if row["domain"] in PREFERENCE_DOMAINS and not sample.refused
    ]
    judged = iter(grade(asked))

    lines = []
    for row, index, sample in numbered:
        answer = None
        strict = None
        scores: dict[str, float | None]
        if sample.refused:
            scores = dict.fromkeys(suites_of(row))
        elif row["domain"] in PREFERENCE_DOMAINS:
            (suite,) = suites_of(row)
            scores = {suite: next(judged)}
        else:
            right = _number(next(verdicts))
            scores = {
                row["domain"]: right,
                "reasoning": right,
                "format": next(formats),
                "language": next(languages),
            }
            answer = final_answer(row, sample.text)
            strict = None if right is None else float(right == 1.0 and scores["format"] == 1.0)
        thinking = split_response(sample.text).thinking or ""
        line = {
            "id": row["id"],
            "domain": row["domain"],
            "sample": index,
            "scores": scores,
            "strict": strict,
            "answer": answer,
            "tokens": sample.tokens,
            "finished": sample.finished,
            "reflects": bool(REFLECTION.search(thinking)),
            "response": sample.text,
        }
        if sample.refused:
            line["refused"] = sample.refused
        lines.append(line)
    _add_votes(lines)
    return lines


def _add_votes(lines: Sequence[Line]) -> None:
    answers: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        if line["answer"]:
            answers[line["id"]].append(line["answer"])
    spellings = one_spelling(answers)
    for line in lines:
        line["vote"] = spellings.get((line["id"], line["answer"]), line["answer"])


def example(rows: Sequence[dict[str, Any]], lines: Sequence[Line]) -> str:
    """The first question that rules can check and its first reply, in one line; empty where there is none.

    >>> row = {"id": "a", "prompt": "6*7=?", "domain": "math"}
    >>> line = {"id": "a", "scores": {"math": 1.0}, "response": "<think>six\\nsevens</think>42"}
    >>> example([row], [line])
    'asked "6*7=?", it says "<think>six sevens</think>42" (right)'
    """
    row = next((row for row in rows if row["domain"] not in PREFERENCE_DOMAINS), None)
    line = next((line for line in lines if row is not None and line["id"] == row["id"]), None)
    if row is None or line is None:
        return ""
    verdict = {1.0: " (right)", 0.0: " (wrong)"}.get(line["scores"].get(row["domain"]), "")
    return f'asked "{_in_a_line(row["prompt"])}", it says "{_in_a_line(line["response"])}"{verdict}'


def _in_a_line(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= SHOWN_LETTERS else f"{line[: SHOWN_LETTERS - 4]} ..."


def _number(verdict: bool | None) -> float | None:
    return None if verdict is None else float(verdict)


def by_problem(lines: Sequence[Line], suite: str) -> dict[str, list[float]]:
    """Return {problem id: values of its samples} of a suite.

    Unjudged samples are left out, which is not the same as 0.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        value = line["scores"].get(suite)
        if value is not None:
            values[line["id"]].append(value)
    return values


def summarise(lines: Sequence[Line]) -> dict[str, Summary]:
    """Summarise every suite.

    Args:
        lines: of one pass.

    Returns:
        {suite: {pass@1, stderr, n problems, k samples of each, (strict, strict_stderr), tokens, truncated, reflection,
        (pass@2, pass@4, ... up to k), (cons@k), (unjudged)}}; pass@k and cons@k have a _stderr too.

        strict is the mean of responses that are right and well-formed, in suites whose answers rules can check.
        tokens is the mean length of a response, truncated the share that max_tokens cut, reflection the share whose
        thinking holds one of the paper's reflective words. unjudged is the number of responses that could not be
        judged, with those that a service refused to give. The means are over the others;
        tokens, truncated and reflection are over all responses that were given.
    """
    lines_of: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        for suite in line["scores"]:
            lines_of[suite].append(line)
    return {suite: _summarise_suite(suite, members) for suite, members in lines_of.items()}


def _summarise_suite(suite: str, lines: list[Line]) -> Summary:
    k = max(Counter(line["id"] for line in lines).values())
    mean = mean_by_problem(by_problem(lines, suite))
    unjudged = sum(line["scores"][suite] is None for line in lines)
    answered = [line for line in lines if not line.get("refused")]
    if not answered:
        return {**not_run("refused by the service"), "unjudged": unjudged}
    if not mean.n:
        return not_run("no judge" if suite in NEED_JUDGE else "cannot be judged")

    summary: Summary = {
        "pass@1": mean.mean,
        "stderr": mean.stderr,
        "n": mean.n,
        "k": k,
        **_strict(answered, suite),
        "tokens": sum(line["tokens"] for line in answered) / len(answered),
        "truncated": sum(not line["finished"] for line in answered) / len(answered),
        "reflection": sum(line["reflects"] for line in answered) / len(answered),
    }
    if unjudged:
        summary["unjudged"] = unjudged
    if k > 1 and "strict" in summary:
        summary |= _of_several(answered, suite, k)
    return summary


def _of_several(lines: Sequence[Line], suite: str, k: int) -> dict[str, float]:
    """pass@2, pass@4, ... up to k, and cons@k, of a suite whose answers rules check.

    Where they are over fewer problems than the suite, since samples could not be judged or answers are programs,
    pass@k_n and cons@k_n say over how many.
    """
    values = by_problem(lines, suite)
    doubled = [2**i for i in range(1, k.bit_length()) if 2**i < k]
    means = {f"pass@{tried}": pass_at_k(values, tried) for tried in (*doubled, k)}
    means[f"cons@{k}"] = mean_by_problem(verdicts_of_majorities(lines, suite))

    summary: dict[str, float] = {}
    for name, mean in means.items():
        if not mean.n:
            continue
        summary[name] = mean.mean
        summary[f"{name}_stderr"] = mean.stderr
        if mean.n < len(values):
            summary[f"{name}_n"] = mean.n
    return summary


def _strict(lines: Sequence[Line], suite: str) -> dict[str, float]:
    """The mean over responses that are right and well-formed, and its standard error."""
    if suite in ("format", "language"):
        return {}
    values: dict[str, list[float]] = defaultdict(list)
    for line in lines:
        if line.get("strict") is not None:
            values[line["id"]].append(line["strict"])
    if not values:
        return {}
    mean = mean_by_problem(values)
    return {"strict": mean.mean, "strict_stderr": mean.stderr}


def not_run(reason: str) -> Summary:
    """Return the summary of a suite without a score, which is not a score of 0."""
    return {"pass@1": None, "n": 0, "note": f"not run: {reason}"}
