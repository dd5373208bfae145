"""What every kind of problem of the small world has in common: its identity, its split, and its solution as steps.

A problem is drawn by one of the domain modules. Its `spec` (a JSON list) says everything that the oracle needs. Its
`key` is the canonical form, free of names, nouns and phrasing where those do not matter; the key's hash decides the
split, so that documents, train, dev and heldout never share a problem.

A solution is a generator of steps. Each step is a line in English and one in Chinese with a hole for a value, the right
value, and wrong ones that somebody might write. The walker sends back the value that was written, and the next steps go
on from there. One generator therefore gives correct, mistaken and mixed-language thinking (trace.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

LANGUAGES = ("en", "zh")
OTHER_LANGUAGE = {"en": "zh", "zh": "en"}
SPLITS = ("documents", "train", "dev", "heldout")

# Where the value goes in a step's line. No word and no formula of the world has this character.
HOLE = "§"

# Shares of the problems' hash space, in percent (our choice). Reasoning has 10^5 problems and more, so its held-out
# parts can be thin; requests are combinations of a few thousand, so theirs must be thicker.
REASONING_SHARES = {"documents": 78, "train": 12, "dev": 4, "heldout": 6}
GENERAL_SHARES = {"documents": 40, "train": 30, "dev": 10, "heldout": 20}

# A number, a word, or a word as (English, Chinese).
Value = int | str | tuple[str, str]


class Step(NamedTuple):
    """One line of thinking with a hole (HOLE) for its value."""

    en: str
    zh: str
    right: Value
    wrong: Sequence[Value] | None = None
    """Values to mistake it for; None = near misses of a number."""


Steps = Generator[Step, Any, Value]


class Problem(NamedTuple):
    """A question of the world, not yet a row."""

    domain: str
    language: str
    spec: list[Any]
    """JSON; spec[0] is the sort within the domain."""
    key: str
    """Equal keys are the same problem, in whatever words or language."""
    prompt: str
    answer: str | None
    level: int
    """Reasoning steps needed; 0 where there is nothing to reason."""


def bucket(key: str) -> int:
    """A number from 0 to 99 that depends on the problem's key alone."""
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % 100


def split_of(key: str, shares: dict[str, int]) -> str:
    """The split that a problem belongs to."""
    left = bucket(key)
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    raise AssertionError("shares do not add up to 100")


def identity(problem: Problem) -> str:
    """A short stable id: domain, language, and a hash of the canonical problem and its wording."""
    text = json.dumps([problem.key, problem.prompt], ensure_ascii=False)
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return f"{problem.domain}-{problem.language}-{digest}"


def in_language(value: Value, language: str) -> str:
    """A value as it is written in a language."""
    if isinstance(value, tuple):
        return value[0] if language == "en" else value[1]
    return str(value)
