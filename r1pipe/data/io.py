"""Rows on disk: checked when they are read, and written so that a half-written dataset is never read.

A dataset is a folder with rows*.jsonl (.gz, .zst, .xz, .bz2) or rows*.parquet, or one such file. `null` in an optional
column means that the row does not have the column. A stage's own dataset also has card.json and card.md (counts and
lengths) and, if rows were left out, dropped.jsonl (each row with its `reason`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.data.card import Counted, TokenCounter, write_card
from r1pipe.data.files import Row, read_raw
from r1pipe.errors import InputError
from r1pipe.text.rows import ChatRow, LabelRow, PairRow, PromptRow

ROWS, DROPPED = "rows.jsonl", "dropped.jsonl"

# json.dumps would make a new encoder for every row.
_encode = json.JSONEncoder(ensure_ascii=False).encode

_ROW_TYPES = {Prompts: PromptRow, Chats: ChatRow, Pairs: PairRow, Labels: LabelRow}
# Without `strict`, pydantic would take "3" for 3 and True for 1. Extra columns are allowed.
_strict = with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))
_CONTRACTS: dict[str, Any] = {kind.kind: _strict(row) for kind, row in _ROW_TYPES.items()}

# Prefix of pydantic's error type -> the expected type, for a message.
_TYPES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "list": "a list",
    "dict": "an object",
    "bool": "a boolean",
}


# --- reading ----------------------------------------------------------------------------------------------------------


def read_rows(path: Path, kind: type[Artifact]) -> list[Row]:
    """All rows of a dataset, checked against the column contract of its kind (r1pipe/text/rows.py).

    Args:
        path: a dataset folder or one file.
        kind: Prompts, Chats, Pairs or Labels; for Dataset, only the JSON is checked.

    Raises:
        InputError: a file is broken, a column is missing or has a wrong type, an id appears twice, or there are no
            rows; the error names file and line.
    """
    seen: dict[str, str] = {}
    rows = []
    for where, raw in read_raw(path):
        # A dataset has our names already; this leaves out the columns that are null.
        row = rename_columns(raw, {}, where)
        check_row(row, kind, where, seen)
        rows.append(row)
    if not rows:
        raise InputError("the dataset is empty", str(path), "give at least one row")
    return rows


def read_several(prompts: Mapping[str, Prompts], stage: str) -> list[Row]:
    """The rows of all inputs of a stage's port `prompts`, in their order.

    Raises:
        InputError: as read_rows; also if an id appears in two inputs.
    """
    rows: dict[str, Row] = {}
    for name, dataset in prompts.items():
        for row in read_rows(dataset.path, Prompts):
            if row["id"] in rows:
                raise InputError(
                    f"the id {short(row['id'])} appears in two inputs",
                    f"{stage}: inputs.prompts.{name}",
                    "give each problem once",
                )
            rows[row["id"]] = row
    return list(rows.values())


def rename_columns(raw: Mapping[str, Any], columns: Mapping[str, str], where: str) -> Row:
    """The row under our column names, without the columns that are null.

    Args:
        columns: our column -> the row's own column. `turns.0` is the first item of the list `turns`, `a.b` the key b
            of the object a.

    Raises:
        InputError: the row does not have a column that `columns` names.
    """
    renamed = columns.values()
    row = {name: value for name, value in raw.items() if value is not None and name not in renamed}
    for ours, theirs in columns.items():
        value = value_at(raw, theirs, where, f" (to be read as {ours!r})")
        if value is not None:
            row[ours] = value
    return row


def value_at(raw: Mapping[str, Any], name: str, where: str, purpose: str = "") -> Any:
    """The value of a column, or of a place within one (see rename_columns).

    Args:
        purpose: what the value is needed for; added to the message.

    Raises:
        InputError: the row does not have it.
    """
    value: Any = raw
    # A column whose own name has a dot comes before a place within another column.
    steps = [name] if name in raw else name.split(".")
    for step in steps:
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            raise InputError(f"no column {name!r}{purpose}", where, f"the row has {column_names(raw)}")
    return value


# --- checking ---------------------------------------------------------------------------------------------------------


def check_row(row: Mapping[str, Any], kind: type[Artifact], where: str, seen: dict[str, str]) -> None:
    """Check that a row keeps the contract of its kind and that its id is new.

    Args:
        seen: id -> where it stands; the row's id is added.

    Raises:
        InputError: the row does not.
    """
    if kind.kind not in _CONTRACTS:
        return
    try:
        _adapter(kind.kind).validate_python(row)
    except ValidationError as error:
        raise _explain(error, row, kind, where) from None

    # The rest of the contract, which types cannot express.
    if kind is Chats and not _ends_with_assistant(row["messages"]):
        raise InputError(
            "the messages must end with a message of the assistant",
            where,
            "the model learns to write the last message",
        )
    if kind is Labels and row["safe"] not in (0, 1):
        raise InputError(f"safe is {row['safe']}", where, "1 = safe, 0 = unsafe")
    if kind is Prompts and not row["prompt"].strip():
        raise InputError("the prompt is empty", where, "leave the row out, or fill it")
    check_id(row, where, seen)


def _ends_with_assistant(messages: Sequence[Mapping[str, Any]]) -> bool:
    return bool(messages) and messages[-1]["role"] == "assistant"


def check_id(row: Mapping[str, Any], where: str, seen: dict[str, str]) -> None:
    """Raise InputError if another row has this id; `seen` maps ids to where they stand."""
    first = seen.setdefault(row["id"], where)
    if first != where:
        raise repeated_id(row["id"], f"{first} and {where}")


def repeated_id(name: str, places: str) -> InputError:
    """The error that two rows of a dataset have one id."""
    return InputError(f"the id {short(name)} appears twice", places, "ids are unique in a dataset")


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_CONTRACTS[kind])


def _explain(error: ValidationError, row: Mapping[str, Any], kind: type[Artifact], where: str) -> InputError:
    """The first of pydantic's errors as a message for people."""
    first = error.errors()[0]
    column = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return InputError(
            f"no column {column!r}, which {kind.kind} need",
            where,
            f"the row has {column_names(row)}; `columns: {{{column}: THEIRS}}` renames one",
        )
    expected = next(
        (text for name, text in _TYPES.items() if first["type"].startswith(name)), "of another type"
    )
    return InputError(
        f"column {column!r} holds {short(first['input'])}, and must be {expected}", where, first["msg"]
    )


def column_names(row: Mapping[str, Any], most: int = 30) -> str:
    """The row's columns, for a message; only the first `most` of them."""
    shown = ", ".join(sorted(row)[:most])
    return shown + ", ..." if len(row) > most else shown


def short(value: Any) -> str:
    """A value, for a message; only its beginning if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- writing ----------------------------------------------------------------------------------------------------------


def write_rows(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    dropped: Iterable[Mapping[str, Any]] = (),
    card: Mapping[str, Any] | None = None,
    *,
    tokens: TokenCounter | None = None,
) -> None:
    """Write a dataset into an existing folder.

    rows.jsonl is written last and gets its name when it is complete: if it exists, the whole dataset does.

    Args:
        card: what the cards contain beside the statistics of the domains; without it, none are written.
        tokens: counts tokens for the cards (card.token_counter); without it, only characters are counted.
    """
    dropped = list(dropped)
    # No file means that nothing was dropped.
    if dropped:
        with atomic_file(folder / DROPPED) as stream:
            stream.writelines(json_line(row) for row in dropped)

    with atomic_file(folder / ROWS) as stream:
        if card is None:
            stream.writelines(json_line(row) for row in rows)
        else:
            counted = Counted(tokens)
            stream.writelines(json_line(row) for row in counted.watch(rows))
            # Before rows.jsonl gets its name, so that a finished dataset has its card.
            write_card(folder, card, counted.statistics())


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON."""
    return (_encode(row) + "\n").encode()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when all of it is written."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        yield stream
    partial.replace(path)
