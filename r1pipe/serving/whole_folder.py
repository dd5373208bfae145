"""A folder that is whole or not there: written beside its place, and renamed when it is done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.run.records import read_object

# Lists the files of an exported folder: what it holds beside them is somebody else's.
RECORD = "r1pipe.json"


@contextmanager
def whole_folder(target: Path, record: dict[str, Any]) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `target` when the block ends without an error.

    Args:
        record: what RECORD says beside the names of the files.

    Raises:
        InputError: something else than an earlier export stands at `target`.
    """
    check_ours(target)
    partial = target.with_name(f".{target.name}.partial")
    before = target.with_name(f".{target.name}.before")
    target.parent.mkdir(parents=True, exist_ok=True)
    if before.exists() and not target.exists():
        # A kill came between the two renames below.
        before.rename(target)
    for leftover in (partial, before):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    try:
        yield partial
        _write_record(partial, record)
        if target.exists():
            target.rename(before)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def check_ours(target: Path) -> None:
    """Refuse a place where something else than an earlier export, or than an empty folder, stands.

    Raises:
        InputError: it does.
    """
    fix = "name a folder that does not exist"
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise InputError("this is already there, and is no folder", str(target), fix)
    there = {path.name for path in target.iterdir()}
    files = read_object(target / RECORD).get("files")
    ours = {*files, RECORD} if isinstance(files, list) else set()
    foreign = sorted(there - ours)
    if foreign:
        raise InputError(
            f"the folder is already there, and {foreign[0]} in it is no part of an earlier export",
            str(target),
            fix,
        )


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    files = sorted(path.name for path in folder.iterdir())
    text = json.dumps({**record, "files": files}, indent=1, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf8")
