"""The small procedural world: problems of every domain, in two languages, split by identity.

    rows = problems("heldout", ["math", "code"], count=256, seed=0)

Reads nothing but the package's word lists; needs neither torch nor a network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from r1pipe.embedded import arithmetic, choice, general, logic, programs, safety
from r1pipe.embedded import word_problems as words
from r1pipe.embedded.problem import (
    GENERAL_SHARES,
    LANGUAGES,
    REASONING_SHARES,
    SPLITS,
    Problem,
    Steps,
    identity,
    split_of,
)
from r1pipe.embedded.trace import walk
from r1pipe.errors import InputError
from r1pipe.text.response import join_response
from r1pipe.text.rows import REASONING_DOMAINS, PromptRow

DRAW: dict[str, Callable[[Random, str], Problem]] = {
    "math": arithmetic.draw,
    "word-problems": words.draw,
    "code": programs.draw,
    "logic": logic.draw,
    "choice": choice.draw,
    "general": general.draw,
    "harmful": lambda rng, language: safety.draw(rng, language, True),
    "lookalike": lambda rng, language: safety.draw(rng, language, False),
}
THINK: dict[str, Callable[[list, str], Steps]] = {
    "math": arithmetic.think,
    "word-problems": words.think,
    "code": programs.think,
    "logic": logic.think,
    "choice": choice.think,
}
SHARES = {domain: REASONING_SHARES if domain in REASONING_DOMAINS else GENERAL_SHARES for domain in DRAW}
# Share of the drawn problems that are asked, where it is not all of them. The shipped base, made to think and sampled
# greedily, is near chance on these sorts (0.19-0.30): many of them would be noise to RL, none would hide that they exist.
ASKED = {("choice", "value"): 0.25, ("choice", "sequence"): 0.0}
MOST_TRIES = 4000  # draws without a new problem after which a domain counts as exhausted


def split(problem: Problem) -> str:
    """Which of SPLITS a problem belongs to."""
    return split_of(problem.key, SHARES[problem.domain])


def draws(name: str, domain: str, language: str, rng: Random) -> Iterator[Problem]:
    """Problems of one split, with repetitions, without end."""
    make, shares = DRAW[domain], SHARES[domain]
    while True:
        problem = make(rng, language)
        if split_of(problem.key, shares) != name:
            continue
        if name != "documents" and rng.random() >= ASKED.get((domain, problem.spec[0]), 1.0):
            continue
        yield problem


def problems(
    split: str, domains: Sequence[str], count: int, seed: int, languages: Sequence[str] = LANGUAGES
) -> list[PromptRow]:
    """`count` distinct problems, balanced over domains and languages and interleaved; the same for the same arguments.

    Columns: id, prompt, domain, language, level, spec (JSON, for the oracle), answer or tests and entry_point where they can
    be checked, solution (a correct response that shows every step; a `reuse` candidate).

    Raises:
        InputError: an unknown split, domain or language, or more problems asked for than there are.
    """
    for names, known, what in (
        ([split], SPLITS, "split"),
        (domains, DRAW, "domain"),
        (languages, LANGUAGES, "language"),
    ):
        for name in names:
            if name not in known:
                raise InputError(f"the world has no {what} '{name}'", fix=f"one of {', '.join(known)}")
    cells = [(domain, language) for domain in domains for language in languages]
    rows: list[list[PromptRow]] = []
    for i, (domain, language) in enumerate(cells):
        want = count // len(cells) + (i < count % len(cells))
        rng = Random(f"{split}/{domain}/{language}/{seed}")
        seen: set[str] = set()
        found: list[PromptRow] = []
        misses = 0
        stream = draws(split, domain, language, rng)
        while len(found) < want:
            problem = next(stream)
            if problem.key in seen:
                misses += 1
                if misses > MOST_TRIES:
                    raise InputError(
                        f"the world holds only about {len(found)} problems of {domain} in {language} in '{split}', not {want}",
                        fix="ask for fewer",
                    )
                continue
            misses = 0
            seen.add(problem.key)
            found.append(row(problem))
        rows.append(found)
    return [part[i] for i in range(max(map(len, rows), default=0)) for part in rows if i < len(part)]


def row(problem: Problem) -> PromptRow:
    """A problem as a row of data."""
    made: dict[str, Any] = {
        "id": identity(problem),
        "prompt": problem.prompt,
        "domain": problem.domain,
        "language": problem.language,
        "level": problem.level,
        "spec": json.dumps(problem.spec, ensure_ascii=False),
    }
    if problem.domain == "code":
        made["tests"], made["entry_point"] = programs.tests(problem.spec), problem.spec[1]
    elif problem.answer is not None:
        made["answer"] = problem.answer
    if problem.domain in THINK:
        thought = walk(
            THINK[problem.domain](problem.spec, problem.language), Random(made["id"]), problem.language, closing=0.0
        )
        made["solution"] = join_response(thought.text, summary(problem.answer or "", problem.domain, problem.language))
    return made  # type: ignore[return-value]


def summary(answer: str, domain: str, language: str, wording: int = 0) -> str:
    """What stands after the thinking in chat form: a sentence with \\boxed{}, for code a fenced block."""
    if domain == "code":
        return f"```python\n{answer}\n```"
    return SUMMARIES[language][wording].replace("§", f"\\boxed{{{answer}}}")


SUMMARIES = {
    "en": ("The answer is §.", "So the answer is §.", "The result is §.", "It is §."),
    "zh": ("答案是§。", "所以答案是§。", "结果是§。", "是§。"),
}
