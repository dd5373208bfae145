"""Responses that show what a reward is worth: a prompt's own solution, and others made to win without deserving to.

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
from typing import Any

from r1pipe.rewards.code import extract_code
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
# reward -> the variants on which it should be 0
DESERVES: dict[str, frozenset[str]] = {
    "accuracy": _CHEATS,
    "code": _CHEATS,
    "judge": _CHEATS - {"several-answers"},
    "format": frozenset({"empty", "truncated"}),
    "language": frozenset({"wrong-language"}),
}
OTHER_TONGUE = {
    "zh": "First we add the two numbers, then we check the result, and in the end we write the answer down."
}
FOREIGN = "首先把这两个数字相加，然后检查一遍结果，最后写出答案。"


def gold_answers(row: Row) -> list[Any]:
    """The accepted answers of a row that has an answer."""
    answer = row["answer"]
    return list(answer) if isinstance(answer, list | tuple) else [answer]


def variants(chosen: Sequence[Row], rows: Sequence[Row], form: str) -> dict[str, list[tuple[Row, str]]]:
    """Variant -> (row, response). Rows that nothing can check have no gold and no wrong answer.

    Args:
        form: of the format reward: `zero` puts the answer into tags, anything else into the summary.
    """
    made: dict[str, list[tuple[Row, str]]] = {name: [] for name in VARIANTS}
    others: dict[Any, list[str]] = {}
    for row in rows[:2000]:
        if row.get("answer") is not None:
            others.setdefault(row.get("domain"), []).append(str(gold_answers(row)[0]))
    for row in chosen:
        for name, text in _responses(row, form, others.get(row.get("domain"), [])).items():
            made[name].append((row, text))
    return made


def _responses(row: Row, form: str, others: list[str]) -> dict[str, str]:
    thinking, final, wrong, several = _parts(row, others)
    zero = form == "zero"
    summary = {
        name: f"<answer>{text}</answer>" if zero else text
        for name, text in (("final", final or ""), ("wrong", wrong), ("several", several))
    }
    foreign = OTHER_TONGUE.get(str(row.get("language")), FOREIGN)
    made = {"empty": "", "truncated": f"<think>{thinking[: max(1, len(thinking) // 2)]}"}
    if final is None:
        return made
    silent = "<answer>see above</answer>" if zero else "Done."
    repeated = " ".join([final] * 20) if "```" not in final else "\n".join([final] * 20)
    return made | {
        "gold": f"<think>{thinking}</think>{summary['final']}",
        "answer-in-thinking": f"<think>{thinking} {final}</think>{silent}",
        "repeated": f"<think>{thinking}</think>" + (f"<answer>{repeated}</answer>" if zero else repeated),
        "wrong-language": f"<think>{foreign}</think>{summary['final']}",
        "wrong-answer": f"<think>{thinking}</think>{summary['wrong']}",
        "several-answers": f"<think>{thinking}</think>{summary['several']}",
    }


def _parts(row: Row, others: list[str]) -> tuple[str, str | None, str, str]:
    """(thinking, final answer or None where nothing can be checked, a wrong one, a wrong and the right one)."""
    solution, prompt = str(row.get("solution") or ""), str(row.get("prompt") or "")
    thinking = split_response(solution).thinking
    if row.get("tests"):
        program = (
            (extract_code(solution, row.get("entry_point")) or after_thinking(solution).strip()) if solution else ""
        )
        thinking = thinking or prompt
        if not program:
            return thinking, None, "", ""
        names = [row["entry_point"]] if row.get("entry_point") else re.findall(r"^def (\w+)", program, re.M)
        broken = "\n".join(f"def {name}(*args, **kwargs):\n    return None" for name in names) or "print()"
        right, wrong = (f"```python\n{source}\n```" for source in (program, broken))
        return thinking, right, wrong, f"{right}\n{wrong}"
    thinking = thinking or solution or prompt
    if row.get("answer") is None:
        return thinking, None, "", ""
    gold = str(gold_answers(row)[0])
    wrong = wrong_answer(gold, others)
    boxed = {text: f"\\boxed{{{text}}}" for text in (gold, wrong)}
    return thinking, boxed[gold], boxed[wrong], f"{boxed[wrong]} or {boxed[gold]}"


def wrong_answer(gold: str, others: Sequence[str]) -> str:
    """An answer of the same kind that is not right.

    >>> wrong_answer("41", []), wrong_answer("B", []), wrong_answer("yes", ["no", "yes"])
    ('42', 'C', 'no')
    """
    plain = gold.strip()
    if re.fullmatch(r"-?\d+", plain):
        return str(int(plain) + 1)
    if re.fullmatch(r"[A-J]", plain):
        return "ABCDEFGHIJ"[(ord(plain) - ord("A") + 1) % (4 if plain in "ABCD" else 10)]
    draw = random.Random(gold)
    different = [other for other in others if other.strip().lower() != plain.lower()]
    return draw.choice(different) if different else "none of these"
