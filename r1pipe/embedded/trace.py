"""Thinking, line by line: walks a problem's steps with or without mistakes, in one language or two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from r1pipe.embedded.problem import HOLE, OTHER_LANGUAGE, Steps, Value, in_language

CLOSINGS = {
    "en": ("So the answer is §.", "So it is §.", "The answer is §.", "That gives §.", "The result is §."),
    "zh": ("所以答案是§。", "所以是§。", "答案是§。", "结果是§。", "得到§。"),
}

# How thinking starts: it says first whether it will show all steps or the last one only.
STEPS = {"en": "Steps: ", "zh": "分步："}
QUICK = {"en": "Quick: ", "zh": "直接："}
WAIT = {"en": "Wait, ", "zh": "等等，"}

# A line with a sum; the group is the sum without the words before it.
EQUATION = re.compile(r"^[^\d(=]*([\d(][^=]*=.*)$")

# Which languages thinking uses: the question's, the other one, or both by turns.
SAME = "same"
OTHER = "other"
MIXED = "mixed"


class Walk(NamedTuple):
    """Thinking and where it leads."""

    lines: list[tuple[str, str]]
    """Language, and a sentence with its stop."""
    value: Value
    """What the last step gave, right or wrong."""
    slips: int
    """Mistakes that were not corrected."""

    @property
    def text(self) -> str:
        return join(self.lines)


def join(lines: list[tuple[str, str]]) -> str:
    """Sentences one after another: a space after an English one, none after a Chinese one."""
    return "".join(line + " " if language == "en" else line for language, line in lines).rstrip()


def near_miss(rng: Random, value: int) -> int:
    """A wrong number of the kind people write: off by one, two or ten, or with its digits swapped."""
    u = rng.random()
    if u < 0.55:
        wrong = value + (1 if rng.random() < 0.5 else -1)
    elif u < 0.7:
        wrong = value + (2 if rng.random() < 0.5 else -2)
    elif u < 0.93 or not 9 < value < 100 or value % 11 == 0:
        wrong = value + (10 if rng.random() < 0.5 else -10)
    else:
        wrong = value % 10 * 10 + value // 10
    return wrong if wrong >= 0 else value + 1


def misread(rng: Random, right: Value, wrong: Sequence[Value] | None) -> Value:
    """Another value than the right one; the right one only where no other is given."""
    if wrong is None:
        assert isinstance(right, int)
        return near_miss(rng, right)
    others = [value for value in wrong if value != right]
    return rng.choice(others) if others else right


def walk(
    steps: Steps,
    rng: Random,
    language: str,
    mode: str = SAME,
    *,
    slip: float = 0.0,
    wait: float = 0.0,
    closing: float = 0.6,
    hasty: bool = False,
) -> Walk:
    """Think through a problem once.

    Args:
        steps: the domain's generator.
        rng: draws mistakes and words.
        language: of the question.
        mode: whether the thinking keeps to that language (SAME), uses the other one (OTHER), or takes turns (MIXED).
        slip: probability that a step is wrong; the value goes on wrong, so the answer is wrong.
        wait: probability that a step is first written wrong, noticed and put right.
        closing: probability of a last sentence that names the answer.
        hasty: only the last step is written; the steps before it are done in the head.
    """
    other = OTHER_LANGUAGE[language]
    opening = QUICK if hasty else STEPS
    lines: list[tuple[str, str]] = []
    slips = 0
    random = rng.random
    other_first = random() < 0.5
    tongue = other if mode == OTHER else language

    try:
        step = next(steps)
        while True:
            if mode == MIXED:
                turn = other_first != (len(lines) % 2 == 1)
                tongue = other if turn else language
            if hasty:
                lines.clear()
            template, stop = (step.en, ".") if tongue == "en" else (step.zh, "。")
            if not lines:
                template = opening[tongue] + template

            value = step.right
            if slip and random() < slip:
                value = misread(rng, step.right, step.wrong)
                slips += value != step.right
            elif wait and random() < wait:
                wrong = misread(rng, step.right, step.wrong)
                if wrong != step.right:
                    lines.append((tongue, template.replace(HOLE, in_language(wrong, tongue)) + stop))
                    # Put right is the sum alone, without the words before it.
                    template = WAIT[tongue] + EQUATION.sub(r"\1", template)
            lines.append((tongue, template.replace(HOLE, in_language(value, tongue)) + stop))
            step = steps.send(value)
    except StopIteration as end:
        value = end.value

    if closing and random() < closing:
        if mode == MIXED:
            tongue = other if random() < 0.5 else language
        lines.append((tongue, rng.choice(CLOSINGS[tongue]).replace(HOLE, in_language(value, tongue))))
    return Walk(lines, value, slips)
