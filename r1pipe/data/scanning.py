"""Datasets of any size read once: every row checked, measured by several processes and copied to one file, from which it can be fetched by number.

Memory does not hold rows: of each, an entry of fixed size stays in a second file (its place, domain, lengths, 5-gram band keys and contamination),
which is all that mixing needs. Entries are appended after the rows that they describe, so a killed scan goes on behind the last entry.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import numpy as np
import xxhash

from r1pipe.artifacts import Artifact
from r1pipe.data import near_duplicates as dedup
from r1pipe.data.card import rounds_of, texts_of, token_counter, tokens_of
from r1pipe.data.decontamination import Benchmarks
from r1pipe.data.files import UNREADABLE, dataset_files, open_lines, read_lines, read_raw
from r1pipe.data.io import check_row, line, rename
from r1pipe.data.review import Reviews
from r1pipe.errors import InputError
from r1pipe.text.ngrams import hash_texts

ROWS, ENTRIES = "rows.bin", "entries.bin"
COLUMNS = ("end", "id", "input", "domain")  # of an entry, known when a row is read
_CHUNK = 1 << 20  # bytes of rows that one process measures at a time
_ALONE = 8 << 20  # bytes of input below which starting processes takes longer than they save


@dataclass(frozen=True)
class Measure:
    """What is found out about each row beside its lengths.

    Attributes:
        threshold: of near-duplicates; None looks for none.
        benchmarks: None looks for no contamination.
        tokenizer: a checkpoint; None counts no tokens.
    """

    threshold: float | None = None
    benchmarks: Benchmarks | None = None
    tokenizer: Path | None = None

    @property
    def entry(self) -> np.dtype:
        """Of one row; `owner` is a benchmark row or -1, `at` the first of its `shared` words."""
        bands = 0 if self.threshold is None else dedup.HASHES // dedup.band_rows(self.threshold)
        place = [("end", "i8"), ("id", "u8"), ("input", "i4"), ("domain", "i4"), ("rounds", "i4"), ("characters", "i8")]
        return np.dtype(
            [*place, ("tokens", "i8"), ("owner", "i8"), ("at", "i8"), ("shared", "i8"), ("bands", "u8", (bands,))]
        )

    def __call__(self, file: Path, start: int, end: int) -> np.ndarray:
        """Entries (R,) of the R rows in these bytes of a file, without their place."""
        with file.open("rb") as stream:
            lines = os.pread(stream.fileno(), end - start, start).splitlines()
        rows = [json.loads(line) for line in lines]
        texts = [texts_of(row) for row in rows]
        entries = np.zeros(len(texts), self.entry)
        entries["owner"] = -1
        entries["rounds"] = [rounds_of(row) for row in rows]
        entries["characters"] = [sum(map(len, row)) for row in texts]
        if self.threshold is not None or self.benchmarks is not None:
            hashes, offsets = hash_texts(["\n".join(row) for row in texts], dedup.NGRAM)
            if self.threshold is not None:
                entries["bands"] = dedup.bands(hashes, offsets, self.threshold)
            if self.benchmarks is not None:
                entries["owner"], entries["at"], entries["shared"] = self.benchmarks.find(hashes, offsets)
        if self.tokenizer is not None:
            entries["tokens"] = tokens_of(texts, token_counter(self.tokenizer))
        return entries


class Scan:
    """Rows on disk, by number.

    Attributes:
        entries: (R,) of Measure.entry.
        domains: the names behind the column `domain`.
        renamed: row -> its new id, where an earlier dataset has its own.
    """

    def __init__(self, folder: Path, measure: Measure, paths: Mapping[str, Path], domains: list[str]) -> None:
        self.entries: np.ndarray = np.memmap(folder / ENTRIES, measure.entry, "r")
        self.inputs, self.domains = list(paths), domains
        self.counts_tokens = measure.tokenizer is not None
        self._rows = (folder / ROWS).open("rb")  # read by pread: mapped pages would count as our memory
        self._ends = np.ascontiguousarray(self.entries["end"])
        self.renamed = self._renamed(paths)

    def _renamed(self, paths: Mapping[str, Path]) -> dict[int, str]:
        """The new id of every row whose id an earlier dataset has.

        Raises:
            InputError: an id stands twice in one dataset.
        """
        hashes = self.entries["id"]
        order = np.argsort(hashes, kind="stable")  # rows of one hash stay in their order
        hashes = hashes[order]
        starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
        ends = np.append(starts[1:], len(order))
        names: dict[int, str] = {}
        taken: set[str] = set()
        for start, end in np.column_stack([starts, ends])[ends - starts > 1].tolist():
            holders: dict[str, list[str]] = {}  # the id itself, since two may share a hash -> the datasets that have it
            for row in order[start:end].tolist():
                name, holder = json.loads(self._bytes(row))["id"], self.input(row)
                if holder in (others := holders.setdefault(name, [])):
                    raise _twice(paths[holder], name)
                others.append(holder)
                if len(others) > 1:
                    new = f"{name}@{holder}"
                    while new in taken or _holds(hashes, _hash(new)):
                        new += f"@{holder}"
                    names[row] = new
                    taken.add(new)
        return names

    def _bytes(self, row: int) -> bytes:
        """The row as it was read."""
        start = int(self._ends[row - 1]) if row else 0
        return os.pread(self._rows.fileno(), int(self._ends[row]) - start, start)

    def line(self, row: int) -> bytes:
        """The row as a line of JSON, its id new where an earlier dataset has it."""
        found = self._bytes(row)
        return line({**json.loads(found), "id": self.renamed[row]}) if row in self.renamed else found

    def row(self, row: int) -> dict[str, Any]:
        return json.loads(self.line(row))

    def text(self, row: int) -> str:
        """What near-duplicates and contamination are judged by."""
        return "\n".join(texts_of(self.row(row)))

    def input(self, row: int) -> str:
        return self.inputs[self.entries["input"][row]]


def scan(
    paths: Mapping[str, Path],
    kind: type[Artifact],
    measure: Measure,
    folder: Path,
    tell: Callable[[int, int], None],
    reviews: Reviews | None = None,
) -> Scan:
    """Read datasets, in the order given.

    Args:
        paths: name -> dataset.
        kind: whose column contract every row must keep.
        folder: for what is kept of the scan; an earlier, unfinished scan in it is gone on with.
        tell: called with (rows done, rows in all).
        reviews: decides on every row; a rejected one has no number.

    Raises:
        InputError: as read_rows.
    """
    total = sum(count_rows(file) for path in paths.values() for file in dataset_files(path))
    size = sum(file.stat().st_size for path in paths.values() for file in dataset_files(path))
    domains: dict[str, int] = {}
    with (folder / ROWS).open("ab", buffering=_CHUNK) as rows, (folder / ENTRIES).open("ab") as entries:
        done = entries.tell() // measure.entry.itemsize
        entries.truncate(done * measure.entry.itemsize)
        rows.truncate(int(np.memmap(folder / ENTRIES, measure.entry, "r")["end"][-1]) if done else 0)
        chunks = _chunks(paths, kind, domains, done, rows, reviews)
        for columns, found in _measured(chunks, measure, folder / ROWS, _processes() if size > _ALONE else 0):
            for column, values in columns.items():
                found[column] = values
            entries.write(found.tobytes())
            entries.flush()
            done += len(found)
            tell(min(done, total), total)
    return Scan(folder, measure, paths, list(domains))


Chunk = dict[str, list[int]]
"""The COLUMNS of some rows in a row."""


def _chunks(
    paths: Mapping[str, Path],
    kind: type[Artifact],
    domains: dict[str, int],
    skip: int,
    file: BinaryIO,
    reviews: Reviews | None,
) -> Iterator[tuple[int, Chunk]]:
    """Check all rows and write those behind the first `skip` to `file`; gives where each chunk starts, and its columns.

    `domains` is filled with a number for each domain, in order of appearance.
    """
    number = 0
    start = end = file.seek(0, os.SEEK_END)
    chunk: Chunk = {name: [] for name in COLUMNS}
    for place, (name, path) in enumerate(paths.items()):
        where = ""
        for where, raw, text in read_lines(path):
            row = rename(raw, {}, where) if None in raw.values() else raw
            check_row(row, kind, where, {})  # whether an id stands twice is found out at the end, from the entries
            if reviews and (row := reviews(name, row)) is None:
                continue
            number += 1
            domain = domains.setdefault(row["domain"], len(domains))
            if number <= skip:
                continue
            end += file.write(_as_it_stands(text) if row is raw and text else line(row))
            for column, value in zip(COLUMNS, (end, _hash(row["id"]), place, domain), strict=True):
                chunk[column].append(value)
            if end - start >= _CHUNK:
                file.flush()
                yield start, chunk
                start, chunk = end, {name: [] for name in COLUMNS}
        if not where:
            raise InputError("the dataset is empty", str(path), "give at least one row")
    file.flush()
    if end > start:
        yield start, chunk


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


def _holds(ordered: np.ndarray, value: int) -> bool:
    place = int(np.searchsorted(ordered, np.uint64(value)))
    return place < len(ordered) and int(ordered[place]) == value


def _as_it_stands(text: bytes) -> bytes:
    """A line of a file as a line of ours: not written anew where it is one already, which was half of the reading."""
    text = text.strip().removeprefix(b"\xef\xbb\xbf")
    return line(json.loads(text)) if b"\\u" in text or b"\r" in text else text + b"\n"


def _measured(
    chunks: Iterator[tuple[int, Chunk]], measure: Measure, file: Path, processes: int
) -> Iterator[tuple[Chunk, np.ndarray]]:
    """Each chunk with its entries, in order, so that the number of processes changes nothing."""
    if not processes:
        yield from ((chunk, measure(file, start, chunk["end"][-1])) for start, chunk in chunks)
        return
    waiting: deque[tuple[Chunk, Future[np.ndarray]]] = deque()
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, (measure,)) as pool:
        for start, chunk in chunks:
            # Texts are read there and not sent: with more in its pipe than that holds, a pool whose process was killed hangs (until Python 3.11.8).
            waiting.append((chunk, pool.submit(_measure, file, start, chunk["end"][-1])))
            if len(waiting) > 2 * processes:
                first, entries = waiting.popleft()
                yield first, entries.result()
        yield from ((chunk, entries.result()) for chunk, entries in waiting)


_here: list[Measure] = []  # of a measuring process


def _start(measure: Measure) -> None:
    os.environ |= {
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }  # one thread each, since there is a process for every core
    _here.append(measure)
    parent = parent_process()
    assert parent is not None
    Thread(
        target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True
    ).start()  # a killed parent could not end us


def _measure(file: Path, start: int, end: int) -> np.ndarray:
    return _here[0](file, start, end)


def _processes() -> int:
    return len(os.sched_getaffinity(0))


def count_rows(file: Path) -> int:
    """Rows of a file: exact for Parquet; of JSON lines the lines, empty ones too."""
    if file.name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_metadata(file).num_rows
        except (pyarrow.ArrowInvalid, OSError):
            return 0  # the reader will say what is wrong
    try:
        with open_lines(file) as stream:
            return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b"")) + 1
    except UNREADABLE:
        return 0


def _twice(path: Path, name: str) -> InputError:
    places = islice((where for where, row in read_raw(path) if row.get("id") == name), 2)
    return InputError(f"the id {name!r} stands twice", " and ".join(places), "ids are unique in a dataset")
