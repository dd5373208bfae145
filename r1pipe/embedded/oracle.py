"""The world's oracle: it solves, rewrites and writes, where the paper has DeepSeek-V3 and people do so.

It is not a model: it knows a problem's steps from the row's `spec`. But it reads what it rewrites: a step that the
thinking does not show is not put into a model's mouth, and thinking that it cannot follow gives None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from random import Random
from typing import Any, Literal, NamedTuple

from r1pipe.embedded.documents import aside, worded
from r1pipe.embedded.problem import HOLE, OTHER_LANGUAGE, Problem, in_language
from r1pipe.embedded.trace import QUICK, SAME, STEPS, WAIT, join, walk
from r1pipe.embedded.world import THINK, summary
from r1pipe.errors import InputError
from r1pipe.text.response import join_response

Quality = Literal["careful", "sloppy"]

# Problems of at most SHORT_LEVEL steps, of up to four, are simple: P_SHORT of them get only their last step.
SHORT_LEVEL = 2
P_SHORT = 0.95

# Written replies with a short thought; general replies mostly need none.
P_ASIDE = 0.15

_EQUATION = re.compile(r"-?\d+[-+*/]-?\d+=-?\d+")
_NOISE = re.compile(r"[\s.,;:!?。，；：！？、]+")
_REFLECTION = re.compile(r"\b(?:wait|check|again)\b|等等|检查|再看", re.I)
_STOP = {"en": ".", "zh": "。"}
_CHECK = {"en": "Let me check: §.", "zh": "检查一下：§。"}


def problem_of(row: Mapping[str, Any]) -> Problem:
    """A row's problem, without its key.

    Raises:
        InputError: the row does not come from the world.
    """
    if not row.get("spec") or row.get("domain") is None:
        raise InputError(
            "the world's oracle only knows the world's own problems; this row has no `spec`",
            str(row.get("id", "")),
            "write, judge or rewrite these rows with a model, or not at all",
        )
    return Problem(
        row["domain"],
        row.get("language") or "en",
        json.loads(row["spec"]),
        "",
        row["prompt"],
        row.get("answer"),
        row.get("level", 0),
    )


def solve(row: Mapping[str, Any]) -> tuple[str, str]:
    """Correct thinking and the summary, in the question's language."""
    problem = problem_of(row)
    if problem.domain not in THINK:
        raise InputError(
            f"a {problem.domain} request has no steps to solve", str(row.get("id", "")), "use write()"
        )
    steps = THINK[problem.domain](problem.spec, problem.language)
    thought = walk(steps, Random(0), problem.language, SAME, closing=0.0)
    answer = in_language(thought.value, problem.language)
    return thought.text, summary(answer, problem.domain, problem.language)


class SolvedStep(NamedTuple):
    """A right step."""

    lines: dict[str, str]
    """Language -> the step as a sentence, without its stop."""
    marks: set[str]
    """What shows the step in somebody's thinking: its sums, or else its bare sentences."""


def _solved_steps(problem: Problem) -> list[SolvedStep]:
    solved = []
    steps = THINK[problem.domain](problem.spec, problem.language)
    try:
        step = next(steps)
        while True:
            lines = {
                "en": step.en.replace(HOLE, in_language(step.right, "en")),
                "zh": step.zh.replace(HOLE, in_language(step.right, "zh")),
            }
            sums = set(_EQUATION.findall(lines["en"]))
            solved.append(SolvedStep(lines, sums or {_bare(line) for line in lines.values()}))
            step = steps.send(step.right)
    except StopIteration:
        return solved


def _bare(text: str) -> str:
    """Letters, digits and operators only, for comparing what is said rather than how it is set."""
    return _NOISE.sub("", text.lower())


def rewrite(row: Mapping[str, Any], thinking: str) -> tuple[str, str] | None:
    """The thinking as readable sentences in the question's language, and a summary; None where it cannot be followed.

    It can be followed when it shows the last step, and at least two thirds of all steps, as they ought to be. Of a
    simple problem (P_SHORT of those of at most SHORT_LEVEL steps, the same ones each time) only the last step is
    needed, and kept. Where the writer stopped to reflect, the rewriting keeps a check.

    Like people, it tires: the last of several steps stays in the language it was written in. That leaves the language
    reward its work: RL makes thinking longer and, without that reward, spreads what is mixed in it. Foreign words
    before the last step cost a small model accuracy (0.56 against 0.63), so that RL would give them up by itself.
    """
    problem = problem_of(row)
    if problem.domain not in THINK:
        return None
    steps = _solved_steps(problem)
    last = steps[-1]
    bare = _bare(thinking)
    sums = set(_EQUATION.findall(re.sub(r"\s", "", thinking)))
    shown = [bool(step.marks & sums) or any(mark in bare for mark in step.marks) for step in steps]

    simple = problem.level <= SHORT_LEVEL and Random(f"rewrite/{row.get('id')}").random() < P_SHORT
    enough = simple or sum(shown) * 3 >= 2 * len(shown)
    if not shown[-1] or not enough:
        return None

    language = problem.language
    other = OTHER_LANGUAGE[language]
    kept = [last] if simple else steps
    languages = [language] * len(kept)
    last_is_foreign = _bare(last.lines[other]) in bare and _bare(last.lines[language]) not in bare
    if not simple and last_is_foreign:
        languages[-1] = other

    lines = [
        (tongue, step.lines[tongue] + _STOP[tongue]) for tongue, step in zip(languages, kept, strict=True)
    ]
    opening = QUICK if simple else STEPS
    first_language, first = lines[0]
    lines[0] = (first_language, opening[first_language] + first)
    if _REFLECTION.search(thinking) and not simple:
        lines.append((language, _check(steps, language)))
    return join(lines), solve(row)[1]


def _check(steps: list[SolvedStep], language: str) -> str:
    """A sentence that checks the last sum; without any sum, one that says the last step once more."""
    marks = [mark for step in reversed(steps) for mark in step.marks]
    last_sum = next((mark for mark in marks if _EQUATION.fullmatch(mark)), None)
    if last_sum is not None:
        return _CHECK[language].replace("§", last_sum)
    return WAIT[language] + steps[-1].lines[language] + _STOP[language]


def write(row: Mapping[str, Any], rng: Random, quality: Quality, refuse: bool | None = None) -> str:
    """A whole reply to a general, harmful or look-alike request, think tags included (mostly empty).

    Args:
        row: one of the world's rows.
        rng: draws the wording.
        quality: whose habits it is worded with (style.py).
        refuse: whether to decline; by default a careful writer declines what is harmful, and nobody anything else.
    """
    problem = problem_of(row)
    if problem.domain in THINK:
        return join_response(*solve(row))
    careful = quality == "careful"
    if refuse is None:
        refuse = problem.domain == "harmful" and careful
    if refuse and problem.domain == "general":
        raise InputError(
            "a general request is not refused", str(row.get("id", "")), "leave `refuse` to the oracle"
        )
    thinking = aside(problem, rng) if rng.random() < P_ASIDE else ""
    return join_response(thinking, worded(problem, rng, careful, refuse))


class Oracle:
    """These functions as a writer for stages (r1pipe/data/writers.py)."""

    def write(self, row: dict[str, Any], rng: Random, quality: Quality, refuse: bool | None = None) -> str:
        return write(row, rng, quality, refuse)

    def rewrite(self, row: dict[str, Any], thinking: str) -> tuple[str, str] | None:
        return rewrite(row, thinking)
