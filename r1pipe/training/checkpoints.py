"""The trainer's checkpoints on disk: written under another name, renamed when they are whole, checked before use.

    workdir/trainer/checkpoint-120/     whole: whole.json, written last, lists its files
    workdir/trainer/.partial/           being written or being removed; nothing reads it

So a kill at any moment, or a full disk, leaves the checkpoints that were there before.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from r1pipe.errors import InputError
from r1pipe.here import Here

T = TypeVar("T")

PREFIX = "checkpoint-"
PARTIAL = ".partial"
WHOLE = "whole.json"
BLOCK_BYTES = 2**22

# How libraries say that a disk is full: torch's archive writer and safetensors raise errors of their own.
DISK_FULL = (
    "No space left",
    "os error 28",
    "Disk quota exceeded",
    "os error 122",
    "iostream error",
    "PytorchStreamWriter",
    "inline_container",
)


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder, whole or not: update -> its folder, in ascending order."""
    found = {}
    for path in folder.glob(f"{PREFIX}*"):
        step = path.name.removeprefix(PREFIX)
        if step.isdigit() and path.is_dir():
            found[int(step)] = path
    return dict(sorted(found.items()))


def seal(checkpoint: Path, **facts: Any) -> None:
    """List the files of a checkpoint in its whole.json, once all of them are on the disk.

    Args:
        facts: written down as well; `facts_of` reads them.
    """
    files = {}
    for path in _files(checkpoint):
        # Without it, a crash of the machine may leave an empty file under the final name.
        with path.open("rb+") as stream:
            os.fsync(stream.fileno())
        files[str(path.relative_to(checkpoint))] = {"bytes": path.stat().st_size, "xxh3": _checksum(path)}
    with (checkpoint / WHOLE).open("w", encoding="utf8") as stream:
        json.dump({**facts, "files": files}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def publish(partial: Path, final: Path) -> None:
    """Give a sealed checkpoint its name; one of the same name, which is not whole, makes room."""
    if final.exists():
        remove(final)
    partial.rename(final)


def clear(folder: Path) -> None:
    """Delete what a writer that was killed has left half done, and make room for the next one."""
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    (folder / PARTIAL).mkdir(parents=True, exist_ok=True)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint; a kill on the way leaves no half of it under its name."""
    trash = checkpoint.parent / PARTIAL / f"old-{checkpoint.name}"
    trash.parent.mkdir(exist_ok=True)
    shutil.rmtree(trash, ignore_errors=True)
    checkpoint.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """What `seal` was given; {} where the checkpoint is not whole."""
    try:
        record = json.loads((checkpoint / WHOLE).read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def fault(checkpoint: Path) -> str:
    """Why a checkpoint is not whole; empty where it is."""
    files = facts_of(checkpoint).get("files")
    if not isinstance(files, dict):
        return f"its {WHOLE} is missing or damaged"
    for name, told in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != told["bytes"]:
            return f"{name} has {size} of {told['bytes']} bytes"
    # The sizes of all files first: a checksum reads gigabytes.
    for name, told in files.items():
        if _checksum(checkpoint / name) != told["xxh3"]:
            return f"{name} is damaged"
    return ""


def newest_whole(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest checkpoint that is whole, and why those after it are not: name -> fault."""
    passed_over = {}
    for path in reversed(checkpoints(folder).values()):
        why = fault(path)
        if not why:
            return path, passed_over
        passed_over[path.name] = why
    return None, passed_over


def read_record(path: Path, here: Here, form: Callable[[Any], T]) -> T | None:
    """What a training has found so far and keeps in a file of JSON; None where there is no such file.

    Args:
        form: makes of the file's content what is wanted, and raises what Python raises where it is something else.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return form(json.loads(path.read_text(encoding="utf8")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged_record(path, here) from None


def damaged_record(path: Path, here: Here) -> InputError:
    """The error of a file in which a training keeps what it has found so far, and which another program has changed."""
    fix = f"put back a copy of it, or start the stage from its beginning: --rebuild {here.stage}"
    return InputError(f"{path.name} is damaged: it is not what the training wrote there", str(path), fix)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, says that nothing more fits on the disk."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(cause) for text in DISK_FULL):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _files(checkpoint: Path) -> Iterator[Path]:
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != WHOLE:
            yield path


def _checksum(path: Path) -> str:
    checksum = xxhash.xxh3_64()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            checksum.update(block)
    return checksum.hexdigest()
