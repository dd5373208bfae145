"""The small procedural world: problems of every domain, in two languages, split by identity.

    rows = problems("heldout", ["math", "code"], count=256, seed=0)

Reads nothing but the package's word lists; needs neither torch nor a network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from random import Random
from typing import Any

from r1pipe.embedded import arithmetic, choice, general, logic, programs, safety, word_problems
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
    "word-problems": word_problems.draw,
    "code": programs.draw,
    "logic": logic.draw,
    "choice": choice.draw,
    "general": general.draw,
    "harmful": lambda rng, language: safety.draw(rng, language, True),
    "lookalike": lambda rng, language: safety.draw(rng, language, False),
}
THINK: dict[str, Callable[[list, str], Steps]] = {
    "math": arithmetic.think,
    "word-problems": word_problems.think,
    "code": programs.think,
    "logic": logic.think,
    "choice": choice.think,
}
SHARES = {domain: REASONING_SHARES if domain in REASONING_DOMAINS else GENERAL_SHARES for domain in DRAW}

# Share of the drawn problems that become rows, where it is not all of them. The shipped base, made to think and sampled
# greedily, is near chance on these sorts (0.19-0.30), so many of them would be noise to RL.
KEPT_SHARES = {("choice", "value"): 0.25, ("choice", "sequence"): 0.0}

# § stands for the answer.
SUMMARIES = {
    "en": ("The answer is §.", "So the answer is §.", "The result is §.", "It is §."),
    "zh": ("答案是§。", "所以答案是§。", "结果是§。", "是§。"),
}

# Draws without a new problem after which a domain counts as exhausted.
MOST_TRIES = 4000


def draws(name: str, domain: str, language: str, rng: Random) -> Iterator[Problem]:
    """Problems of one split, with repetitions, without end."""
    while True:
        problem = DRAW[domain](rng, language)
        if split_of(problem.key, SHARES[domain]) != name:
            continue
        share = KEPT_SHARES.get((domain, problem.spec[0]), 1.0)
        if name != "documents" and rng.random() >= share:
            continue
        yield problem


def problems(
    split: str, domains: Sequence[str], count: int, seed: int, languages: Sequence[str] = LANGUAGES
) -> list[PromptRow]:
    """`count` distinct problems, balanced over domains and languages and interleaved.

    The same arguments give the same problems.

    Columns: id, prompt, domain, language, level, spec (JSON, for the oracle), answer or tests and entry_point where
    they can be checked, solution (a correct response that shows every step; a `reuse` candidate).

    Raises:
        InputError: an unknown split, domain or language, or more problems than the world has.
    """
    _check_known("split", [split], SPLITS)
    _check_known("domain", domains, DRAW)
    _check_known("language", languages, LANGUAGES)

    cells = [(domain, language) for domain in domains for language in languages]
    parts: list[list[PromptRow]] = []
    for i, (domain, language) in enumerate(cells):
        # What does not divide evenly goes to the first cells.
        wanted = count // len(cells) + (i < count % len(cells))
        parts.append(_distinct(split, domain, language, wanted, seed))
    longest = max(map(len, parts), default=0)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def _check_known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"the world has no {what} '{name}'", fix=f"one of {', '.join(known)}")


def _distinct(split: str, domain: str, language: str, wanted: int, seed: int) -> list[PromptRow]:
    rng = Random(f"{split}/{domain}/{language}/{seed}")
    stream = draws(split, domain, language, rng)
    seen: set[str] = set()
    rows: list[PromptRow] = []
    misses = 0
    while len(rows) < wanted:
        problem = next(stream)
        if problem.key in seen:
            misses += 1
            if misses > MOST_TRIES:
                raise InputError(
                    f"the world holds only about {len(rows)} problems of {domain} in {language} in '{split}', "
                    f"not {wanted}",
                    fix="ask for fewer",
                )
            continue
        misses = 0
        seen.add(problem.key)
        rows.append(row(problem))
    return rows


def row(problem: Problem) -> PromptRow:
    """A problem as a row of data."""
    columns: dict[str, Any] = {
        "id": identity(problem),
        "prompt": problem.prompt,
        "domain": problem.domain,
        "language": problem.language,
        "level": problem.level,
        "spec": json.dumps(problem.spec, ensure_ascii=False),
    }
    if problem.domain == "code":
        columns["tests"] = programs.tests(problem.spec)
        columns["entry_point"] = problem.spec[1]
    elif problem.answer is not None:
        columns["answer"] = problem.answer
    if problem.domain in THINK:
        steps = THINK[problem.domain](problem.spec, problem.language)
        thought = walk(steps, Random(columns["id"]), problem.language, closing=0.0)
        conclusion = summary(problem.answer or "", problem.domain, problem.language)
        columns["solution"] = join_response(thought.text, conclusion)
    return columns  # type: ignore[return-value]


def summary(answer: str, domain: str, language: str, wording: int = 0) -> str:
    r"""What stands after the thinking in chat form: a sentence with \boxed{}, for code a fenced block."""
    if domain == "code":
        return f"```python\n{answer}\n```"
    return SUMMARIES[language][wording].replace("§", f"\\boxed{{{answer}}}")
