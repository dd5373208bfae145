"""Datasets of any size, read once: every row is checked, measured, and copied to a file that gives rows by number.

Rows are not kept in memory. For each row, an entry of fixed size goes to a second file: its place, domain, lengths,
band keys and contamination, which is all that mixing needs. Entries are appended after the rows that they describe, so
a killed scan continues behind the last entry.
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
from typing import BinaryIO

import numpy as np
import xxhash

from r1pipe.artifacts import Artifact
from r1pipe.data import near_duplicates
from r1pipe.data.card import CARD, rounds_of, texts_of, token_counter, tokens_of
from r1pipe.data.decontamination import Benchmarks
from r1pipe.data.files import UNREADABLE, Row, dataset_files, open_lines, read_lines, read_raw
from r1pipe.data.io import check_row, in_our_columns, json_line, repeated_id
from r1pipe.data.review import Reviews
from r1pipe.data.row_checks import Tally
from r1pipe.errors import InputError
from r1pipe.schema import RowLimits
from r1pipe.text.ngrams import hash_texts

ROWS, ENTRIES = "rows.bin", "entries.bin"

# The columns of an entry that are known when a row is read.
COLUMNS = ("end", "id", "input", "domain")

# Bytes of rows that one process measures at a time.
_CHUNK = 1 << 20

# Bytes of input below which starting processes takes longer than they save.
_ALONE = 8 << 20


# --- one row: its measurements ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Measures rows. The lengths are always measured, the rest if it is asked for."""

    threshold: float | None = None
    """of near-duplicates; None looks for none"""

    benchmarks: Benchmarks | None = None
    """None looks for no contamination"""

    tokenizer: Path | None = None
    """a checkpoint; None counts no tokens"""

    @property
    def entry(self) -> np.dtype:
        """The type of a row's entry."""
        bands = 0
        if self.threshold is not None:
            bands = near_duplicates.HASHES // near_duplicates.band_rows(self.threshold)
        return np.dtype(
            [
                # The byte of ROWS behind the row, and the hash of its id.
                ("end", "i8"),
                ("id", "u8"),
                # Numbers of the input and of the domain.
                ("input", "i4"),
                ("domain", "i4"),
                ("rounds", "i4"),
                ("characters", "i8"),
                ("tokens", "i8"),
                # The benchmark row that shares an n-gram, or -1; the word where this begins; and its words.
                ("owner", "i8"),
                ("at", "i8"),
                ("shared", "i8"),
                ("bands", "u8", (bands,)),
            ]
        )

    def __call__(self, file: Path, start: int, end: int) -> np.ndarray:
        """The entries (R,) of the R rows in these bytes of a file, without COLUMNS."""
        with file.open("rb") as stream:
            lines = os.pread(stream.fileno(), end - start, start).splitlines()
        rows = [json.loads(line) for line in lines]
        texts = [texts_of(row) for row in rows]

        entries = np.zeros(len(texts), self.entry)
        entries["owner"] = -1
        entries["rounds"] = [rounds_of(row) for row in rows]
        entries["characters"] = [sum(map(len, texts_of_row)) for texts_of_row in texts]
        if self.threshold is not None or self.benchmarks is not None:
            joined = ["\n".join(texts_of_row) for texts_of_row in texts]
            hashes, offsets = hash_texts(joined, near_duplicates.NGRAM)
            if self.threshold is not None:
                entries["bands"] = near_duplicates.bands(hashes, offsets, self.threshold)
            if self.benchmarks is not None:
                entries["owner"], entries["at"], entries["shared"] = self.benchmarks.find(hashes, offsets)
        if self.tokenizer is not None:
            entries["tokens"] = tokens_of(texts, token_counter(self.tokenizer))
        return entries


# --- all rows: a finished scan ----------------------------------------------------------------------------------------


class Scan:
    """Rows on disk, by number.

    Attributes:
        entries: (R,) of Measure.entry.
        inputs: the names behind the column `input`.
        domains: the names behind the column `domain`.
        counts_tokens: whether the column `tokens` is measured.
        renamed: row -> its new id, if an earlier dataset has the row's own.
    """

    def __init__(self, folder: Path, measure: Measure, paths: Mapping[str, Path], domains: list[str]) -> None:
        self.entries: np.ndarray = np.memmap(folder / ENTRIES, measure.entry, "r")
        self.inputs = list(paths)
        self.domains = domains
        self.counts_tokens = measure.tokenizer is not None
        # Read by pread: mapped pages would count as our memory.
        self._rows = (folder / ROWS).open("rb")
        self._ends = np.ascontiguousarray(self.entries["end"])
        self.renamed = self._renamed(paths)

    def _renamed(self, paths: Mapping[str, Path]) -> dict[int, str]:
        """The new id of every row whose id an earlier dataset has.

        Raises:
            InputError: an id appears twice in one dataset.
        """
        # Rows with one hash are neighbours in this order, and stay in their own order.
        hashes = self.entries["id"]
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
        ends = np.append(starts[1:], len(order))
        several = ends - starts > 1

        renamed: dict[int, str] = {}
        taken: set[str] = set()
        for start, end in np.column_stack([starts, ends])[several].tolist():
            # Different ids may share a hash, so the ids themselves are compared: id -> the datasets that have it.
            holders: dict[str, list[str]] = {}
            for row in order[start:end].tolist():
                name = json.loads(self._bytes(row))["id"]
                dataset = self.input(row)
                others = holders.setdefault(name, [])
                if dataset in others:
                    raise _repeated_id(paths[dataset], name)
                others.append(dataset)
                if len(others) == 1:
                    continue
                new = f"{name}@{dataset}"
                while new in taken or _contains(hashes, _hash(new)):
                    new += f"@{dataset}"
                renamed[row] = new
                taken.add(new)
        return renamed

    def _bytes(self, row: int) -> bytes:
        """The row as it was read."""
        start = int(self._ends[row - 1]) if row else 0
        end = int(self._ends[row])
        return os.pread(self._rows.fileno(), end - start, start)

    def line(self, row: int) -> bytes:
        """The row as a line of JSON, with a new id if an earlier dataset has its own."""
        line = self._bytes(row)
        if row not in self.renamed:
            return line
        return json_line({**json.loads(line), "id": self.renamed[row]})

    def row(self, row: int) -> Row:
        """The row as a dict."""
        return json.loads(self.line(row))

    def text(self, row: int) -> str:
        """The text that near-duplicates and contamination are found by."""
        return "\n".join(texts_of(self.row(row)))

    def input(self, row: int) -> str:
        """The name of the dataset that the row is from."""
        return self.inputs[self.entries["input"][row]]


def _repeated_id(path: Path, name: str) -> InputError:
    places = (where for where, row in read_raw(path) if row.get("id") == name)
    return repeated_id(name, " and ".join(islice(places, 2)))


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


def _contains(ordered: np.ndarray, value: int) -> bool:
    place = int(np.searchsorted(ordered, np.uint64(value)))
    return place < len(ordered) and int(ordered[place]) == value


# --- the scan ---------------------------------------------------------------------------------------------------------


def scan(
    paths: Mapping[str, Path],
    kind: type[Artifact],
    measure: Measure,
    folder: Path,
    *,
    progress: Callable[[int, int], None],
    reviews: Reviews | None = None,
) -> Scan:
    """Read datasets, in the order of `paths`.

    Args:
        paths: name -> dataset.
        kind: the kind whose column contract every row must keep.
        folder: where the files of the scan are; an unfinished scan in it is continued.
        progress: called with (rows done, rows in all).
        reviews: decides on every row; a rejected one gets no number.

    Raises:
        InputError: as read_rows.
    """
    files = [file for path in paths.values() for file in dataset_files(path)]
    total = sum(count_rows(file) for file in files)
    size = sum(file.stat().st_size for file in files)
    processes = _processes() if size > _ALONE else 0

    with (folder / ROWS).open("ab", buffering=_CHUNK) as rows, (folder / ENTRIES).open("ab") as entries:
        # A kill may leave a part of an entry, and rows without an entry.
        done = entries.tell() // measure.entry.itemsize
        entries.truncate(done * measure.entry.itemsize)
        end = 0
        if done:
            written = np.memmap(folder / ENTRIES, measure.entry, "r")
            end = int(written["end"][-1])
        rows.truncate(end)

        reader = _Reader(paths, kind, rows, skip=done, reviews=reviews)
        for columns, measured in _measured(reader.chunks(), measure, folder / ROWS, processes):
            for column, values in columns.items():
                measured[column] = values
            entries.write(measured.tobytes())
            entries.flush()
            done += len(measured)
            progress(min(done, total), total)
    return Scan(folder, measure, paths, list(reader.domains))


Chunk = dict[str, list[int]]
"""The COLUMNS of some consecutive rows."""


class _Reader:
    """Checks all rows of datasets and appends those behind the first `skip` to a file.

    Attributes:
        domains: name -> number, in order of appearance; complete when all chunks have been read.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        kind: type[Artifact],
        file: BinaryIO,
        *,
        skip: int,
        reviews: Reviews | None,
    ) -> None:
        self.domains: dict[str, int] = {}
        self._paths = paths
        self._kind = kind
        self._file = file
        self._skip = skip
        self._reviews = reviews

    def chunks(self) -> Iterator[tuple[int, Chunk]]:
        """The byte where each chunk starts, and its columns."""
        start = end = self._file.seek(0, os.SEEK_END)
        chunk: Chunk = {name: [] for name in COLUMNS}
        for number, (dataset, row, line) in enumerate(self._rows()):
            # Domains are numbered over all rows, also those that an earlier scan has written.
            domain = self.domains.setdefault(row["domain"], len(self.domains))
            if number < self._skip:
                continue
            end += self._file.write(line or json_line(row))
            for column, value in zip(COLUMNS, (end, _hash(row["id"]), dataset, domain), strict=True):
                chunk[column].append(value)
            if end - start >= _CHUNK:
                self._file.flush()
                yield start, chunk
                start = end
                chunk = {name: [] for name in COLUMNS}
        self._file.flush()
        if end > start:
            yield start, chunk

    def _rows(self) -> Iterator[tuple[int, Row, bytes]]:
        """Each row with the number of its dataset and its line; the line is empty if it must be encoded again."""
        for dataset, (name, path) in enumerate(self._paths.items()):
            empty = True
            tally = Tally()
            is_ours = (path / CARD).is_file()
            for where, raw, text in read_lines(path):
                empty = False
                row = in_our_columns(raw, self._kind, where, tally)
                # Repeated ids are found at the end, from the entries, without holding all ids here.
                check_row(row, self._kind, where, {})
                if not is_ours:
                    tally.look_at_texts(row, where)
                if self._reviews:
                    row = self._reviews(name, row)
                if row is None:
                    continue
                yield dataset, row, _copied(text) if row is raw else b""
            if empty:
                raise InputError("the dataset is empty", str(path), "give at least one row")
            # Replies are looked at by the stage that trains on them.
            tally.report(RowLimits(), path.name, "row_limits.{}")


def _copied(text: bytes) -> bytes:
    """A line of a file as a line of ours, or nothing if the row must be encoded again.

    Copying saves half of the time of reading. Escapes are encoded again, so that people can read the text.
    """
    text = text.strip().removeprefix(b"\xef\xbb\xbf")
    if not text or b"\\u" in text or b"\r" in text:
        return b""
    return text + b"\n"


def _measured(
    chunks: Iterator[tuple[int, Chunk]],
    measure: Measure,
    file: Path,
    processes: int,
) -> Iterator[tuple[Chunk, np.ndarray]]:
    """Each chunk with its entries, in order, so that the number of processes changes nothing."""
    if not processes:
        for start, chunk in chunks:
            yield chunk, measure(file, start, chunk["end"][-1])
        return

    waiting: deque[tuple[Chunk, Future[np.ndarray]]] = deque()
    with ProcessPoolExecutor(processes, get_context("spawn"), _start_process, (measure,)) as pool:
        for start, chunk in chunks:
            # The process reads the texts itself. If they were sent and filled the pipe, a pool whose process was killed
            # would hang (until Python 3.11.8).
            waiting.append((chunk, pool.submit(_measure_chunk, file, start, chunk["end"][-1])))
            if len(waiting) > 2 * processes:
                first, entries = waiting.popleft()
                yield first, entries.result()
        for chunk, entries in waiting:
            yield chunk, entries.result()


# What a measuring process measures with; set when it starts.
_process_measure: list[Measure] = []


def _start_process(measure: Measure) -> None:
    # One thread each, since there is a process for every core.
    os.environ["RAYON_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _process_measure.append(measure)
    # A killed parent cannot end its processes, so each ends itself.
    Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _measure_chunk(file: Path, start: int, end: int) -> np.ndarray:
    return _process_measure[0](file, start, end)


def _processes() -> int:
    return len(os.sched_getaffinity(0))


def count_rows(file: Path) -> int:
    """The rows of a file, for the progress: exact for Parquet; for JSON lines, empty lines count too.

    An unreadable file has 0 rows: the reader reports what is wrong with it.
    """
    if file.name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_metadata(file).num_rows
        except (pyarrow.ArrowInvalid, OSError):
            return 0

    line_ends = 0
    try:
        with open_lines(file) as stream:
            while block := stream.read(1 << 20):
                line_ends += block.count(b"\n")
    except UNREADABLE:
        return 0
    # The last line may have no end.
    return line_ends + 1
