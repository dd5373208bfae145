"""Lines that are appended as they come and survive a kill: one JSON object with a `key` each."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any, BinaryIO

from r1pipe.generation import Key

SYNC_EVERY_S = 1.0  # a kill of the process loses nothing that was appended; a crash of the machine at most so many seconds


class Journal:
    """A file for appending, made by the first line; a last line that a kill cut short is removed before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None
        self._synced = time.monotonic()

    def append(self, key: Key, **record: Any) -> None:
        self._stream = self._stream or _open(self._path)
        self._stream.write(json.dumps({"key": key, **record}, ensure_ascii=False).encode() + b"\n")
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


def read_journals(folder: Path, label: str) -> dict[Key, dict[str, Any]]:
    """Every whole line of a label's files, by key: of all ranks, also of an attempt with another number of them."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if re.fullmatch(rf"{re.escape(label)}-\d+-of-\d+\.jsonl", path.name)):
        with path.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    record = json.loads(line)
                    found[tuple(record["key"])] = record
    return found
