"""What others keep beside a question: its passage, its choices, its images, and the gold answer in their words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from r1pipe.errors import InputError

Row = dict[str, Any]

# Columns that hold a gold answer, in the order in which they are asked.
_GOLDS = (
    "ground_truth",
    "expected_answer",
    "final_answer",
    "gt_answer",
    "correct_answer",
    "answerKey",
    "correct",
)
_CHOICES = ("choices", "options")
_PICTURES = ("images", "image", "videos", "audio")
# "A)21", "(B) 22", "C. 23": a choice that has its letter already.
_LETTERED = re.compile(r"\s*\(?([A-J])[).:]\s*")
# The last line of a solution in GSM8K's own files.
_AFTER_HASHES = re.compile(r"\n#{4} *([^\n]+)\s*$")
_INTRODUCED = re.compile(
    r"\s*(?:####|(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is\b\s*:?|:)|答案\s*(?:[:：]|[是为]\s*[:：]?))\s*",
    re.I,
)
_LEVEL = re.compile(r"Level (\d+|\?)")


def refuse_pictures(row: Row, where: str) -> None:
    """Raise InputError if a row's question shows something that is no text."""
    for name in _PICTURES:
        value = row.get(name)
        if value and not isinstance(value, bool | int | float):
            raise InputError(
                f"the row has {name}, which nobody would be shown",
                where,
                f"leave such rows out; or remove the column {name!r} if the question can be answered without it",
            )


def with_choices(row: Row, where: str) -> Row:
    """A prompt whose choices stand in a column, with the choices behind the question and a letter as its answer."""
    name = next((name for name in _CHOICES if name in row), None)
    if name is None or not isinstance(row.get("prompt"), str):
        return row
    letters, texts = _choices(row[name])
    if len(texts) < 2 or all(text in row["prompt"] for text in texts):
        return row
    lines = [f"{letter}) {text}" for letter, text in zip(letters, texts, strict=True)]
    shaped = {key: value for key, value in row.items() if key != name}
    shaped["prompt"] = "\n".join([row["prompt"].rstrip(), *lines])
    if "answer" in row:
        shaped["answer"] = _letter(row["answer"], letters, texts, where)
    return shaped


def _choices(value: Any) -> tuple[list[str], list[str]]:
    """Letters and texts of choices: a list of texts, or ARC's {text: [...], label: [...]}; none of anything else."""
    labels: Any = None
    if isinstance(value, Mapping):
        value, labels = value.get("text"), value.get("label")
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        return [], []
    letters = [chr(ord("A") + number) for number in range(len(value))]
    lettered = [_LETTERED.match(text) for text in value]
    if all(match and match[1] == letter for match, letter in zip(lettered, letters, strict=True)):
        return letters, [
            text[match.end() :].strip() for match, text in zip(lettered, value, strict=True) if match
        ]
    if isinstance(labels, list) and len(labels) == len(value):
        letters = [str(label) for label in labels]
    return letters, [text.strip() for text in value]


def _letter(
    answer: Any,
    letters: list[str],
    texts: list[str],
    where: str,
) -> str:
    """The letter of a gold answer, which may be a letter, a place from 0 on, or the text of a choice."""
    stated = str(answer).strip()
    if stated in letters:
        return stated
    bare = stated.strip("().: ").upper()
    if bare in letters:
        return bare
    if stated in texts:
        return letters[texts.index(stated)]
    if isinstance(answer, int | str) and stated.isdecimal() and int(stated) < len(letters):
        return letters[int(stated)]
    raise InputError(
        f"the answer {stated[:60]!r} is none of the {len(letters)} choices",
        where,
        "the answer is a letter, a place from 0 on, or the text of a choice",
    )


def gold_beside(row: Row) -> Any:
    """The gold answer in a column of others; None if there is none."""
    model = row.get("reward_model")
    if isinstance(model, Mapping) and model.get("ground_truth") is not None:
        return model["ground_truth"]
    return next((row[name] for name in _GOLDS if row.get(name) is not None), None)


def plain_gold(row: Row) -> Row:
    """A row whose gold answer is the answer alone, without the words or the solution around it."""
    gold = row["answer"]
    if not isinstance(gold, str):
        return row
    if gold.startswith(("['", '["')):
        gold = _listed(gold)
    elif "\\boxed" in gold:
        from r1pipe.rewards.reading import boxed

        gold = boxed(gold) or gold
    elif "####" in gold and "solution" not in row:
        hashes = _AFTER_HASHES.search(gold)
        if hashes:
            row = {**row, "solution": gold[: hashes.start()].strip()}
            gold = hashes[1].strip()
    if isinstance(gold, str):
        introduced = _INTRODUCED.match(gold)
        if introduced and introduced.end() < len(gold):
            gold = gold[introduced.end() :].strip()
    return row if gold is row["answer"] else {**row, "answer": gold}


def _listed(gold: str) -> Any:
    """The accepted answers of a JSON list of texts, as Skywork's rows have it; anything else as it is."""
    try:
        answers = json.loads(gold)
    except ValueError:
        return gold
    if not isinstance(answers, list) or not answers or not all(isinstance(text, str) for text in answers):
        return gold
    return answers if len(answers) > 1 else answers[0]


def with_level_and_domain(row: Row) -> Row:
    """MATH's `Level 5` as 5, and of a list of domains the first."""
    level = row.get("level")
    if isinstance(level, str):
        number = _LEVEL.fullmatch(level.strip())
        if number:
            row = {name: value for name, value in row.items() if name != "level"}
            if number[1] != "?":
                row["level"] = int(number[1])
    domains = row.get("domain")
    if isinstance(domains, list) and domains and isinstance(domains[0], str):
        row = {**row, "domain": domains[0]}
    return row
