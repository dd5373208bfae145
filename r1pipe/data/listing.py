"""Rows and their statistics as people read them. Nothing here is a contract of columns: any dataset can be looked at, also a report's rows."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1pipe.data.files import read_raw
from r1pipe.data.io import DROPPED
from r1pipe.errors import InputError
from r1pipe.text.response import split_response

Row = dict[str, Any]
Measure = Callable[[Sequence[str]], Sequence[int]]  # texts -> lengths

TAGS = ("domain", "language", "source", "reason")
RESPONSES = ("response", "chosen", "rejected")
NOT_STATED = "not stated"
PERCENTILES = (10, 50, 90, 99)
# What would move a terminal's cursor, ring its bell, or turn the reading direction.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def pick(path: Path, where: Mapping[str, str], ids: Sequence[str], dropped: bool = False) -> Iterator[Row]:
    """The rows that have all these values (as text) and one of these ids.

    Args:
        path: a dataset folder or one file.
        dropped: of the rows that were left out, instead.

    Raises:
        InputError: a broken file, or no row has a column that `where` names.
    """
    missing = set(where)
    if dropped and path.is_file():
        raise InputError("one file has no dropped rows beside it", str(path), "name the dataset's folder")
    if dropped and path.is_dir() and not (path / DROPPED).exists():
        return
    for _, row in read_raw(path / DROPPED if dropped else path):
        missing -= row.keys()
        if all(str(row.get(name)) == value for name, value in where.items()) and (not ids or str(row.get("id")) in ids):
            yield row
    if missing:
        raise InputError(f"no row has the column {min(missing)!r}", str(path), "`--where COLUMN=VALUE`")


def visible(text: str) -> str:
    r"""The text with control characters spelled out: what a model wrote may not steer a terminal.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text.replace("\r\n", "\n"))


def described(row: Row, full: bool) -> list[tuple[str, str]]:
    """(label, text) of a row: the id and tags first, then what is said, then the other columns; thinking folded to a line unless `full`."""
    found = [(str(row.get("id", "?")), "  ".join(f"{row[name]}" for name in TAGS if row.get(name) is not None))]
    for message in row.get("messages") or ():
        found += _said(str(message.get("role")), str(message.get("content")), full)
    for name, value in row.items():
        if name in RESPONSES and isinstance(value, str):
            found += _said(name, value, full)
        elif name not in ("id", "messages", *TAGS) and value is not None:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append((name, text if full or name == "prompt" else _fold(text)))
    return [(visible(label), visible(text)) for label, text in found]


def _said(who: str, text: str, full: bool) -> list[tuple[str, str]]:
    thinking, summary = split_response(text)
    if thinking is None or who not in ("assistant", *RESPONSES):
        return [(who, text)]
    label = "thinking" if who in ("assistant", "response") else f"{who}: thinking"
    return [*([(label, thinking if full else _fold(thinking))] if thinking else []), (who, summary)]


def _fold(text: str, width: int = 120) -> str:
    """The first line, and how much follows.

    >>> _fold("So 2+2.\\nThat is 4.")
    'So 2+2. ... (+3 words)'
    """
    first = text.strip().split("\n")[0]
    first = first if len(first) <= width else first[:width]
    rest = len(text.strip()[len(first) :].split())
    return f"{first} ... (+{rest} word{'s' if rest > 1 else ''})" if rest else first


# --- statistics -------------------------------------------------------------------------------------------------------


def words(texts: Sequence[str]) -> list[int]:
    """Words, numbers and signs of each text; a Chinese character is a word."""
    from r1pipe.data.filters import length

    return [length(text) for text in texts]


def tokens(tokenizer: Path) -> Measure:
    """Lengths in tokens of a checkpoint's tokenizer.

    Raises:
        InputError: there is none.
    """
    if not tokenizer.is_dir():
        raise InputError("there is no such folder", str(tokenizer), "name a checkpoint's folder")
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no tokenizer can be read: {str(error).splitlines()[0]}", str(tokenizer), "name a checkpoint's folder"
        ) from None
    return lambda texts: [len(ids) for ids in made(list(texts), add_special_tokens=False)["input_ids"]]


def statistics(path: Path, measure: Measure = words) -> dict[str, Any]:
    """Rows by domain, language and source; lengths of every part by domain; dropped rows by reason.

    Returns:
        {"rows", "domain", "language", "source": {value: rows}, "lengths": {domain or "all": {part: {"rows", "mean", "p10", ..., "max"}}}, "dropped"}
    """
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("domain", "language", "source")}
    lengths: dict[str, dict[str, list[int]]] = {"all": {}}
    total = 0
    for rows in _batches(pick(path, {}, ())):
        total += len(rows)
        for row in rows:
            for name, counter in counts.items():
                counter[str(row.get(name, NOT_STATED))] += 1
        parts = [(str(row.get("domain", NOT_STATED)), part, text) for row in rows for part, text in _parts(row)]
        for (domain, part, _), size in zip(parts, measure([text for _, _, text in parts]), strict=True):
            for key in ("all", domain):
                lengths.setdefault(key, {}).setdefault(part, []).append(size)
    reasons = (
        Counter(str(row.get("reason", NOT_STATED)) for row in pick(path, {}, (), dropped=True))
        if path.is_dir()
        else Counter()
    )
    return {
        "rows": total,
        **{name: dict(counter.most_common()) for name, counter in counts.items()},
        "lengths": {domain: {part: _summary(sizes) for part, sizes in of.items()} for domain, of in lengths.items()},
        "dropped": dict(reasons.most_common()),
    }


def _batches(rows: Iterator[Row], size: int = 1000) -> Iterator[list[Row]]:
    from itertools import islice

    while batch := list(islice(rows, size)):
        yield batch


def _parts(row: Row) -> Iterator[tuple[str, str]]:
    messages = row.get("messages") or []
    if messages:
        yield "prompt", "\n".join(str(message.get("content")) for message in messages[:-1])
    elif isinstance(row.get("prompt"), str):
        yield "prompt", row["prompt"]
    responses = {name: row[name] for name in RESPONSES if isinstance(row.get(name), str)} | (
        {"response": str(messages[-1].get("content"))} if messages else {}
    )
    for name, text in responses.items():
        thinking, summary = split_response(text)
        if thinking is not None:
            yield ("thinking" if name == "response" else f"{name}: thinking"), thinking
        yield name, summary


def _summary(sizes: list[int]) -> dict[str, float]:
    """Nearest-rank percentiles."""
    ordered = sorted(sizes)
    ranks = {f"p{share}": ordered[math.ceil(share / 100 * len(ordered)) - 1] for share in PERCENTILES}
    return {"rows": len(ordered), "mean": round(sum(ordered) / len(ordered), 1), **ranks, "max": ordered[-1]}
