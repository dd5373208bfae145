"""Files that end: opening a named pipe waits for a writer, and reading a device may never stop."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFile(OSError):
    """What is at a path is neither a regular file nor a link to one; `strerror` says what it is."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, without waiting for what is none.

    Raises:
        NotAFile: something else is there.
        OSError: nothing is there, it may not be read, or links lead in a circle.
    """
    refuse_irregular(path)
    # Without waiting: another program may have put a pipe in its place since.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        raise not_a_file(kind)
    return os.fdopen(descriptor, "rb")


def refuse_irregular(path: Path) -> None:
    """Raise as `open_regular` does, without opening anything."""
    kind = os.stat(path).st_mode
    if not stat.S_ISREG(kind):
        raise not_a_file(kind)


def read_regular(path: Path) -> bytes:
    """The content of a regular file; raises as `open_regular` does."""
    with open_regular(path) as stream:
        return stream.read()


def oddity(path: Path) -> str:
    """What makes a path neither file nor folder, so that nothing may open it.

    Empty where it is one of these, or nothing is there. Links in a circle, names that are too long and those with a
    null character make every other question about a path an error.
    """
    try:
        kind = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return reason(error)
    except ValueError as error:
        return str(error)
    return "" if stat.S_ISREG(kind) or stat.S_ISDIR(kind) else reason(not_a_file(kind))


def reason(error: Exception) -> str:
    """What an error says; of the system's, without the number and the path."""
    return getattr(error, "strerror", None) or str(error)


def not_a_file(kind: int) -> NotAFile:
    """The error for the mode of something that is no regular file."""
    name = next((name for is_kind, name in _KINDS if is_kind(kind)), "something else")
    return NotAFile(errno.EINVAL, f"it is {name}, not a file")


def in_home(path: Path) -> Path:
    """`~` and `~user` become their home folders; a user that this machine does not know stays as a name.

    Path.expanduser raises RuntimeError there.

    >>> in_home(Path("~no-such-user/data"))
    PosixPath('~no-such-user/data')
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111
