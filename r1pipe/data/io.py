"""Rows on disk: reading with every mistake named by file and line, writing so that a half-written dataset is never read.

A dataset is a folder with rows*.jsonl, rows*.jsonl.gz or rows*.parquet, or one such file. `null` in an optional column means absent.
A stage's own dataset also holds card.json and card.md (counts and lengths) and dropped.jsonl (rows left out, each with its `reason`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.data.card import Counted, TokenCounter, write_card
from r1pipe.data.rows import ChatRow, LabelRow, PairRow, PromptRow
from r1pipe.errors import InputError

ROWS, DROPPED = "rows.jsonl", "dropped.jsonl"
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")

_STRICT = ConfigDict(strict=True, extra="allow")
_CONTRACTS: dict[str, Any] = {
    kind.kind: with_config(_STRICT)(row) for kind, row in ((Prompts, PromptRow), (Chats, ChatRow), (Pairs, PairRow), (Labels, LabelRow))
}
_TYPES = {"str": "a string", "int": "an integer", "float": "a number", "list": "a list", "dict": "an object", "bool": "a boolean"}


def dataset_files(path: Path) -> list[Path]:
    """The files that a dataset's path stands for, in name order.

    Raises:
        InputError: nothing is there, the folder holds no rows, or the file's ending is not one of ENDINGS.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.startswith("rows") and file.name.endswith(ENDINGS))
        if not files:
            raise InputError("the folder holds no rows", str(path), f"a dataset folder has files named rows*{', rows*'.join(ENDINGS)}")
        return files
    if not path.exists():
        raise InputError("no such file", str(path), "check the path; a relative one counts from the YAML that states it")
    if not path.name.endswith(ENDINGS):
        raise InputError(f"cannot read rows from a {path.suffix or 'nameless'} file", str(path), f"use one of {', '.join(ENDINGS)}")
    return [path]


def read_raw(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row as it stands, with where it stands ("file:line").

    Raises:
        InputError: what a file holds is not JSON lines or Parquet, or a line is not an object.
    """
    for file in dataset_files(path):
        yield from _read_parquet(file) if file.name.endswith(".parquet") else _read_jsonl(file)


def _read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with gzip.open(file, "rt", encoding="utf8") if file.name.endswith(".gz") else file.open(encoding="utf8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except json.JSONDecodeError as error:
                        raise InputError(f"broken JSON: {error.msg}", f"{file}:{number}", "each line is one JSON object") from None
                    if not isinstance(row, dict):
                        raise InputError(f"the line holds a {type(row).__name__}, not an object", f"{file}:{number}", "each line is one JSON object")
                    yield f"{file}:{number}", row
    except UnicodeDecodeError as error:
        raise InputError(f"the file is not UTF-8: {error.reason}", f"{file}:{number + 1}", "convert it to UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"the file is not whole gzip: {error}", str(file), "fetch or write it again") from None
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror or error}", str(file)) from None


def _read_parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        reader = pyarrow.parquet.ParquetFile(file)
        number = 0
        for batch in reader.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", row
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"not a readable Parquet file: {error}", str(file), "write it again") from None


def read_rows(path: Path, kind: type[Artifact], columns: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """All rows of a dataset, checked against the column contract of its kind (r1pipe/data/rows.py).

    Args:
        path: a dataset folder or one file.
        kind: Prompts, Chats, Pairs or Labels; Dataset checks nothing but the JSON.
        columns: our column -> the file's column, where they differ.

    Raises:
        InputError: broken file, missing column, wrong type, an id used twice, or no rows at all; with file and line.
    """
    seen: dict[str, str] = {}
    rows = []
    for where, raw in read_raw(path):
        row = rename(raw, columns or {}, where)
        check_row(row, kind, where, seen)
        rows.append(row)
    if not rows:
        raise InputError("the dataset is empty", str(path), "give at least one row")
    return rows


def rename(raw: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    """The row under our column names, without its absent (null) columns."""
    for ours, theirs in columns.items():
        if theirs not in raw:
            raise InputError(f"no column {theirs!r} (to be read as {ours!r})", where, f"the row has {', '.join(sorted(raw))}")
    row = {name: value for name, value in raw.items() if value is not None and name not in columns.values()}
    row.update({ours: raw[theirs] for ours, theirs in columns.items() if raw[theirs] is not None})
    return row


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
        raise InputError("messages must end with the assistant's", where, "the last message is what the model learns to say")
    if kind is Labels and row["safe"] not in (0, 1):
        raise InputError(f"safe is {row['safe']}", where, "1 = safe, 0 = unsafe")
    if kind is Prompts and not row["prompt"].strip():
        raise InputError("the prompt is empty", where, "leave the row out, or fill it")
    first = seen.setdefault(row["id"], where)
    if first != where:
        raise InputError(f"the id {row['id']!r} stands twice", f"{first} and {where}", "ids are unique in a dataset")


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_CONTRACTS[kind])


def _explain(error: ValidationError, row: Mapping[str, Any], kind: type[Artifact], where: str) -> InputError:
    first = error.errors()[0]
    column = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return InputError(
            f"no column {column!r}, which {kind.kind} need", where, f"the row has {', '.join(sorted(row))}; `columns: {{{column}: THEIRS}}` renames one"
        )
    expected = next((text for name, text in _TYPES.items() if first["type"].startswith(name)), "of another type")
    return InputError(f"column {column!r} holds {_short(first['input'])}, and must be {expected}", where, first["msg"])


def _short(value: Any) -> str:
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
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when all of it is written."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        yield stream
    partial.replace(path)
