"""Content hashes of files and folders, remembered between commands."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.run.records import read_object
from r1pipe.run.store import RunFolder, write_json
from r1pipe.text.regular_files import open_regular, reason


class Digests:
    """sha256 by path. A file is read again only when its size or modification time differs from the remembered ones."""

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.path / ".digests.json"
        # path -> [size in bytes, modification time in ns, sha256]
        # A file that is damaged is no loss: the hashes are made anew.
        self._known: dict[str, list[Any]] = {
            name: known for name, known in read_object(self._path).items() if _is_known(known)
        }
        self._changed = False

    def file(self, path: Path, *, fresh: bool = False) -> str:
        """sha256 of a file; `fresh` reads it even if its size and time are the remembered ones.

        Raises:
            InputError: it is no file, or cannot be read.
        """
        try:
            stat = path.stat()
            known = self._known.get(str(path))
            if not fresh and known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
                return known[2]
            with open_regular(path) as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            fix = "replace it by a file, or take it out of the folder"
            raise InputError(f"cannot be read: {reason(error)}", str(path), fix) from None
        self._known[str(path)] = [stat.st_size, stat.st_mtime_ns, digest]
        self._changed = True
        return digest

    def files(self, path: Path) -> dict[str, str]:
        """Every file below a folder (or the file itself) with its hash; hidden files and caches are left out.

        Raises:
            InputError: one of them cannot be read, or links lead back to a folder that they are in.
        """
        if not path.is_dir():
            return {path.name: self.file(path)}
        return {str(file.relative_to(path)): self.file(file) for file in sorted(_files_below(path))}

    def path(self, path: Path) -> str:
        """One hash for a file or folder. A file's own name does not count, names within a folder do."""
        return combined(self.files(path)) if path.is_dir() else self.file(path)

    def moved(self, old: Path, new: Path) -> None:
        """A folder was renamed: what is known of its files still holds."""
        prefix = f"{old}{os.sep}"
        for name in [name for name in self._known if name.startswith(prefix)]:
            self._known[f"{new}{os.sep}{name.removeprefix(prefix)}"] = self._known.pop(name)
            self._changed = True

    def save(self) -> None:
        # A plan of a run that does not exist yet must not make its folder.
        if self._changed and self._path.parent.is_dir():
            write_json(self._path, self._known)
            self._changed = False


def _is_known(entry: Any) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [int, int, str]


def combined(files: dict[str, str]) -> str:
    """One hash of many files: of their names and their hashes."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder, followlinks=True):
        # os.walk goes down only into what is left in this list.
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        for name in folders:
            path = Path(root, name)
            # Through a few such links one folder would be many thousands.
            if path.is_symlink() and Path(root).resolve().is_relative_to(path.resolve()):
                what = "the link leads back to a folder that it is in"
                raise InputError(what, str(path), "remove the link")
        yield from (Path(root, name) for name in names if not name.startswith("."))
