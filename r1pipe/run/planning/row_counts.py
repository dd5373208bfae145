"""Rows: how many a source has, and those of several artifacts as one."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.run.planning.lengths import PROMPT_GUESS, REPLY_GUESS

# A file larger than this is not read to count its rows.
COUNTED_BYTES = 30_000_000


@dataclass(frozen=True)
class Rows:
    """An artifact of rows: how many, and the mean tokens of prompt and reply."""

    count: float
    prompt: float = PROMPT_GUESS
    answer: float = REPLY_GUESS


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
    )


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
