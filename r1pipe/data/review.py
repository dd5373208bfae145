"""People's decisions on chats: accept, reject, edit.

People check the cold-start traces (v2 B.3.2) and all rows that are not reasoning (v2 B.3.3). The decisions are in a
file of JSON lines, to which lines are only appended; if a row has several decisions, the last counts. A decision names
the row and a hash of the text that was read, so it does not apply to another text with the same id. The file is an
input of a `mix` stage (`reviews: {INPUT: FILE}`).
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
from r1pipe.data.files import Row, parse_line
from r1pipe.errors import InputError
from r1pipe.text.regular_files import read_regular, refuse_irregular

DECISIONS = ("accept", "reject", "edit")

# The reason in dropped.jsonl.
REJECTED = "rejected in review"

# The columns of the table, and what is counted of a review.
COLUMNS = ("id", "content", "prompt", "response", "decision")
_COUNTS = ("accepted", "edited", "rejected", "open", "outdated")


def content(row: Row) -> str:
    """16 hex digits of what a reviewer reads of a chat."""
    return hashlib.sha256(json.dumps(row["messages"], sort_keys=True).encode()).hexdigest()[:16]


def decide(row: Row, decision: str, text: str | None = None) -> Row:
    """A line of the decisions' file; `text` is the new response of an edit."""
    assert decision in DECISIONS and (text is not None) == (decision == "edit")
    line = {"id": row["id"], "content": content(row), "decision": decision}
    if text is not None:
        line["text"] = text
    return {**line, "time": round(time.time())}


# --- the file of decisions --------------------------------------------------------------------------------------------


def read_decisions(path: Path) -> dict[str, Row]:
    """id -> the row's last decision; an incomplete last line, which a kill leaves, is left out.

    Raises:
        InputError: a line is not a decision; the error names file and line.
    """
    try:
        lines = read_regular(path).split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the decisions: {error.strerror}", str(path)) from None
    if not _is_complete(lines[-1]):
        lines.pop()

    decisions: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            decision = parse_line(line)
        except InputError as error:
            raise InputError(
                error.what,
                where,
                "each line is one decision, as `r1pipe data review` writes it",
            ) from None
        if not _is_decision(decision):
            raise InputError(
                "the line is not a decision",
                where,
                "a decision has id, content, decision (accept, reject or edit), and for an edit the text",
            )
        decisions[decision["id"]] = decision
    return decisions


def _is_decision(line: Row) -> bool:
    # An edit without its text could not be applied.
    needed = ["id", "content"]
    if line.get("decision") == "edit":
        needed.append("text")
    has_texts = all(isinstance(line.get(name), str) for name in needed)
    return has_texts and line.get("decision") in DECISIONS


def _is_complete(line: bytes) -> bool:
    """Whether a last line without a line end is a whole object."""
    try:
        return bool(parse_line(line))
    except InputError:
        return False


def add_decisions(path: Path, decisions: Iterable[Row]) -> None:
    """Append decisions and wait until they are on disk; an incomplete last line is removed first."""
    with path.open("a+b") as stream:
        stream.seek(0)
        before = stream.read()
        last_line = before.rfind(b"\n") + 1
        complete = _is_complete(before[last_line:])
        stream.truncate(len(before) if complete else last_line)
        # Only its line end is missing.
        if complete:
            stream.write(b"\n")
        for decision in decisions:
            stream.write(json.dumps(decision, ensure_ascii=False).encode() + b"\n")
        # A decision is a person's work: it must survive a crash of the machine.
        stream.flush()
        os.fsync(stream.fileno())


def open_rows(rows: Sequence[Row], decisions: Mapping[str, Row]) -> list[Row]:
    """The rows whose present text nobody has decided on."""
    return [row for row in rows if decisions.get(row["id"], {}).get("content") != content(row)]


# --- in a mix ---------------------------------------------------------------------------------------------------------


class Reviews:
    """Decisions on the inputs of a mix, applied to rows while they pass through.

    Args:
        inputs: the names of all inputs.
        files: input -> the file of the decisions on it.

    Attributes:
        rejected: (input, row) of the rows that are left out.

    Raises:
        InputError: there is no such input, or a line is not a decision.
    """

    def __init__(self, inputs: Iterable[str], files: Mapping[str, Path]) -> None:
        unknown = sorted(set(files) - set(inputs))
        if unknown:
            raise InputError(
                f"there are reviews of {unknown[0]!r}, which is not an input",
                f"the inputs are {', '.join(inputs)}",
                "name one of these",
            )
        self.rejected: list[tuple[str, Row]] = []
        self._files = files
        self._decisions = {name: read_decisions(path) for name, path in files.items()}
        self._counts = {name: Counter(dict.fromkeys(_COUNTS, 0)) for name in inputs}

    def __call__(self, name: str, row: Row) -> Row | None:
        """The row after the decision on it; None for a rejected one."""
        if name not in self._decisions:
            return row

        counts = self._counts[name]
        decision = self._decisions[name].get(row["id"])
        if decision is None or decision["content"] != content(row):
            counts["open"] += 1
            return row
        if decision["decision"] == "reject":
            counts["rejected"] += 1
            self.rejected.append((name, row))
            return None
        if decision["decision"] == "edit":
            counts["edited"] += 1
            *before, response = row["messages"]
            messages = [*before, {**response, "content": decision["text"]}]
            return {**row, "messages": messages, "review": "edited"}
        counts["accepted"] += 1
        return {**row, "review": "accepted"}

    def summary(self) -> dict[str, Any]:
        """input -> counts, or NOBODY; to be called when all rows have passed.

        Raises:
            InputError: no decision of a file is about a row of its input.
        """
        summary: dict[str, Any] = {}
        for name, counts in self._counts.items():
            decisions = self._decisions.get(name)
            if not decisions:
                summary[name] = NOBODY
                continue

            file = self._files[name]
            # A file with decisions of which none applies is almost surely that of another dataset.
            applied = counts["accepted"] + counts["edited"] + counts["rejected"]
            outdated = len(decisions) - applied
            if not applied:
                raise InputError(
                    f"none of the {len(decisions)} decisions is about a row of this input as it is now",
                    str(file),
                    "review this dataset, or name its own file",
                )
            if outdated:
                warnings.warn(
                    f"{file}: {outdated} decisions are about other rows or other texts, and are ignored",
                    stacklevel=2,
                )
            summary[name] = {**counts, "outdated": outdated}
        return summary


# --- as a table for people --------------------------------------------------------------------------------------------


def export_csv(rows: Sequence[Row], decisions: Mapping[str, Row], path: Path) -> int:
    """Write the rows with the decisions so far, for a spreadsheet.

    To decide, a reviewer fills `decision` with accept, reject or edit, and for an edit changes `response`.

    Returns:
        the number of rows without a decision.
    """
    undecided = {row["id"] for row in open_rows(rows, decisions)}
    # With a byte order mark: without one, Excel takes Chinese for Latin.
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(COLUMNS)
        for row in rows:
            decision = {} if row["id"] in undecided else decisions[row["id"]]
            *before, response = row["messages"]
            prompt = "\n\n".join(f"{message['role']}: {message['content']}" for message in before)
            text = decision.get("text", response["content"])
            table.writerow([row["id"], content(row), prompt, text, decision.get("decision", "")])
    return len(undecided)


def import_csv(rows: Sequence[Row], decisions: Mapping[str, Row], path: Path) -> list[Row]:
    """The decisions of a filled table that are new. If one is wrong, none is taken.

    Raises:
        InputError: there is no such table, a row or decision is unknown, or a response was changed without `edit`; the
            error names file and line.
    """
    by_id = {row["id"]: row for row in rows}
    new: list[Row] = []
    # A long chain of thought is one field.
    csv.field_size_limit(2**31 - 1)
    try:
        refuse_irregular(path)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream, strict=True)
            _check_columns(table.fieldnames or (), path)
            for cells in table:
                decision = _decision_of_cells(cells, by_id, f"{path}:{table.line_num}")
                if decision and not _is_known(decision, decisions):
                    new.append(decision)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"the table is not CSV in UTF-8: {error}", str(path), "save it as CSV UTF-8"
        ) from None
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", str(path)) from None
    return new


def _check_columns(names: Sequence[str], path: Path) -> None:
    for column in COLUMNS:
        # The prompt is there for the reader; nothing is taken from it.
        if column != "prompt" and column not in names:
            raise InputError(
                f"the table has no column {column!r}", str(path), "fill a table that --export has written"
            )


def _is_known(decision: Row, decisions: Mapping[str, Row]) -> bool:
    known = decisions.get(decision["id"], {})
    return all(known.get(name) == decision.get(name) for name in ("content", "decision", "text"))


def _decision_of_cells(cells: Mapping[str, Any], by_id: Mapping[str, Row], where: str) -> Row | None:
    """The decision of a line of the table; None if there is none yet."""
    decision = (cells["decision"] or "").strip().lower()
    if not decision:
        return None
    if decision not in DECISIONS:
        raise InputError(f"the decision is {decision!r}", where, f"it is {', '.join(DECISIONS)}, or empty")

    row = by_id.get(cells["id"])
    if row is None or cells["content"] != content(row):
        with_this_text = "" if row is None else " with this text"
        raise InputError(
            f"the row {cells['id']!r} is not in the dataset{with_this_text}",
            where,
            "export the table again",
        )

    # Spreadsheets write CRLF, also within cells.
    text = (cells["response"] or "").replace("\r\n", "\n")
    before = (row["messages"][-1]["content"] or "").replace("\r\n", "\n")
    if decision == "edit":
        if not text.strip():
            raise InputError("the edited response is empty", where, "write one, or reject the row")
        return decide(row, decision, text)
    if decision == "accept" and text != before:
        raise InputError(
            "the response was changed, and the decision is accept",
            where,
            "say edit, or put the response back",
        )
    return decide(row, decision)
