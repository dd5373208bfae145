"""Lines that are appended as they come and survive a kill: one JSON object each, with a `key` and a `digest` of what the key stood for.

A key may be a number (the third batch), which stands for other rows where the rows are others; so a record counts only where both agree.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from r1pipe.generation import Key
from r1pipe.here import Here

SYNC_EVERY_S = (
    1.0  # a kill of the process loses nothing that was appended; a crash of the machine at most so many seconds
)


class Journal:
    """A file for appending, made by the first line; a last line that a kill cut short is removed before. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._stream: BinaryIO | None = None
        self._synced = time.monotonic()

    def append(self, key: Key, digest: str, **record: Any) -> None:
        line = json.dumps({"key": key, "digest": digest, **record}, ensure_ascii=False).encode() + b"\n"
        with self._lock:
            self._stream = self._stream or _open(self._path)
            self._stream.write(line)
            self._stream.flush()
            if time.monotonic() - self._synced > SYNC_EVERY_S:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()


def _open(path: Path) -> BinaryIO:
    stream = path.open("a+b")
    stream.seek(0)
    stream.truncate(sum(len(line) for line in stream if line.endswith(b"\n")))
    return stream


def digest_of(*parts: Any) -> str:
    """Of anything that is JSON."""
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


class Found:
    """The records of a label's files: of all ranks, also of an attempt with another number of them."""

    def __init__(self, folder: Path, label: str) -> None:
        self._records: dict[Key, dict[str, dict[str, Any]]] = {}
        self.passed_over: set[Key] = set()  # keys that were asked for and stood for something else
        for path in sorted(
            path for path in folder.iterdir() if re.fullmatch(rf"{re.escape(label)}-\d+-of-\d+\.jsonl", path.name)
        ):
            with path.open("rb") as stream:
                for line in stream:
                    if line.endswith(b"\n"):
                        record = json.loads(line)
                        self._records.setdefault(tuple(record["key"]), {})[record["digest"]] = record

    def all(self) -> list[dict[str, Any]]:
        return [record for by_digest in self._records.values() for record in by_digest.values()]

    def take(self, key: Key, digest: str) -> dict[str, Any] | None:
        """The record of what the key stands for now, once."""
        by_digest = self._records.get(key, {})
        record = by_digest.pop(digest, None)
        if record is None and by_digest:
            self.passed_over.add(key)
        return record


class Job(NamedTuple):
    """Something to be done once: `work` gives a record that is JSON, and whether it is final; what is not is done again by a later attempt."""

    key: Key
    digest: str
    work: Callable[[], tuple[dict[str, Any], bool]]


def do_once(here: Here, label: str, jobs: Sequence[Job], at_a_time: int) -> list[dict[str, Any]]:
    """The records of all jobs, in order; those of earlier attempts are taken from workdir, new ones are kept there as they come."""
    found, journal = Found(here.workdir, label), Journal(here.workdir / f"{label}-0-of-1.jsonl")
    known = [found.take(job.key, job.digest) for job in jobs]
    records: list[dict[str, Any]] = []

    def done(job: Job, record: dict[str, Any] | None) -> dict[str, Any]:
        if record is None:
            record, final = job.work()
            if final:
                journal.append(job.key, job.digest, **record)
        return record

    try:
        with ThreadPoolExecutor(at_a_time) as threads:
            for record in threads.map(done, jobs, known):
                records.append(record)
                here.progress(len(records), len(jobs), what=label)
    finally:
        journal.close()
    return records
