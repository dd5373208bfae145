"""Rows and their statistics as people read them.

No contract of columns is needed: any dataset can be shown, also the rows of a report.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from r1pipe.data.files import Row, read_raw
from r1pipe.data.io import DROPPED
from r1pipe.errors import InputError
from r1pipe.text.response import split_response

Measure = Callable[[Sequence[str]], Sequence[int]]
"""texts -> the length of each"""

TAGS = ("domain", "language", "source", "reason")
COUNTED = ("domain", "language", "source")
RESPONSES = ("response", "chosen", "rejected")
NOT_STATED = "not stated"
PERCENTILES = (10, 50, 90, 99)

# Rows whose texts are measured at a time.
_ROWS_AT_ONCE = 1000

# What would move a terminal's cursor, ring its bell, or turn the reading direction.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def pick(path: Path, where: Mapping[str, str], ids: Sequence[str], dropped: bool = False) -> Iterator[Row]:
    """The rows that have all these values and one of these ids.

    Args:
        path: a dataset folder or one file.
        where: column -> its value as text.
        ids: no ids = all rows.
        dropped: take the rows that were left out instead.

    Raises:
        InputError: a file is broken, or no row has a column that `where` names.
    """
    if dropped:
        if path.is_file():
            raise InputError(
                "a file has no dropped rows; only a dataset folder has",
                str(path),
                "name the dataset's folder",
            )
        # No file means that nothing was dropped.
        if path.is_dir() and not (path / DROPPED).exists():
            return
        path = path / DROPPED

    missing_columns = set(where)
    for _, row in read_raw(path):
        missing_columns -= row.keys()
        values = {name: str(row.get(name)) for name in where}
        is_named = not ids or str(row.get("id")) in ids
        if is_named and values == where:
            yield row
    if missing_columns:
        raise InputError(
            f"no row has the column {min(missing_columns)!r}", str(path), "`--where COLUMN=VALUE`"
        )


# --- rows as text -----------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    r"""The text with control characters spelled out: the text of a model must not control a terminal.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text.replace("\r\n", "\n"))


def described(row: Row, full: bool) -> list[tuple[str, str]]:
    """(label, text) of a row: first the id and the tags, then the conversation, then the other columns.

    Args:
        full: False folds the thinking and long columns to a line.
    """
    tags = "  ".join(f"{row[name]}" for name in TAGS if row.get(name) is not None)
    lines = [(str(row.get("id", "?")), tags)]
    for message in row.get("messages") or ():
        lines += _turn(str(message.get("role")), str(message.get("content")), full)
    for name, value in row.items():
        if name in RESPONSES and isinstance(value, str):
            lines += _turn(name, value, full)
        elif name not in ("id", "messages", *TAGS) and value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append((name, text if full or name == "prompt" else _fold(text)))
    return [(visible(label), visible(text)) for label, text in lines]


def _turn(speaker: str, text: str, full: bool) -> list[tuple[str, str]]:
    """A message or response; one of the assistant in its two parts."""
    thinking, summary = split_response(text)
    # Users may quote think tags; only a model's own are its thinking.
    if thinking is None or speaker not in ("assistant", *RESPONSES):
        return [(speaker, text)]
    if not thinking:
        return [(speaker, summary)]
    label = "thinking" if speaker in ("assistant", "response") else f"{speaker}: thinking"
    return [(label, thinking if full else _fold(thinking)), (speaker, summary)]


def _fold(text: str, width: int = 120) -> str:
    """The first line, and the number of words that follow.

    >>> _fold("So 2+2.\\nThat is 4.")
    'So 2+2. ... (+3 words)'
    """
    text = text.strip()
    first = text.split("\n")[0][:width]
    rest = len(text[len(first) :].split())
    if not rest:
        return first
    return f"{first} ... (+{rest} word{'s' if rest > 1 else ''})"


# --- statistics -------------------------------------------------------------------------------------------------------


def words(texts: Sequence[str]) -> list[int]:
    """The words, numbers and signs of each text; a Chinese character is a word."""
    from r1pipe.data.filters import length

    return [length(text) for text in texts]


def tokens(checkpoint: Path) -> Measure:
    """Lengths in tokens of a checkpoint's tokenizer.

    Raises:
        InputError: the checkpoint has none.
    """
    if not checkpoint.is_dir():
        raise InputError("there is no such folder", str(checkpoint), "name a checkpoint's folder")
    from transformers import AutoTokenizer

    from r1pipe.text.tokenizing import token_ids

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise InputError(
            f"no tokenizer can be read: {first_line}",
            str(checkpoint),
            "name a checkpoint's folder",
        ) from None

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in token_ids(texts, tokenizer)]

    return count


def statistics(path: Path, measure: Measure = words) -> dict[str, Any]:
    """Rows by domain, language and source; lengths of every part by domain; dropped rows by reason.

    Returns:
        {"rows", "domain", "language", "source": {value: rows}, "dropped": {reason: rows},
        "lengths": {domain or "all": {part: {"rows", "mean", "p10", ..., "max"}}}}
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
    lengths: dict[str, dict[str, list[int]]] = {"all": {}}
    total = 0
    for rows in _batches(pick(path, {}, ())):
        total += len(rows)
        for row in rows:
            for name, counter in counts.items():
                counter[str(row.get(name, NOT_STATED))] += 1

        # All texts are measured together, since a tokenizer is fast with many at once.
        keys: list[tuple[str, str]] = []
        texts: list[str] = []
        for row in rows:
            domain = str(row.get("domain", NOT_STATED))
            for part, text in _parts(row):
                keys.append((domain, part))
                texts.append(text)
        for (domain, part), size in zip(keys, measure(texts), strict=True):
            lengths["all"].setdefault(part, []).append(size)
            lengths.setdefault(domain, {}).setdefault(part, []).append(size)

    dropped: Counter[str] = Counter()
    if path.is_dir():
        dropped.update(str(row.get("reason", NOT_STATED)) for row in pick(path, {}, (), dropped=True))
    summaries: dict[str, dict[str, Any]] = {}
    for domain, parts in lengths.items():
        summaries[domain] = {part: _summary(sizes) for part, sizes in parts.items()}
    return {
        "rows": total,
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
        "lengths": summaries,
        "dropped": dict(dropped.most_common()),
    }


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while batch := list(islice(rows, _ROWS_AT_ONCE)):
        yield batch


def _parts(row: Row) -> Iterator[tuple[str, str]]:
    """(part, text) of a row: the prompt, then each response in its two parts."""
    messages = row.get("messages") or []
    if messages:
        yield "prompt", "\n".join(str(message.get("content")) for message in messages[:-1])
    elif isinstance(row.get("prompt"), str):
        yield "prompt", row["prompt"]

    responses = {name: row[name] for name in RESPONSES if isinstance(row.get(name), str)}
    if messages:
        responses["response"] = str(messages[-1].get("content"))
    for name, text in responses.items():
        thinking, summary = split_response(text)
        if thinking is not None:
            yield ("thinking" if name == "response" else f"{name}: thinking"), thinking
        yield name, summary


def _summary(sizes: list[int]) -> dict[str, float]:
    """Mean, nearest-rank percentiles and maximum."""
    # Nearest rank: every number that is shown is the length of a real part.
    ordered = sorted(sizes)
    summary = {"rows": len(ordered), "mean": round(sum(ordered) / len(ordered), 1)}
    for percentile in PERCENTILES:
        rank = math.ceil(percentile / 100 * len(ordered))
        summary[f"p{percentile}"] = ordered[rank - 1]
    summary["max"] = ordered[-1]
    return summary
