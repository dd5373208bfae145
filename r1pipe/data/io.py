"""Rows on disk: checked when they are read, and written so that a half-written dataset is never read.

A dataset is a folder with rows*.jsonl (.gz, .zst, .xz, .bz2) or rows*.parquet, or one such file. `null` in an optional
column means that the row does not have the column. A stage's own dataset also has card.json and card.md (counts and
lengths) and, if rows were left out, dropped.jsonl (each row with its `reason`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.data.card import CARD, Counted, TokenCounter, write_card
from r1pipe.data.files import Row, read_raw
from r1pipe.data.foreign import in_our_shape
from r1pipe.data.messages import OUR_ROLES
from r1pipe.data.row_checks import EQUAL_PROMPT, EQUAL_ROW, EQUAL_SIDES, Tally, is_made_of_contents
from r1pipe.errors import InputError
from r1pipe.schema import RowLimits
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, ChatRow, LabelRow, PairRow, PromptRow
from r1pipe.text.splits import content_key

ROWS, DROPPED = "rows.jsonl", "dropped.jsonl"

# Nothing is refused.
NO_LIMITS = RowLimits(max_empty_thinking=1, max_empty_replies=1, max_unknown_keys=1)

# The columns of a reply; they are part of a row's id if the row has none of its own.
_REPLY_COLUMNS = ("response", "chosen", "rejected")

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


def read_rows(
    path: Path,
    kind: type[Artifact],
    limits: RowLimits | None = None,
    first: int | None = None,
) -> list[Row]:
    """All rows of a dataset, checked against the column contract of its kind (r1pipe/text/rows.py).

    Rows in a common shape of others are put into ours (r1pipe/data/foreign.py). What a row lacks is made: its id of its
    contents, its domain of what can check it. Of prompts that are equal in a file of the user's, the first is kept.

    Args:
        path: a dataset folder or one file.
        kind: Prompts, Chats, Pairs or Labels; for Dataset, only the JSON is checked.
        limits: what chats may lack; up to it, rows with empty replies are left out. None takes every row.
        first: read no more rows than this.

    Raises:
        InputError: a file is broken, a column is missing or has a wrong type, an id appears twice, more rows lack
            something than `limits` allows, or there are no rows; the error names file and line.
    """
    tally = Tally()
    seen: dict[str, str] = {}
    # A stage's own dataset has a card; its prompts were compared when they were made.
    is_ours = (path / CARD).is_file()
    prompts_seen: set[str] | None = set() if kind is Prompts and not is_ours else None
    rows: list[Row] = []
    empty = True
    has_contract = kind.kind in _CONTRACTS
    for where, raw in islice(read_raw(path), first):
        empty = False
        row = in_our_columns(raw, kind, where, tally)
        check_row(row, kind, where, {})
        if not is_ours:
            tally.look_at_texts(row, where)
        if not has_contract:
            rows.append(row)
        elif not _why_left_out(row, where, tally, limits, seen, prompts_seen):
            check_id(row, where, seen)
            rows.append(row)
    if empty:
        raise InputError("the dataset is empty", str(path), "give at least one row")
    tally.report(limits or NO_LIMITS, path.name, "row_limits.{}")
    if not rows:
        raise InputError("no row is left of the dataset", str(path), "give rows with replies")
    return rows


def in_our_columns(raw: Row, kind: type[Artifact], where: str, tally: Tally) -> Row:
    """A row of a dataset in our columns, without those that are null; the same object if it was so already.

    Raises:
        InputError: messages or texts of the row cannot be read.
    """
    if kind.kind not in _CONTRACTS:
        return raw
    row = rename_columns(raw, {}, where) if None in raw.values() else raw
    row = in_our_shape(row, kind, where, tally.note_of(where))
    if "id" in row and "domain" in row:
        return row
    made = {} if "id" in row else {"id": id_of_contents(row, kind)}
    if "domain" not in row:
        made["domain"] = domain_of(row, kind)
    return {**made, **row}


def _why_left_out(
    row: Row,
    where: str,
    tally: Tally,
    limits: RowLimits | None,
    seen: Mapping[str, str],
    prompts_seen: set[str] | None,
) -> str:
    """Why a row is not used, counted; empty if it is. Adds its prompt to `prompts_seen`, where there is one."""
    reason = ""
    if "messages" in row and limits is not None:
        reason = tally.look_at_chat(row, where)
    if "chosen" in row and row["chosen"].strip() == row.get("rejected", "").strip():
        reason = EQUAL_SIDES
        tally.count(reason, where)
    if prompts_seen is not None:
        key = content_key(row["prompt"])
        if key in prompts_seen:
            reason = EQUAL_PROMPT
            tally.count(reason, where)
        prompts_seen.add(key)
    elif row.get("id") in seen and is_made_of_contents(row["id"]):
        reason = EQUAL_ROW
        tally.count(reason, where)
    return reason


def id_of_contents(row: Row, kind: type[Artifact]) -> str:
    """An id for a row that has none.

    It is a hash of the prompt, in which case and spacing do not count. Except for prompts, a hash of the replies
    follows, in which they do count.
    """
    if kind is Prompts:
        return content_key(str(row.get("prompt")))
    messages = row.get("messages")
    if isinstance(messages, list) and messages:
        asked = messages[:-1]
        question = asked[0]["content"] if len(asked) == 1 else str(asked)
        replies = [messages[-1]["content"]]
    else:
        question = str(row.get("prompt"))
        replies = [str(row[name]) for name in _REPLY_COLUMNS if name in row]
    digest = hashlib.sha256("\0".join(replies).encode()).hexdigest()
    return f"{content_key(question)}-{digest[:16]}"


def domain_of(row: Row, kind: type[Artifact]) -> str:
    """The domain of a row that states none: of a prompt by what checks its answers, else the kind's own."""
    if kind is Labels:
        return HARMFUL_DOMAIN
    if kind is not Prompts:
        return GENERAL_DOMAIN
    if row.get("tests"):
        return "code"
    answer = row.get("answer")
    if answer is None or row.get("gym"):
        return GENERAL_DOMAIN
    from r1pipe.rewards.answers import parse

    answers = answer if isinstance(answer, list) else [answer]
    kinds = {parse(str(accepted)).kind for accepted in answers}
    if kinds == {"letter"}:
        return "choice"
    if not any(str(accepted).strip() for accepted in answers):
        return GENERAL_DOMAIN
    # What cannot be read is counted where it is judged.
    return "math" if kinds <= {"number", "root", "arithmetic", "maths", "broken"} else GENERAL_DOMAIN


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
    if kind is Chats:
        _check_roles(row["messages"], where)
    if kind is Chats and not _ends_with_assistant(row["messages"]):
        raise InputError(
            "the messages must end with a message of the assistant",
            where,
            "the model learns to write the last message",
        )
    if kind is Chats and not any(message["role"] == "user" for message in row["messages"]):
        raise InputError("the chat has no turn of the user", where, "a reply is learned to a question")
    if kind is Labels and row["safe"] not in (0, 1):
        raise InputError(f"safe is {row['safe']}", where, "1 = safe, 0 = unsafe")
    if kind is Prompts and not row["prompt"].strip():
        raise InputError("the prompt is empty", where, "leave the row out, or fill it")
    check_id(row, where, seen)


def _check_roles(messages: Sequence[Mapping[str, Any]], where: str) -> None:
    for message in messages:
        if message["role"] not in OUR_ROLES:
            raise InputError(
                f"a message has the role {message['role']!r}",
                where,
                f"roles are {', '.join(sorted(OUR_ROLES))}",
            )


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
    # Behind a column that may be of two types, the place has the type that was tried.
    column = ".".join(str(part) for part in first["loc"] if part not in ("str", "list[str]"))
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
