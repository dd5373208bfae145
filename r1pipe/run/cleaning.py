"""`r1pipe clean RUN`: what in a run's folder nothing needs any more, and its removal.

What a stage goes on from is needed: the workdir of one that is not done, trainer checkpoints in it. What is published
is needed, too. Left are stages that were redone, what an attempt had half written, and files that a kill left behind.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r1pipe.run.status import stage_names
from r1pipe.run.store import RunFolder, whole_manifest

# `.summary.json.4711`, `.probe.4711`: written by a process that was killed before it could rename or remove them.
TEMPORARY = re.compile(r"\.[\w.-]+\.\d+")


@dataclass(frozen=True)
class Removable:
    """A file or folder that nothing needs.

    Attributes:
        size: bytes of all its files.
        why: what it is.
    """

    path: Path
    size: int
    why: str


def removable(folder: RunFolder) -> list[Removable]:
    """What can be removed from a run's folder."""
    found = [Removable(path, _size(path), why) for path, why in _unneeded(folder)]
    return sorted(found, key=lambda entry: -entry.size)


def _unneeded(folder: RunFolder) -> Iterator[tuple[Path, str]]:
    old = folder.path / ".old"
    if old.is_dir():
        for path in sorted(old.iterdir()):
            yield path, "a stage that was redone (--rebuild)"
    for path in _temporary(folder.path):
        yield path, "left by a process that was killed"
    for name in stage_names(folder):
        stage = folder.stage(name)
        if not stage.path.is_dir():
            continue
        for path in _temporary(stage.path):
            yield path, "left by a process that was killed"
        if stage.partial.exists():
            yield stage.partial, "half written; the next attempt begins it anew"
        trainer = stage.workdir / "trainer" / ".partial"
        if trainer.exists():
            yield trainer, "a checkpoint that is not whole"
        # A driver that dies between the manifest and this leaves it.
        if whole_manifest(stage) and stage.workdir.exists():
            yield stage.workdir, "of a stage that is done"


def _temporary(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and TEMPORARY.fullmatch(path.name):
            yield path


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    # A link takes no room worth counting, and what it leads to is not removed.
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def remove(folder: RunFolder) -> list[Removable]:
    """Remove it while no other command works on the run, and return what was removed.

    Raises:
        BusyError: one does.
    """
    with folder:
        found = removable(folder)
        for entry in found:
            if entry.path.is_dir() and not entry.path.is_symlink():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink(missing_ok=True)
    return found


def lines(folder: RunFolder, found: list[Removable]) -> list[str]:
    """For people: one entry a line, the largest first, and the sum."""
    shown = [
        f"{size_text(entry.size):>10}  {entry.path.relative_to(folder.path)}  ({entry.why})"
        for entry in found
    ]
    total = sum(entry.size for entry in found)
    return [*shown, f"{size_text(total):>10}  in all"]


def size_text(size: float) -> str:
    """
    >>> size_text(999), size_text(3_500_000)
    ('999 B', '3.5 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
