"""People's decisions on chats: accept, reject, edit (v2 B.3.2: people check the cold-start traces; B.3.3: and all rows that are not reasoning).

Decisions lie in a file of JSON lines to which they are only added; of one row's the last counts. Each names the row and a hash of what was read, so a
decision about another text under the same id is not taken. The file is an input of a `mix` stage (`reviews: {INPUT: FILE}`).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1pipe.data.card import NOBODY
from r1pipe.data.files import parse_line
from r1pipe.errors import InputError

Row = dict[str, Any]
DECISIONS = ("accept", "reject", "edit")
REJECTED = "rejected in review"
COLUMNS = ("id", "content", "prompt", "response", "decision")


def content(row: Row) -> str:
    """16 hex digits of what a reviewer reads of a chat."""
    return hashlib.sha256(json.dumps(row["messages"], sort_keys=True).encode()).hexdigest()[:16]


def decide(row: Row, decision: str, text: str | None = None) -> Row:
    """A line of the decisions' file; `text` is the new response of an edit."""
    assert decision in DECISIONS and (text is not None) == (decision == "edit")
    return {
        "id": row["id"],
        "content": content(row),
        "decision": decision,
        **({"text": text} if text is not None else {}),
        "time": round(time.time()),
    }


def read_decisions(path: Path) -> dict[str, Row]:
    """id -> its last decision; a last line that a kill cut off is left out.

    Raises:
        InputError: a line is no decision; with file and line.
    """
    found: dict[str, Row] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the decisions: {error.strerror}", str(path)) from None
    if not _whole(lines[-1]):
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            one = parse_line(line)
        except InputError as error:
            raise InputError(
                error.what, f"{path}:{number}", "each line is one decision, as `r1pipe data review` writes it"
            ) from None
        if one.get("decision") not in DECISIONS or not all(isinstance(one.get(name), str) for name in _needed(one)):
            raise InputError(
                "the line is no decision",
                f"{path}:{number}",
                "it has id, content, decision (accept, reject or edit), and of an edit the text",
            )
        found[one["id"]] = one
    return found


def _needed(one: Row) -> tuple[str, ...]:
    return ("id", "content", "text") if one.get("decision") == "edit" else ("id", "content")


def _whole(line: bytes) -> bool:
    """Whether a last line without its end is all there."""
    try:
        return bool(parse_line(line))
    except InputError:
        return False


def add_decisions(path: Path, decisions: Iterable[Row]) -> None:
    """Append, and be sure it is on disk; the rest of a line that a kill cut off is removed first."""
    with path.open("a+b") as stream:
        stream.seek(0)
        known = stream.read()
        whole = _whole(known[known.rfind(b"\n") + 1 :])
        stream.truncate(len(known) if whole else known.rfind(b"\n") + 1)
        stream.write(
            b"\n" * whole + b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in decisions)
        )
        stream.flush()
        os.fsync(stream.fileno())


def open_rows(rows: Sequence[Row], decisions: Mapping[str, Row]) -> list[Row]:
    """The rows that nobody has decided on as they are now."""
    return [row for row in rows if decisions.get(row["id"], {}).get("content") != content(row)]


class Reviews:
    """Decisions on the inputs of a mix, applied to rows while they pass by.

    Args:
        inputs: the names of all inputs.
        files: input -> the decisions on it.

    Attributes:
        rejected: (input, row) that are left out.

    Raises:
        InputError: decisions on an input that is not there, or a line that is no decision.
    """

    def __init__(self, inputs: Iterable[str], files: Mapping[str, Path]) -> None:
        if unknown := sorted(set(files) - set(inputs)):
            raise InputError(
                f"there are reviews of {unknown[0]!r}", f"the inputs are {', '.join(inputs)}", "name one of these"
            )
        self.rejected: list[tuple[str, Row]] = []
        self._files = files
        self._decisions = {name: read_decisions(path) for name, path in files.items()}
        self._counts = {
            name: Counter(dict.fromkeys(("accepted", "edited", "rejected", "open", "outdated"), 0)) for name in inputs
        }

    def __call__(self, name: str, row: Row) -> Row | None:
        """The row as it was decided on; None for a rejected one."""
        if name not in self._decisions:
            return row
        one = self._decisions[name].get(row["id"])
        if one is None or one["content"] != content(row):
            self._counts[name]["open"] += 1
            return row
        if one["decision"] == "reject":
            self._counts[name]["rejected"] += 1
            self.rejected.append((name, row))
            return None
        if one["decision"] == "edit":
            self._counts[name]["edited"] += 1
            return {
                **row,
                "messages": [*row["messages"][:-1], {**row["messages"][-1], "content": one["text"]}],
                "review": "edited",
            }
        self._counts[name]["accepted"] += 1
        return {**row, "review": "accepted"}

    def summary(self) -> dict[str, Any]:
        """input -> counts, or NOBODY; when all rows have passed.

        Raises:
            InputError: a file's decisions are about none of the input's rows.
        """
        found: dict[str, Any] = {}
        for name, counts in self._counts.items():
            decisions = self._decisions.get(name)
            found[name] = dict(counts) if decisions else NOBODY
            if not decisions:
                continue
            taken = counts["accepted"] + counts["edited"] + counts["rejected"]
            if not taken:
                raise InputError(
                    f"none of the {len(decisions)} decisions is about a row as it is here",
                    str(self._files[name]),
                    "review this dataset, or name its own file",
                )
            found[name]["outdated"] = len(decisions) - taken
            if found[name]["outdated"]:
                warnings.warn(
                    f"{self._files[name]}: {found[name]['outdated']} decisions are about other rows or other texts, and are not taken",
                    stacklevel=2,
                )
        return found


# --- as a table for people --------------------------------------------------------------------------------------------


def export_csv(rows: Sequence[Row], decisions: Mapping[str, Row], path: Path) -> int:
    """Write the rows with the decisions so far, for a spreadsheet; returns how many are open.

    To decide, fill `decision` with accept, reject or edit; for an edit change `response` in its place.
    """
    waiting = {row["id"] for row in open_rows(rows, decisions)}
    with path.open("w", encoding="utf-8-sig", newline="") as stream:  # with a BOM: else Excel takes Chinese for Latin
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for row in rows:
            one = {} if row["id"] in waiting else decisions[row["id"]]
            asked = "\n\n".join(f"{message['role']}: {message['content']}" for message in row["messages"][:-1])
            table.writerow(
                [
                    row["id"],
                    content(row),
                    asked,
                    one.get("text", row["messages"][-1]["content"]),
                    one.get("decision", ""),
                ]
            )
    return len(waiting)


def import_csv(rows: Sequence[Row], decisions: Mapping[str, Row], path: Path) -> list[Row]:
    """The decisions in a filled table that are new. Nothing is taken where anything is wrong.

    Raises:
        InputError: no such table, an unknown row or decision, or a response that was changed without `edit`; with file and line.
    """
    by_id = {row["id"]: row for row in rows}
    found: list[Row] = []
    csv.field_size_limit(2**31 - 1)  # a long chain of thought is one field
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, strict=True)
            if missing := [name for name in COLUMNS if name != "prompt" and name not in (table.fieldnames or ())]:
                raise InputError(
                    f"the table has no column {missing[0]!r}", str(path), "fill a table that --export has written"
                )
            for cells in table:
                if one := _from_cells(cells, by_id, f"{path}:{table.line_num}"):
                    known = decisions.get(one["id"], {})
                    if any(known.get(name) != one.get(name) for name in ("content", "decision", "text")):
                        found.append(one)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"the table is no CSV in UTF-8: {error}", str(path), "save it as CSV UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", str(path)) from None
    return found


def _from_cells(cells: Mapping[str, Any], by_id: Mapping[str, Row], where: str) -> Row | None:
    decision = (cells["decision"] or "").strip().lower()
    if not decision:
        return None
    if decision not in DECISIONS:
        raise InputError(f"the decision is {decision!r}", where, f"it is {', '.join(DECISIONS)}, or empty")
    row = by_id.get(cells["id"])
    if row is None or cells["content"] != content(row):
        raise InputError(
            f"the row {cells['id']!r} is not in the dataset{'' if row is None else ' with this text'}",
            where,
            "export the table again",
        )
    text, was = ((value or "").replace("\r\n", "\n") for value in (cells["response"], row["messages"][-1]["content"]))
    if decision == "edit" and not text.strip():
        raise InputError("the edited response is empty", where, "write one, or reject the row")
    if decision == "accept" and text != was:
        raise InputError(
            "the response was changed, and the decision is accept", where, "say edit, or put the response back"
        )
    return decide(row, decision, text if decision == "edit" else None)
