"""Rows: how many a source has, and those of several artifacts as one."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from r1pipe.data.sources import Source
from r1pipe.errors import InputError
from r1pipe.run.planning.lengths import PROMPT_GUESS, REPLY_GUESS, TEMPLATE_TOKENS, TOKEN_CHARACTERS

# A file larger than this is not read to count its rows.
COUNTED_BYTES = 30_000_000
# Rows whose prompts are measured.
LOOKED_AT = 200


@dataclass(frozen=True)
class Rows:
    """An artifact of rows.

    Attributes:
        prompt, answer: mean tokens.
        harmful, lookalike: how many of them are such requests, as far as that is known.
        of_world: all are of the world that ships, whose lengths are known.
    """

    count: float
    prompt: float = PROMPT_GUESS
    answer: float = REPLY_GUESS
    harmful: float = 0.0
    lookalike: float = 0.0
    of_world: bool = False


# Rows of the world that ships, in its own tokenizer, with the template: means of configs/r1.yaml.
WORLD_PROBLEMS = Rows(0, prompt=29.0, answer=37.0, of_world=True)
WORLD_REQUESTS = Rows(0, prompt=14.0, answer=18.0, of_world=True)


def together(parts: Iterable[Rows]) -> Rows:
    """Rows of several artifacts as those of one."""
    parts = list(parts)
    count = sum(part.count for part in parts)
    if not count:
        return Rows(0)
    prompt = sum(part.count * part.prompt for part in parts) / count
    answer = sum(part.count * part.answer for part in parts) / count
    return Rows(
        count,
        prompt,
        answer,
        harmful=sum(part.harmful for part in parts),
        lookalike=sum(part.lookalike for part in parts),
        of_world=all(part.of_world for part in parts if part.count),
    )


def prompt_tokens(source: Source) -> float | None:
    """Mean tokens of a source's first prompts in its files, by their characters; None where they cannot be told."""
    from r1pipe.data.selection import raw_rows

    column = source.columns.get("prompt", "prompt")
    try:
        raws = islice(raw_rows(source), LOOKED_AT) if source.paths else ()
        lengths = [len(raw[column]) for _, raw in raws if isinstance(raw.get(column), str)]
    # What is damaged is refused where rows are read.
    except InputError:
        return None
    return sum(lengths) / len(lengths) / TOKEN_CHARACTERS + TEMPLATE_TOKENS if lengths else None


def count_rows(path: Path | list[Path] | None) -> int | None:
    """Rows of JSON lines, where they are few enough to be counted at once."""
    if path is None:
        return None
    files = path if isinstance(path, list) else [path]
    total = 0
    for file in files:
        if not file.is_file() or file.stat().st_size > COUNTED_BYTES:
            return None
        opener: Any = gzip.open if file.suffix == ".gz" else open
        if file.suffix not in (".gz", ".jsonl"):
            return None
        try:
            with opener(file, "rb") as stream:
                total += sum(1 for _ in stream)
        # A damaged file is refused where its rows are read.
        except (OSError, EOFError, zlib.error):
            return None
    return total
