"""Records on disk that survive a kill: JSON lines with a `key`, a `digest` of what the key stood for, and a checksum.

A key may be a number (the third batch), which stands for other rows where the rows are others. So a record counts only
where both the key and the digest agree.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from r1pipe.generation.contract import Key
from r1pipe.here import Here
from r1pipe.text.regular_files import open_regular

# A kill of the process loses nothing that was appended; a crash of the machine loses at most these seconds.
SYNC_EVERY_S = 1.0


class Journal:
    """A file for appending, which the first record creates. Thread-safe.

    A last line that a kill cut short is removed before the first record is appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stream: BinaryIO | None = None
        self._synced = time.monotonic()

    def append(self, key: Key, digest: str, **record: Any) -> None:
        """Append a record, whose fields are JSON."""
        body = json.dumps({"key": key, "digest": digest, **record}, ensure_ascii=False).encode()[:-1]
        line = body + _sum(body)
        with self._lock:
            self._stream = self._stream or _open(self._path)
            self._stream.write(line)
            self._stream.flush()
            if time.monotonic() - self._synced > SYNC_EVERY_S:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        """Write everything through to the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()


_SUM = b', "crc": '


def _sum(body: bytes) -> bytes:
    """The end of a line: a checksum of what stands before it."""
    return _SUM + b"%d}\n" % crc32(body)


def _open(path: Path) -> BinaryIO:
    stream = path.open("a+b")
    stream.seek(0)
    whole_lines = sum(len(line) for line in stream if line.endswith(b"\n"))
    stream.truncate(whole_lines)
    return stream


def digest_of(*parts: Any) -> str:
    """Return a digest of values that are JSON."""
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


class JournalRecords:
    """The records of a label's journals: of all ranks, also of an attempt with another number of ranks.

    Attributes:
        stale: keys that were looked up and whose records were made from something else.
    """

    def __init__(self, folder: Path, label: str) -> None:
        self._by_key: dict[Key, dict[str, dict[str, Any]]] = {}
        self.stale: set[Key] = set()
        name = re.compile(rf"{re.escape(label)}-\d+-of-\d+\.jsonl")
        for path in sorted(path for path in folder.iterdir() if name.fullmatch(path.name)):
            self._read(path)

    def _read(self, path: Path) -> None:
        damaged = 0
        with open_regular(path) as stream:
            for line in stream:
                # A kill may have cut the last line short.
                if not line.endswith(b"\n"):
                    continue
                body, _, _ = line.rpartition(_SUM)
                if line != body + _sum(body):
                    damaged += 1
                    continue
                record = json.loads(line)
                by_digest = self._by_key.setdefault(tuple(record["key"]), {})
                by_digest[record["digest"]] = record
        if damaged:
            warnings.warn(
                f"{path}: {damaged} damaged lines are left out; what they held is made anew", stacklevel=2
            )

    def all(self) -> list[dict[str, Any]]:
        """Return every record that was not taken."""
        return [record for by_digest in self._by_key.values() for record in by_digest.values()]

    def take(self, key: Key, digest: str) -> dict[str, Any] | None:
        """Return the record of what the key stands for now, and forget it."""
        by_digest = self._by_key.get(key, {})
        record = by_digest.pop(digest, None)
        if record is None and by_digest:
            self.stale.add(key)
        return record


class Job(NamedTuple):
    """Something to do once.

    Attributes:
        key: its name.
        digest: of what the key stands for.
        work: returns a record that is JSON, and whether it is final. A later attempt does again what is not final.
    """

    key: Key
    digest: str
    work: Callable[[], tuple[dict[str, Any], bool]]


def do_once(here: Here, label: str, jobs: Sequence[Job], max_in_flight: int) -> list[dict[str, Any]]:
    """Do the jobs that no earlier attempt has done; return the records of all, in order.

    Args:
        here: where the stage runs; records are kept in its workdir as they come.
        label: the journal's name, and what the progress bar says.
        jobs: what to do.
        max_in_flight: jobs at the same time.
    """
    earlier = JournalRecords(here.workdir, label)
    journal = Journal(here.workdir / f"{label}-0-of-1.jsonl")
    known = [earlier.take(job.key, job.digest) for job in jobs]

    def record_of(job: Job, record: dict[str, Any] | None) -> dict[str, Any]:
        if record is None:
            record, final = job.work()
            if final:
                journal.append(job.key, job.digest, **record)
        return record

    records: list[dict[str, Any]] = []
    try:
        with ThreadPoolExecutor(max_in_flight) as threads:
            for record in threads.map(record_of, jobs, known):
                records.append(record)
                here.progress(len(records), len(jobs), what=label)
    finally:
        journal.close()
    return records
