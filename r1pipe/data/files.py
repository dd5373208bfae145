"""Files to raw rows, one at a time: JSON lines (plain, gz, zst, xz, bz2) and Parquet, every mistake with its file and line.

Own code and not `datasets`, which reads the same formats: it copies files into its cache first, makes one schema of all rows, and where that fails
names neither file nor line. What lies on the hub goes through `datasets` (r1pipe/data/hub_datasets.py).
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from glob import has_magic
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from r1pipe.errors import InputError

if TYPE_CHECKING:
    import pyarrow

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".jsonl.bz2", ".parquet")
MAX_LINE = 64 * 2**20  # bytes; a file without line ends must not fill the memory (our choice)
UNREADABLE = (EOFError, zlib.error, lzma.LZMAError, OSError)
MAX_DEPTH = (
    64  # lists and objects in each other; Python's own JSON gives up, either way, at about a thousand (our choice)
)

Located = tuple[str, dict[str, Any]]  # where a row stands ("file:line"), and the row
Bad = Callable[[InputError], None]  # what to do about a malformed row: raise, or count it and go on

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def refuse(error: InputError) -> None:
    """The `Bad` that takes no malformed row."""
    raise error


def matches(path: Path) -> list[Path]:
    """What a path stands for: itself, or in name order all that matches it, where it is a pattern and nothing is called so.

    Raises:
        InputError: a pattern matches nothing.
    """
    if path.exists() or not has_magic(str(path)):
        return [path]
    start = before_pattern(path)
    if not (found := sorted(start.glob(str(path.relative_to(start))))):
        raise InputError(
            "no file matches", str(path), "check the pattern; a relative path counts from the YAML that states it"
        )
    return found


def before_pattern(path: Path) -> Path:
    """The folder that a pattern starts from.

    >>> before_pattern(Path("/data/*/train.jsonl"))
    PosixPath('/data')
    """
    return Path(*takewhile(lambda part: not has_magic(part), path.parts))


def dataset_files(path: Path) -> list[Path]:
    """The files that a dataset's path stands for, in name order.

    Raises:
        InputError: nothing is there, the folder holds no rows, or the file's ending is not one of ENDINGS.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.startswith("rows") and file.name.endswith(ENDINGS))
        if not files:
            raise InputError(
                "the folder holds no rows",
                str(path),
                f"a dataset folder has files named rows*{', rows*'.join(ENDINGS)}",
            )
        return files
    if not path.exists():
        raise InputError(
            "no such file", str(path), "check the path; a relative one counts from the YAML that states it"
        )
    if not path.name.endswith(ENDINGS):
        raise InputError(
            f"cannot read rows from a {path.suffix or 'nameless'} file", str(path), f"use one of {', '.join(ENDINGS)}"
        )
    return [path]


def read_raw(path: Path, bad: Bad = refuse) -> Iterator[Located]:
    """Each row as it stands, with where it stands; see read_lines."""
    return ((where, row) for where, row, _ in read_lines(path, bad))


def read_lines(path: Path, bad: Bad = refuse) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    """Each row as it stands, with where it stands and its line of JSON; of Parquet the line is empty.

    Args:
        path: a dataset folder or one file.
        bad: is told of each line that is no JSON object; the default raises.

    Raises:
        InputError: a file is not whole, or is no JSON lines or Parquet.
    """
    for file in dataset_files(path):
        if file.name.endswith(".parquet"):
            yield from ((where, row, b"") for where, row in _read_parquet(file, bad))
        else:
            yield from _read_jsonl(file, bad)


def _read_jsonl(file: Path, bad: Bad) -> Iterator[tuple[str, dict[str, Any], bytes]]:
    packed = file.suffix.lstrip(".").replace("gz", "gzip") if file.suffix != ".jsonl" else ""
    try:
        if packed and not file.stat().st_size:  # gzip and zstd would take it for a file without rows
            raise EOFError("it is empty")
        with open_lines(file) as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(MAX_LINE)
                    bad(
                        InputError(
                            f"the line is longer than {MAX_LINE >> 20} MiB",
                            f"{file}:{number}",
                            "each line is one JSON object",
                        )
                    )
                elif line.strip():
                    try:
                        row = parse_line(line, first=number == 1)
                    except InputError as error:
                        bad(InputError(error.what, f"{file}:{number}", error.fix))
                    else:
                        yield f"{file}:{number}", row, line
    except UNREADABLE as error:
        if packed and not getattr(error, "errno", None):
            raise InputError(f"the file is not whole {packed}: {error}", str(file), "fetch or write it again") from None
        raise InputError(f"cannot read: {getattr(error, 'strerror', None) or error}", str(file)) from None


def open_lines(file: Path) -> BinaryIO:
    """A file of JSON lines, unpacked; reading it raises one of UNREADABLE."""
    if file.suffix == ".zst":  # pyarrow is here anyway; in the standard library only from 3.14 on
        import pyarrow

        return io.BufferedReader(cast(Any, pyarrow.input_stream(str(file), compression="zstd")))
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
    return openers.get(file.suffix, open)(file, "rb")


def parse_line(line: bytes, first: bool = False) -> dict[str, Any]:
    """One JSON object.

    Raises:
        InputError: it is none; without where.
    """
    try:
        row = _DECODER.decode(line.decode("utf-8-sig" if first else "utf8"))
        if _HALF_PAIR.search(line):
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InputError(f"the line is not UTF-8: {error.reason}", fix="convert the file to UTF-8") from None
    except UnicodeEncodeError:
        raise InputError(
            "the line holds half a surrogate pair, which is no character",
            fix="write characters above U+FFFF as pairs, or as UTF-8",
        ) from None
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
        raise InputError(f"broken JSON: {what}", fix="each line is one JSON object") from None
    if not isinstance(row, dict):
        raise InputError(f"the line holds a {type(row).__name__}, not an object", fix="each line is one JSON object")
    if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _deeper(row, MAX_DEPTH):
        raise InputError(f"the row is nested more than {MAX_DEPTH} levels deep", fix="flatten it")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in one object"
        )
    return found


def _constant(name: str) -> None:
    raise ValueError(f"{name} is no value of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _deeper(value: Any, levels: int) -> bool:
    level = [value]
    while level and levels:
        level, levels = (
            [
                child
                for one in level
                for child in (one.values() if isinstance(one, dict) else one)
                if isinstance(child, dict | list)
            ],
            levels - 1,
        )
    return bool(level)


def _read_parquet(file: Path, bad: Bad) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as reader:
            columns = json_columns(reader.schema_arrow, str(file))
            number = 0
            for batch in reader.iter_batches(batch_size=4096, columns=columns):
                yield from batch_rows(batch, str(file), number, bad)
                number += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"not a readable Parquet file: {error}", str(file), "write it again") from None


def json_columns(schema: pyarrow.Schema, where: str) -> list[str]:
    """The columns that a JSON row can hold; the others (times, bytes, images) are left out with a warning.

    Raises:
        InputError: two columns have one name, or none is left.
    """
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise InputError(f"two columns are called {twice[0]!r}", where, "write it again with other names")
    odd = {field.name: str(field.type) for field in schema if not _is_json(field.type)}
    kept = [name for name in schema.names if name not in odd]
    if not kept:
        raise InputError(f"no column can be read: {odd}", where, "rows hold texts, numbers, lists and objects")
    if odd:
        shown = ", ".join(f"{name} ({kind})" for name, kind in odd.items())
        warnings.warn(f"{where}: left out, since rows hold texts, numbers, lists and objects: {shown}", stacklevel=2)
    return kept


def _is_json(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_json(cast(Any, kind).value_type)
    if types.is_struct(kind) or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return all(_is_json(kind.field(i).type) for i in range(kind.num_fields))
    plain = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
    )
    return any(is_(kind) for is_ in plain)


def batch_rows(batch: Any, where: str, before: int, bad: Bad) -> Iterator[Located]:
    """The rows of a batch (or table) of Arrow, counted from `before` + 1."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [None] * batch.num_rows  # one by one, to find which
    for number, row in enumerate(rows):
        at = f"{where}:{before + number + 1}"
        try:
            row = row if row is not None else batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            bad(InputError(f"the row is not UTF-8: {error.reason}", at, "write the file again"))
            continue
        infinite = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        if infinite:
            bad(
                InputError(
                    f"column {infinite[0]!r} holds {row[infinite[0]]}", at, "write null where there is no number"
                )
            )
        else:
            yield at, row
