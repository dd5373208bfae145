"""The files in which a run keeps its books: read with care, since people copy, edit and cut them.

manifest.json and stage.json decide what is done, so each holds a checksum of the rest of it. One that does not fit is
an error that names the file; it never counts as missing, which would do a finished stage again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.text.regular_files import oddity, read_regular, reason

CHECKSUM = "checksum"
MOST_ENTRIES = 10_000  # of a folder that are looked at before a stage starts


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the checksum of the rest of it."""
    rest = {key: value for key, value in record.items() if key != CHECKSUM}
    return rest | {CHECKSUM: _checksum(rest)}


def _checksum(record: dict[str, Any]) -> str:
    # As it reads back: JSON makes texts of numbers that are keys, and lists of tuples.
    text = json.dumps(record, ensure_ascii=False)
    return hashlib.sha256(json.dumps(json.loads(text), sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path) -> dict[str, Any] | None:
    """A record that `sealed` has made; None where there is no such file.

    Raises:
        InputError: the file is damaged, or is not what was written.
    """
    try:
        record = json.loads(read_regular(path).decode("utf8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise damaged(path, reason(error)) from None
    except (ValueError, RecursionError):
        raise damaged(path, "it is cut off, or is not JSON") from None
    if not isinstance(record, dict) or CHECKSUM not in record:
        raise damaged(path, "it is not what r1pipe writes there")
    if sealed(record) != record:
        raise damaged(path, "it was changed after it was written")
    return record


def damaged(path: Path, why: str, fix: str = "") -> InputError:
    """The error of a file of a run, where the file itself is wrong."""
    stage = path.parent.name
    return InputError(
        f"{path.name} is damaged: {why}",
        str(path),
        fix or f"put back a copy of it, or redo the stage: --rebuild {stage}",
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file, or it is damaged, or it holds something else."""
    try:
        value = json.loads(read_regular(path).decode("utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def refuse_odd_files(folder: Path) -> None:
    """Refuse what a stage could wait for without end: pipes, sockets, devices, and links that lead nowhere.

    Raises:
        InputError: with the first of them.
    """
    if not folder.is_dir():
        raise _in_the_way(folder, "it is not a folder")
    waiting = [folder]
    seen = 0
    while waiting and seen < MOST_ENTRIES:
        for path in waiting.pop().iterdir():
            seen += 1
            why = oddity(path)
            if why or (path.is_symlink() and not path.exists()):
                raise _in_the_way(path, why or "the link leads nowhere")
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)


def _in_the_way(path: Path, why: str) -> InputError:
    return InputError(f"{path.name} is in the way of a run: {why}", str(path), "remove it")
