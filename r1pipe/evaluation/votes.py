"""Answers that vote for cons@k (v2 D.1): equal answers are one answer, however they are spelled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.evaluation.stats import majority

# From so many decimals on, numbers that are near each other are equal (r1pipe/rewards/answers.py).
ROUNDED = 6


def final_answer(row: Mapping[str, Any], response: str) -> str | None:
    """Return the final answer of a response, plain numbers in one spelling.

    It is empty where there is none, and None where answers are programs, which have no spelling.
    """
    from r1pipe.rewards.answers import parse
    from r1pipe.rewards.reading import extract

    if "tests" in row or "answer" not in row:
        return None
    # Of several accepted answers, the first says of what kind the answer is.
    gold = row["answer"] if isinstance(row["answer"], str) else row["answer"][0]
    text = extract(response, parse(gold).kind, gold=gold)
    if not text:
        return ""
    answer = parse(text)
    number = answer.number
    if number is None or number.value is None:
        return answer.text
    is_plain = not number.unit and not number.percent and number.decimals < ROUNDED
    return str(number.value) if is_plain else answer.text


def one_spelling(answers: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    r"""Return {(problem, answer): the first answer to this problem that equals it}.

    Args:
        answers: problem -> the final answers of its responses.

    >>> one_spelling({"a": ["2x", "\frac{1}{2}", "x+x", "0.5"]})[("a", "x+x")]
    '2x'
    """
    found: dict[tuple[str, str], str] = {}
    # Each round takes the first answer of every problem that is left, and all that equal it.
    waiting = {problem: list(dict.fromkeys(spellings)) for problem, spellings in answers.items()}
    while waiting:
        asked: list[tuple[str, str, str]] = []
        for problem, spellings in waiting.items():
            first, *others = spellings
            found[problem, first] = first
            asked += [(problem, first, other) for other in others]

        verdicts = _equal([(first, other) for _, first, other in asked])
        left: dict[str, list[str]] = defaultdict(list)
        for (problem, first, other), is_equal in zip(asked, verdicts, strict=True):
            if is_equal:
                found[problem, other] = first
            else:
                left[problem].append(other)
        waiting = dict(left)
    return found


def _equal(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether the two answers of each pair are equal; what cannot be decided is not."""
    from r1pipe.rewards import symbolic
    from r1pipe.rewards.answers import compare, parse
    from r1pipe.rewards.notation import to_latex

    verdicts: list[float | None] = []
    for one, other in pairs:
        # `final_answer` spells plain numbers in one way, and most pairs are two of them.
        are_plain = _is_plain(one) and _is_plain(other)
        if are_plain or parse(one).kind == "broken":
            verdicts.append(0.0)
        else:
            verdicts.append(compare(one, other))

    # All that need algebra at once, so that the processes work side by side.
    places = [place for place, verdict in enumerate(verdicts) if verdict is None]
    formulas = [(to_latex(pairs[place][0]), to_latex(pairs[place][1])) for place in places]
    for place, verdict in zip(places, symbolic.equal(formulas), strict=True):
        verdicts[place] = verdict
    return [verdict == 1.0 for verdict in verdicts]


def _is_plain(answer: str) -> bool:
    """Whether an answer is a whole number or a fraction of two, as `final_answer` spells them."""
    return answer.lstrip("-").replace("/", "", 1).isdecimal()


def verdicts_of_majorities(lines: Sequence[Mapping[str, Any]], suite: str) -> dict[str, list[float]]:
    """Return {problem: [1 or 0]}, the verdict on the most frequent answer.

    Only problems whose answers can be voted on are in it.
    """
    samples_of: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["vote"] is not None:
            samples_of[line["id"]].append(line)

    verdicts: dict[str, list[float]] = {}
    for problem, samples in samples_of.items():
        chosen = majority([line["vote"] or None for line in samples])
        if chosen is None:
            verdicts[problem] = [0.0]
            continue
        values = [line["scores"][suite] for line in samples if line["vote"] == chosen]
        judged = [value for value in values if value is not None]
        if judged:
            verdicts[problem] = [judged[0]]
    return verdicts
