"""Which rows of files or of a hub dataset a source gives: shaped, split, in an order of their contents and the seed, and no more than `count`.

With a `count`, memory holds a key a row (about 0.2 KB) and the drawn rows, not the file: it is read once for the keys, and again for the rows.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from r1pipe.artifacts import Artifact, Prompts
from r1pipe.data.files import Bad, Located, matches, read_raw, refuse
from r1pipe.data.io import check_id, check_row
from r1pipe.data.shapes import SHAPES, Skip, finish, unreadable_gold
from r1pipe.errors import InputError
from r1pipe.text.splits import content_key, split_of

if TYPE_CHECKING:
    from r1pipe.data.sources import Loaded, Source

MALFORMED = "malformed row"


class Draw:
    """One source of files, or of the hub, as rows of one kind.

    Args:
        loaded: is told of what is left out.
        fill: {{name}} -> value.
    """

    def __init__(self, source: Source, kind: type[Artifact], loaded: Loaded, fill: dict[str, str]) -> None:
        self.source, self.kind, self.loaded, self.fill = source, kind, loaded, fill
        self.total = 0  # rows read, malformed ones included
        self.bad: list[InputError] = []

    def rows(self, seed: int, seen: dict[str, str]) -> list[Located]:
        """The rows, in their order.

        Args:
            seed: of the order; the first `count` rows of it are taken.
            seen: ids of other sources, to which these are added.

        Raises:
            InputError: a malformed row (or too many, with on_bad_row: skip), too many unreadable gold answers, or no row at all.
        """
        source = self.source
        held: dict[int, Located] = {}
        keys: list[tuple[int, str, int]] = []
        for place, where, row in self._shaped():
            keys.append((int(content_key(_question(row)), 16), row["id"], place))
            if source.count is None:
                held[place] = where, row
        if not self.total:
            raise InputError("the dataset is empty", source.name, "give at least one row")
        # By content, so that neither file order nor file names matter; then by the seed.
        keys.sort()
        random.Random(seed).shuffle(keys)
        order = [place for _, _, place in keys]
        del keys

        kept: list[Located] = []
        unreadable: list[str] = []
        wanted = source.count or len(order)
        checked = 0
        while len(kept) < wanted and checked < len(order):
            places = order[checked : checked + max(256, wanted - len(kept))]
            if source.count is not None:
                chosen = set(places)
                held = {place: (where, row) for place, where, row in self._shaped(chosen) if place in chosen}
            found = [held.pop(place) for place in places]
            reasons = unreadable_gold([row for _, row in found]) if self.kind is Prompts else [None] * len(found)
            for (where, row), reason in zip(found, reasons, strict=True):
                if len(kept) == wanted:
                    break
                checked += 1
                if reason:
                    unreadable.append(f"{where} ({row.get('answer')!r})")
                    self.loaded.dropped.append({**row, "reason": reason})
                    continue
                try:
                    check_id(row, where, seen)
                except InputError as error:
                    self._malformed(error)
                else:
                    kept.append((where, row))
        self._refuse_many(unreadable, checked)
        if source.count and len(kept) < source.count:
            warnings.warn(f"{source.name}: {source.count} rows were asked for and {len(kept)} are there", stacklevel=2)
        return kept

    def _shaped(self, only: set[int] | None = None) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(place, where, row) of every row in the split. The second time, for some places `only`, nothing is counted or reported again."""
        first = only is None
        missing = set(self.source.where)
        for number, (where, raw) in enumerate(raw_rows(self.source, self._broken if first else _quiet)):
            if first:
                self.total += 1
                missing -= raw.keys()
            elif only is not None and not {2 * number, 2 * number + 1} & only:
                continue
            if not selected(raw, self.source):
                continue
            try:
                rows = [
                    made
                    for one in SHAPES[self.source.shape](raw, self.source, where)
                    for made in finish(one, self.kind, self.source, where, self.fill)
                ]
                for row in rows:
                    check_row(row, self.kind, where, {})
            except Skip as skip:
                if first:
                    self.loaded.dropped.append({"id": str(raw.get("id", where)), "where": where, "reason": str(skip)})
                continue
            except InputError as error:
                if first:
                    self._malformed(error)
                continue
            assert len(rows) <= 2, "a place has room for two"
            for part, row in enumerate(rows):
                if self.source.split == "all" or split_of(_question(row), self.source.shares) == self.source.split:
                    yield 2 * number + part, where, row
        if first and self.total and missing:
            raise InputError(
                f"no row has the column {min(missing)!r}, which `where` names",
                self.source.name,
                "`where` takes the file's own names",
            )

    def _broken(self, error: InputError) -> None:
        self.total += 1
        self._malformed(error)

    def _malformed(self, error: InputError) -> None:
        if self.source.on_bad_row == "refuse":
            raise error
        self.bad.append(error)
        self.loaded.dropped.append({"id": error.where, "where": error.where, "reason": MALFORMED, "detail": error.what})

    def _refuse_many(self, unreadable: list[str], checked: int) -> None:
        """Raise where more is left out than the source allows; warn where anything is."""
        source = self.source
        if len(unreadable) > source.max_unparseable * checked:
            raise InputError(
                f"{len(unreadable)} of {checked} rows have an answer that cannot be read; {source.max_unparseable:.0%} may",
                "; ".join(unreadable[:3]),
                "correct or remove them, map another column with `columns: {answer: ...}`, use `answer_after`, or raise `max_unparseable`",
            )
        if len(self.bad) > source.max_bad_rows * self.total:
            raise InputError(
                f"{len(self.bad)} of {self.total} rows are malformed; {source.max_bad_rows:.0%} may be",
                "; ".join(f"{error.where}: {error.what}" for error in self.bad[:3]),
                "correct or remove them, or raise `max_bad_rows`",
            )
        if unreadable:
            warnings.warn(
                f"{source.name}: {len(unreadable)} of {checked} rows skipped, their answer cannot be read, e.g. {unreadable[0]}",
                stacklevel=3,
            )
        if self.bad:
            first = self.bad[0]
            warnings.warn(
                f"{source.name}: {len(self.bad)} of {self.total} rows skipped as malformed, e.g. {first.where}: {first.what}",
                stacklevel=3,
            )


def raw_rows(source: Source, bad: Bad = refuse) -> Iterator[Located]:
    """The rows of a source of files or of the hub, as they stand; `bad` is told of the malformed ones."""
    if source.hub:
        from r1pipe.data.hub_datasets import read_hub

        yield from read_hub(source, bad)
    for path in source.paths:
        for match in matches(path.expanduser()):
            yield from read_raw(match, bad)


def selected(raw: Mapping[str, Any], source: Source) -> bool:
    """Whether the source's `where` takes this row."""
    return all(str(raw.get(column)) in map(str, values) for column, values in source.where.items())


def _quiet(error: InputError) -> None:
    """What the first reading has reported."""


def _question(row: dict[str, Any]) -> str:
    return row["prompt"] if "prompt" in row else row["messages"][0]["content"]
