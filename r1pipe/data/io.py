"""Rows on disk: checked when read, with every mistake named by file and line; written so that a half-written dataset is never read.

A dataset is a folder with rows*.jsonl (.gz, .zst, .xz, .bz2) or rows*.parquet, or one such file. `null` in an optional column means absent.
A stage's own dataset also holds card.json and card.md (counts and lengths) and, where rows were left out, dropped.jsonl (each with its `reason`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.data.card import Counted, TokenCounter, write_card
from r1pipe.data.files import read_raw
from r1pipe.errors import InputError
from r1pipe.text.rows import ChatRow, LabelRow, PairRow, PromptRow

ROWS, DROPPED = "rows.jsonl", "dropped.jsonl"

_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make a new encoder for every row
_STRICT = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
_CONTRACTS: dict[str, Any] = {
    kind.kind: with_config(_STRICT)(row)
    for kind, row in ((Prompts, PromptRow), (Chats, ChatRow), (Pairs, PairRow), (Labels, LabelRow))
}
_TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "list": "a list",
    "dict": "an object",
    "bool": "a boolean",
}


def read_rows(path: Path, kind: type[Artifact]) -> list[dict[str, Any]]:
    """All rows of a dataset, checked against the column contract of its kind (r1pipe/text/rows.py).

    Args:
        path: a dataset folder or one file.
        kind: Prompts, Chats, Pairs or Labels; Dataset checks nothing but the JSON.

    Raises:
        InputError: broken file, missing column, wrong type, an id used twice, or no rows at all; with file and line.
    """
    seen: dict[str, str] = {}
    rows = []
    for where, raw in read_raw(path):
        row = rename(raw, {}, where)
        check_row(row, kind, where, seen)
        rows.append(row)
    if not rows:
        raise InputError("the dataset is empty", str(path), "give at least one row")
    return rows


def read_several(prompts: Mapping[str, Prompts], stage: str) -> list[dict[str, Any]]:
    """The rows of all inputs of a stage's port `prompts`, in their order.

    Raises:
        InputError: as read_rows; an id stands in two of them.
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, dataset in prompts.items():
        for row in read_rows(dataset.path, Prompts):
            if row["id"] in rows:
                raise InputError(
                    f"the id {short(row['id'])} stands in two inputs",
                    f"{stage}: inputs.prompts.{name}",
                    "give each problem once",
                )
            rows[row["id"]] = row
    return list(rows.values())


def rename(raw: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """The row under our column names, without its absent (null) columns. `turns.0` is the first of the list `turns`, `a.b` the key b of a."""
    row = {name: value for name, value in raw.items() if value is not None and name not in columns.values()}
    for ours, theirs in columns.items():
        value = value_at(raw, theirs, where, f" (to be read as {ours!r})")
        if value is not None:
            row[ours] = value
    return row


def value_at(raw: Mapping[str, Any], name: str, where: str, why: str = "") -> Any:
    """The value of a column, or of a place within one.

    Raises:
        InputError: the row has none.
    """
    value: Any = raw
    for step in [name] if name in raw else name.split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            raise InputError(f"no column {name!r}{why}", where, f"the row has {names(raw)}")
    return value


def names(row: Mapping[str, Any]) -> str:
    """The row's columns, for a message; of very many only the first."""
    return ", ".join(sorted(row)[:30]) + (", ..." if len(row) > 30 else "")


def check_row(row: Mapping[str, Any], kind: type[Artifact], where: str, seen: dict[str, str]) -> None:
    """Raise InputError unless the row keeps the contract of its kind and its id is new; `seen` maps ids to where they stand."""
    contract = _CONTRACTS.get(kind.kind)
    if contract is None:
        return
    try:
        _adapter(kind.kind).validate_python(row)
    except ValidationError as error:
        raise _explain(error, row, kind, where) from None
    if kind is Chats and (not row["messages"] or row["messages"][-1]["role"] != "assistant"):
        raise InputError(
            "messages must end with the assistant's", where, "the last message is what the model learns to say"
        )
    if kind is Labels and row["safe"] not in (0, 1):
        raise InputError(f"safe is {row['safe']}", where, "1 = safe, 0 = unsafe")
    if kind is Prompts and not row["prompt"].strip():
        raise InputError("the prompt is empty", where, "leave the row out, or fill it")
    check_id(row, where, seen)


def check_id(row: Mapping[str, Any], where: str, seen: dict[str, str]) -> None:
    """Raise InputError if another row has this id; `seen` maps ids to where they stand."""
    first = seen.setdefault(row["id"], where)
    if first != where:
        raise InputError(
            f"the id {short(row['id'])} stands twice", f"{first} and {where}", "ids are unique in a dataset"
        )


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_CONTRACTS[kind])


def _explain(error: ValidationError, row: Mapping[str, Any], kind: type[Artifact], where: str) -> InputError:
    first = error.errors()[0]
    column = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return InputError(
            f"no column {column!r}, which {kind.kind} need",
            where,
            f"the row has {names(row)}; `columns: {{{column}: THEIRS}}` renames one",
        )
    expected = next((text for name, text in _TYPES.items() if first["type"].startswith(name)), "of another type")
    return InputError(f"column {column!r} holds {short(first['input'])}, and must be {expected}", where, first["msg"])


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_rows(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    dropped: Iterable[Mapping[str, Any]] = (),
    card: Mapping[str, Any] | None = None,
    tokens: TokenCounter | None = None,
) -> None:
    """Write a dataset into an existing folder; rows.jsonl comes last and whole, so that its being there means all is there.

    Args:
        card: what the cards say beside the statistics of the domains; None writes none.
        tokens: counts tokens for these (card.token_counter); None counts characters alone.
    """
    dropped = list(dropped)
    if dropped:
        with whole(folder / DROPPED) as stream:
            stream.writelines(line(row) for row in dropped)
    with whole(folder / ROWS) as stream:
        if card is None:
            stream.writelines(line(row) for row in rows)
        else:
            counted = Counted(tokens)
            stream.writelines(line(row) for row in counted.watch(rows))
            write_card(folder, card, counted.statistics())


def line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON."""
    return (_encode(row) + "\n").encode()


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when all of it is written."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        yield stream
    partial.replace(path)
