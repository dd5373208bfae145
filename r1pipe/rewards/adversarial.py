"""Responses that try a reward: a prompt's own solution, and others made to win without deserving it.

gold                 the row's solution, or its bare answer behind the prompt as thinking
empty                nothing
truncated            cut off in the middle of the thinking
answer-in-thinking   the answer is in the thinking, and the summary does not give it
repeated             the right answer twenty times
wrong-language       the thinking in another language
wrong-answer         another answer in the form of the right one
several-answers      a wrong answer and the right one, so that one of them must fit
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from r1pipe.rewards.code_blocks import extract_code
from r1pipe.rewards.texts import after_thinking
from r1pipe.text.response import split_response

Row = Mapping[str, Any]
VARIANTS = (
    "gold",
    "empty",
    "truncated",
    "answer-in-thinking",
    "repeated",
    "wrong-language",
    "wrong-answer",
    "several-answers",
)
_CHEATS = frozenset({"empty", "truncated", "answer-in-thinking", "wrong-answer", "several-answers"})
# reward -> the variants that deserve a 0 from it
DESERVES_ZERO: dict[str, frozenset[str]] = {
    "accuracy": _CHEATS,
    "code": _CHEATS,
    # A judge may accept a response that names the right answer among others.
    "judge": _CHEATS - {"several-answers"},
    "format": frozenset({"empty", "truncated"}),
    "language": frozenset({"wrong-language"}),
}
# Thinking for the variant wrong-language: Chinese, and English for Chinese rows.
_CHINESE = "首先把这两个数字相加，然后检查一遍结果，最后写出答案。"
_ENGLISH = "First we add the two numbers, then we check the result, and in the end we write the answer down."
_REPEATS = 20
# Rows whose answers serve as wrong answers to the others.
_MAX_ROWS = 2000


class _Parts(NamedTuple):
    """What the responses to one row are made of; `right` is None where nothing can be checked."""

    thinking: str
    right: str | None = None
    wrong: str = ""
    several: str = ""


def gold_answers(row: Row) -> list[Any]:
    """The accepted answers of a row that has an answer."""
    answer = row["answer"]
    return list(answer) if isinstance(answer, list | tuple) else [answer]


def variants(
    sampled: Sequence[Row],
    rows: Sequence[Row],
    form: str,
) -> dict[str, list[tuple[Row, str]]]:
    """Variant -> (row, response) for each sampled row. Rows that nothing can check have no gold and no wrong answer.

    Args:
        sampled: the rows to answer.
        rows: all rows; their answers serve as wrong answers to other rows of the same domain.
        form: of the format reward: `zero` puts the answer into tags, anything else into the summary.
    """
    answers_by_domain: dict[Any, list[str]] = {}
    for row in rows[:_MAX_ROWS]:
        if row.get("answer") is not None:
            answers_by_domain.setdefault(row.get("domain"), []).append(str(gold_answers(row)[0]))

    responses: dict[str, list[tuple[Row, str]]] = {name: [] for name in VARIANTS}
    for row in sampled:
        other_answers = answers_by_domain.get(row.get("domain"), [])
        for name, text in _responses(row, form, other_answers).items():
            responses[name].append((row, text))
    return responses


def _responses(
    row: Row,
    form: str,
    other_answers: list[str],
) -> dict[str, str]:
    """Variant -> response to one row."""
    parts = _code_parts(row) if row.get("tests") else _answer_parts(row, other_answers)
    thinking = parts.thinking
    # At least one character, since an empty think block is a form of its own.
    half = thinking[: max(1, len(thinking) // 2)]
    responses = {"empty": "", "truncated": f"<think>{half}"}
    if parts.right is None:
        return responses

    def summary(text: str) -> str:
        return f"<answer>{text}</answer>" if form == "zero" else text

    # Programs stand in fenced blocks, which need lines of their own.
    separator = "\n" if "```" in parts.right else " "
    repeated = separator.join([parts.right] * _REPEATS)
    evasive = "<answer>see above</answer>" if form == "zero" else "Done."
    other_language = _ENGLISH if row.get("language") == "zh" else _CHINESE
    return responses | {
        "gold": f"<think>{thinking}</think>{summary(parts.right)}",
        "answer-in-thinking": f"<think>{thinking} {parts.right}</think>{evasive}",
        "repeated": f"<think>{thinking}</think>{summary(repeated)}",
        "wrong-language": f"<think>{other_language}</think>{summary(parts.right)}",
        "wrong-answer": f"<think>{thinking}</think>{summary(parts.wrong)}",
        "several-answers": f"<think>{thinking}</think>{summary(parts.several)}",
    }


def _code_parts(row: Row) -> _Parts:
    """The row's own program, and one in which every function that the tests may call returns None."""
    solution = str(row.get("solution") or "")
    thinking = split_response(solution).thinking or str(row.get("prompt") or "")
    # A solution without a fence or a def is the bare program.
    program = extract_code(solution, row.get("entry_point")) or after_thinking(solution).strip()
    if not program:
        return _Parts(thinking)
    names = [row["entry_point"]] if row.get("entry_point") else re.findall(r"^def (\w+)", program, re.M)
    broken_program = (
        "\n".join(f"def {name}(*args, **kwargs):\n    return None" for name in names) or "print()"
    )
    right = f"```python\n{program}\n```"
    wrong = f"```python\n{broken_program}\n```"
    return _Parts(thinking, right, wrong, f"{right}\n{wrong}")


def _answer_parts(row: Row, other_answers: list[str]) -> _Parts:
    """The row's gold answer and another answer of its kind, in boxes."""
    solution = str(row.get("solution") or "")
    thinking = split_response(solution).thinking or solution or str(row.get("prompt") or "")
    if row.get("answer") is None:
        return _Parts(thinking)
    gold = str(gold_answers(row)[0])
    right = f"\\boxed{{{gold}}}"
    wrong = f"\\boxed{{{wrong_answer(gold, other_answers)}}}"
    return _Parts(thinking, right, wrong, f"{wrong} or {right}")


def wrong_answer(gold: str, other_answers: Sequence[str]) -> str:
    """An answer of the same kind that is not right.

    >>> wrong_answer("41", []), wrong_answer("B", []), wrong_answer("yes", ["no", "yes"])
    ('42', 'C', 'no')
    """
    plain = gold.strip()
    if re.fullmatch(r"-?\d+", plain):
        return str(int(plain) + 1)
    if re.fullmatch(r"[A-J]", plain):
        # Most questions have four choices.
        choices = 4 if plain in "ABCD" else 10
        return "ABCDEFGHIJ"[(ord(plain) - ord("A") + 1) % choices]
    # By the gold answer, so that a row has the same wrong answer in every audit.
    generator = random.Random(gold)
    different = [other for other in other_answers if other.strip().lower() != plain.lower()]
    return generator.choice(different) if different else "none of these"
