"""The rows that a source of files or of the hub gives: shaped, split, ordered by their contents and the seed.

With a `count`, the source is read twice, once for the keys and once for the rows: memory holds a key for each row
(about 0.2 KB) and the drawn rows, not the file.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from r1pipe.artifacts import Artifact, Chats, Prompts
from r1pipe.data.files import Bad, Located, Row, matches, read_raw, refuse
from r1pipe.data.io import check_id, check_row
from r1pipe.data.row_checks import EQUAL_PROMPT, EQUAL_ROW, Tally, is_made_of_contents
from r1pipe.data.shapes import SHAPES, Skip, finish, unreadable_gold
from r1pipe.errors import InputError
from r1pipe.schema import RowLimits
from r1pipe.text.regular_files import in_home
from r1pipe.text.splits import content_key, split_of

if TYPE_CHECKING:
    from r1pipe.data.sources import Loaded, Source

MALFORMED = "malformed row"

# A raw row gives at most this many rows: a comparison that is read as labels gives two.
# The place of a row is PARTS * the number of its raw row + its part.
PARTS = 2

# Rows whose gold answers are read at a time, at least: formulas go to several processes, which need many at once.
_CHECKED_AT_ONCE = 256


class SourceReader:
    """One source of files, or of the hub, as rows of one kind.

    Args:
        loaded: what is left out is added to its `dropped`; its `prompts` are not taken again.
        fill: {{name}} -> value.
        first: raw rows that are read at most; None reads all.
    """

    def __init__(
        self,
        source: Source,
        kind: type[Artifact],
        loaded: Loaded,
        fill: dict[str, str],
        first: int | None = None,
    ) -> None:
        self.source = source
        self.kind = kind
        self.loaded = loaded
        self.fill = fill
        self.most = first
        # Rows read, malformed ones included, and the errors of the malformed ones that were skipped.
        self.total = 0
        self.bad: list[InputError] = []
        self.tally = Tally()
        # Content of a prompt -> the place where it stands first.
        self._first_place: dict[str, int] = {}

    def rows(self, seed: int, seen: dict[str, str]) -> list[Located]:
        """The rows, in their order.

        Args:
            seed: decides the order; the first `count` rows of it are taken.
            seen: ids of other sources; the ids of these rows are added.

        Raises:
            InputError: a row is malformed (with on_bad_row: skip, too many are), too many gold answers cannot be read,
                or there are no rows.
        """
        # Without a count all rows are taken, so they are kept from the first reading.
        kept_rows: dict[int, Located] | None = {} if self.source.count is None else None
        order = self._order(seed, kept_rows)

        taken: list[Located] = []
        unreadable: list[str] = []
        checked = 0
        wanted = self.source.count or len(order)
        while len(taken) < wanted and checked < len(order):
            places = order[checked : checked + max(_CHECKED_AT_ONCE, wanted - len(taken))]
            located = self._fetch(places, kept_rows)
            for (where, row), reason in zip(located, self._gold_reasons(located), strict=True):
                if len(taken) == wanted:
                    break
                checked += 1
                if reason:
                    unreadable.append(f"{where} ({row.get('answer')!r})")
                    self.loaded.dropped.append({**row, "reason": reason})
                    continue
                # Of rows without an id, equal ones have one id.
                if row["id"] in seen and is_made_of_contents(row["id"]):
                    self._leave_out(row, where, EQUAL_ROW)
                    continue
                # Ids of rows that are not taken may repeat.
                if self._has_new_id(row, where, seen):
                    taken.append((where, row))

        self._report(unreadable, checked)
        if self.kind is Prompts:
            self.loaded.prompts.update(content_key(row["prompt"]) for _, row in taken)
        count = self.source.count
        if count and len(taken) < count:
            warnings.warn(
                f"{self.source.name}: the source has {len(taken)} rows, fewer than the `count` of {count}",
                stacklevel=2,
            )
        return taken

    def check_first(self) -> list[Row]:
        """The rows of the split among the first ones, checked as far as that is quick: no formula is compared.

        Raises:
            InputError: as `rows`.
        """
        seen: dict[str, str] = {}
        located: list[Located] = []
        for place, where, row in self._shaped():
            if row["id"] in seen and is_made_of_contents(row["id"]):
                continue
            if self.kind is Prompts and self._is_equal_prompt(content_key(row["prompt"]), place):
                continue
            if self._has_new_id(row, where, seen):
                located.append((where, row))

        rows = [row for _, row in located]
        reasons = unreadable_gold(rows, formulas=False) if self.kind is Prompts else [None] * len(rows)
        unreadable = [
            f"{where} ({row['answer']!r})"
            for (where, row), reason in zip(located, reasons, strict=True)
            if reason
        ]
        self._report(unreadable, len(rows))
        return rows

    def _order(self, seed: int, kept_rows: dict[int, Located] | None) -> list[int]:
        """The places of all rows, in the order in which they are taken; fills `kept_rows` if it is given."""
        keys: list[tuple[int, str, int]] = []
        equal: set[int] = set()
        for place, where, row in self._shaped():
            # The id decides between rows of equal content.
            content = content_key(_question(row))
            if self._is_equal_prompt(content, place):
                self._leave_out(row, where, EQUAL_PROMPT)
                equal.add(place)
            elif kept_rows is not None:
                kept_rows[place] = (where, row)
            keys.append((int(content, 16), row["id"], place))
        if not self.total:
            raise InputError("the dataset is empty", self.source.name, "give at least one row")

        # First by content, so that neither the order of a file nor the names of files matter; then by the seed.
        keys.sort()
        random.Random(seed).shuffle(keys)
        return [place for _, _, place in keys if place not in equal]

    def _is_equal_prompt(self, content: str, place: int) -> bool:
        """Whether an earlier row asks the same; one prompt may have several replies, so only prompts are compared."""
        if self.kind is not Prompts:
            return False
        return content in self.loaded.prompts or self._first_place.setdefault(content, place) != place

    def _leave_out(self, row: Row, where: str, reason: str) -> None:
        """Add a row that is not used to `dropped`."""
        self.tally.count(reason, where)
        self.loaded.dropped.append({"id": row["id"], "where": where, "reason": reason})

    def _fetch(self, places: list[int], kept_rows: dict[int, Located] | None) -> list[Located]:
        """The rows of these places, kept from the first reading or read again."""
        if kept_rows is not None:
            return [kept_rows.pop(place) for place in places]
        chosen = set(places)
        rows = {place: (where, row) for place, where, row in self._shaped(chosen) if place in chosen}
        return [rows[place] for place in places]

    def _gold_reasons(self, located: list[Located]) -> list[str | None]:
        """For each row, why its gold answer cannot be used."""
        if self.kind is not Prompts:
            return [None] * len(located)
        return unreadable_gold([row for _, row in located])

    def _shaped(self, only: set[int] | None = None) -> Iterator[tuple[int, str, Row]]:
        """(place, where, row) of every row in the split.

        Args:
            only: places of the second reading, which counts and reports nothing again; other rows may be passed over.
        """
        first_time = only is None
        missing_columns = set(self.source.where)
        raws = raw_rows(self.source, self._count_malformed if first_time else _ignore)
        for number, (where, raw) in enumerate(islice(raws, self.most)):
            place = PARTS * number
            if first_time:
                self.total += 1
                missing_columns -= raw.keys()
            elif only.isdisjoint(range(place, place + PARTS)):
                continue
            if not selected(raw, self.source):
                continue

            tally = self.tally if first_time else Tally()
            try:
                rows = self._shape(raw, where, tally)
            except Skip as skip:
                if first_time:
                    name = str(raw.get("id", where))
                    self.loaded.dropped.append({"id": name, "where": where, "reason": str(skip)})
                continue
            except InputError as error:
                if first_time:
                    self._skip_malformed(error)
                continue

            assert len(rows) <= PARTS
            for part, row in enumerate(rows):
                if not self._in_split(row):
                    continue
                reason = tally.look_at_chat(row, where) if self.kind is Chats else ""
                if not reason:
                    yield place + part, where, row
                elif first_time:
                    self.loaded.dropped.append({"id": row["id"], "where": where, "reason": reason})

        if first_time and self.total and missing_columns and self.most is None:
            raise InputError(
                f"no row has the column {min(missing_columns)!r}, which `where` names",
                self.source.name,
                "`where` takes the file's own names",
            )

    def _shape(self, raw: Row, where: str, tally: Tally) -> list[Row]:
        """The rows that a raw row gives, checked except for their ids."""
        rows = []
        note = tally.note_of(where)
        for shaped in SHAPES[self.source.shape](raw, self.source, where):
            rows += finish(shaped, self.kind, self.source, where, fill=self.fill, note=note)
        for row in rows:
            check_row(row, self.kind, where, {})
            tally.look_at_texts(row, where)
        return rows

    def _in_split(self, row: Row) -> bool:
        if self.source.split == "all":
            return True
        return split_of(_question(row), self.source.shares) == self.source.split

    def _has_new_id(self, row: Row, where: str, seen: dict[str, str]) -> bool:
        """Whether a row's id is the first of its kind; a row whose id is not is malformed."""
        try:
            check_id(row, where, seen)
        except InputError as error:
            self._skip_malformed(error)
            return False
        return True

    def _count_malformed(self, error: InputError) -> None:
        """A raw row that cannot even be read."""
        self.total += 1
        self._skip_malformed(error)

    def _skip_malformed(self, error: InputError) -> None:
        """Add the row to `dropped`; raise if the source allows no malformed row."""
        if self.source.on_bad_row == "refuse":
            raise error
        self.bad.append(error)
        self.loaded.dropped.append(
            {"id": error.where, "where": error.where, "reason": MALFORMED, "detail": error.what}
        )

    def _report(self, unreadable: list[str], checked: int) -> None:
        """Raise if more rows are left out than the source allows; warn if any are."""
        source = self.source
        # Whether replies should have thinking is said by the stage that trains on them.
        share = source.max_bad_rows
        limits = RowLimits(
            max_empty_thinking=1,
            max_empty_replies=share,
            max_unknown_keys=share,
            max_control_tokens=share,
        )
        self.tally.report(limits, source.name, "max_bad_rows")
        # Of the answers, only those of the rows that were needed have been read.
        if len(unreadable) > source.max_unparseable * checked:
            raise InputError(
                f"{len(unreadable)} of {checked} rows have an answer that cannot be read; "
                f"{source.max_unparseable:.0%} may",
                "; ".join(unreadable[:3]),
                "correct or remove them, map another column with `columns: {answer: ...}`, use `answer_after`, "
                "or raise `max_unparseable`",
            )
        if len(self.bad) > source.max_bad_rows * self.total:
            raise InputError(
                f"{len(self.bad)} of {self.total} rows are malformed; {source.max_bad_rows:.0%} may be",
                "; ".join(f"{error.where}: {error.what}" for error in self.bad[:3]),
                "correct or remove them, or raise `max_bad_rows`",
            )

        if unreadable:
            warnings.warn(
                f"{source.name}: {len(unreadable)} of {checked} rows skipped because their answer cannot be read, "
                f"e.g. {unreadable[0]}",
                stacklevel=3,
            )
        if self.bad:
            first = self.bad[0]
            warnings.warn(
                f"{source.name}: {len(self.bad)} of {self.total} rows skipped as malformed, "
                f"e.g. {first.where}: {first.what}",
                stacklevel=3,
            )


def raw_rows(source: Source, on_bad: Bad = refuse) -> Iterator[Located]:
    """The rows of a source of files or of the hub as they are there; `on_bad` is called for each malformed one."""
    if source.hub:
        from r1pipe.data.hub_datasets import read_hub

        yield from read_hub(source, on_bad)
    for path in source.paths:
        for match in matches(in_home(path)):
            yield from read_raw(match, on_bad)


def selected(raw: Mapping[str, Any], source: Source) -> bool:
    """Whether the source's `where` takes this row."""
    for column, wanted in source.where.items():
        value = str(raw.get(column))
        if isinstance(wanted, list):
            taken = value in map(str, wanted)
        else:
            taken = (
                re.fullmatch(r"-?\d{1,18}", value) is not None and wanted.least <= int(value) <= wanted.most
            )
        if not taken:
            return False
    return True


def _ignore(error: InputError) -> None:
    """The first reading has reported this error."""


def _question(row: Row) -> str:
    if "prompt" in row:
        return row["prompt"]
    # A system turn may be the same in all rows.
    asked = [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
    return (asked or [row["messages"][0]["content"]])[0]
