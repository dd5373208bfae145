"""Raw rows of files: JSON lines (plain, gz, zst, xz, bz2), JSON arrays and Parquet. Every error names file and line.

This is our own code and not `datasets`, which reads the same formats: `datasets` copies files into its cache first and
makes one schema of all rows, and if that fails it names neither file nor line. Datasets on the hub are read through
`datasets` (r1pipe/data/hub_datasets.py).
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
from r1pipe.text.regular_files import refuse_irregular

if TYPE_CHECKING:
    import pyarrow

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".jsonl.xz", ".jsonl.bz2", ".json", ".json.gz", ".parquet")
UNREADABLE = (EOFError, zlib.error, lzma.LZMAError, OSError)

# Bytes of a line; a file without line ends must not fill the memory (our choice).
MAX_LINE = 64 * 2**20

# Levels of nested lists and objects (our choice). Python's own JSON fails at about a thousand, reading or writing.
MAX_DEPTH = 64

# Bytes. With Python's own 8 KB, lines of 27 KB took five times as long.
READ_AT_ONCE = 1 << 18

PARQUET_BATCH_ROWS = 4096

Row = dict[str, Any]
"""A row of any kind; r1pipe/text/rows.py has the columns of each kind."""

Located = tuple[str, Row]
"""Where a row stands ("file:line"), and the row."""

Bad = Callable[[InputError], None]
"""What to do about a malformed row: raise the error, or count it and continue."""

_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def refuse(error: InputError) -> None:
    """The `Bad` that accepts no malformed row."""
    raise error


# --- paths ------------------------------------------------------------------------------------------------------------


def matches(path: Path) -> list[Path]:
    """The paths that match a pattern, in the order of their names; a path that exists or is not a pattern is itself.

    Raises:
        InputError: a pattern matches nothing.
    """
    if path.exists() or not has_magic(str(path)):
        return [path]
    folder = before_pattern(path)
    pattern = str(path.relative_to(folder))
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise InputError(
            "no file matches",
            str(path),
            "check the pattern; a relative path starts at the folder of the YAML that states it",
        )
    return paths


def before_pattern(path: Path) -> Path:
    """The folder that a pattern starts from.

    >>> before_pattern(Path("/data/*/train.jsonl"))
    PosixPath('/data')
    """
    return Path(*takewhile(lambda part: not has_magic(part), path.parts))


def dataset_files(path: Path) -> list[Path]:
    """The files of a dataset, in the order of their names.

    Args:
        path: a dataset folder or one file.

    Raises:
        InputError: the path does not exist, the folder has no rows, or the file's ending is not one of ENDINGS.
    """
    if path.is_dir():
        named_rows = [file for file in path.iterdir() if file.name.startswith("rows")]
        files = [file for file in named_rows if file.name.endswith(ENDINGS)]
        if not files:
            raise InputError(
                "the folder has no rows",
                str(path),
                f"a dataset folder has files named rows*{', rows*'.join(ENDINGS)}",
            )
        return sorted(files)

    if not path.exists():
        raise InputError(
            "no such file",
            str(path),
            "check the path; a relative path starts at the folder of the YAML that states it",
        )
    if not path.name.endswith(ENDINGS):
        kind = f"a {path.suffix} file" if path.suffix else "a file without an ending"
        raise InputError(f"cannot read rows from {kind}", str(path), f"use one of {', '.join(ENDINGS)}")
    return [path]


# --- JSON lines -------------------------------------------------------------------------------------------------------


def read_raw(path: Path, on_bad: Bad = refuse) -> Iterator[Located]:
    """Each row of a dataset as the file has it; see read_lines."""
    for where, row, _ in read_lines(path, on_bad):
        yield where, row


def read_lines(path: Path, on_bad: Bad = refuse) -> Iterator[tuple[str, Row, bytes]]:
    """Each row of a dataset as the file has it, with where it stands and its line of JSON.

    The line is empty for Parquet and for a JSON array, whose rows are numbered from 1.

    Args:
        path: a dataset folder or one file.
        on_bad: called for each line that is not a JSON object; the default raises.

    Raises:
        InputError: a file is incomplete, or is neither JSON lines nor Parquet.
    """
    for file in dataset_files(path):
        if file.name.endswith(".parquet"):
            for where, row in _read_parquet(file, on_bad):
                yield where, row, b""
        else:
            yield from _read_jsonl(file, on_bad)


def _read_jsonl(file: Path, on_bad: Bad) -> Iterator[tuple[str, Row, bytes]]:
    packed = ""
    if file.suffix not in (".jsonl", ".json"):
        packed = file.suffix.lstrip(".").replace("gz", "gzip")

    try:
        # gzip and zstd take an empty file for one without rows.
        refuse_irregular(file)
        if packed and not file.stat().st_size:
            raise EOFError("it is empty")

        with open_lines(file) as stream:
            # Many files that end in .json have JSON lines.
            if ".json" in file.suffixes and _begins_an_array(stream):
                yield from _read_array(stream, file, on_bad)
                return
            number = 0
            # One byte more than allowed, to notice a line that is too long.
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                where = f"{file}:{number}"
                if len(line) > MAX_LINE:
                    _skip_line(stream, line)
                    limit = f"{MAX_LINE >> 20} MiB"
                    on_bad(
                        InputError(f"the line is longer than {limit}", where, "each line is one JSON object")
                    )
                    continue
                if not line.strip():
                    continue
                try:
                    row = parse_line(line, first=number == 1)
                except InputError as error:
                    on_bad(InputError(error.what, where, error.fix))
                    continue
                yield where, row, line
    except UNREADABLE as error:
        # An error with a number comes from the system. Without one, the packed data is damaged.
        if packed and not getattr(error, "errno", None):
            raise InputError(
                f"the file is not a complete {packed} file: {error}",
                str(file),
                "fetch or write it again",
            ) from None
        raise InputError(f"cannot read: {getattr(error, 'strerror', None) or error}", str(file)) from None


def _begins_an_array(stream: BinaryIO) -> bool:
    """Whether the first character that is no space opens an array; the stream stays at its beginning."""
    first = stream.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    stream.seek(0)
    return first == b"["


def _read_array(stream: BinaryIO, file: Path, on_bad: Bad) -> Iterator[tuple[str, Row, bytes]]:
    """The objects of a file that is one JSON array, which is read whole."""
    text = stream.read()
    try:
        rows = _decode(text, first=True)
    except InputError as error:
        raise InputError(
            error.what, str(file), "a .json file is one array of objects, or JSON lines"
        ) from None
    for number, row in enumerate(rows, 1):
        where = f"{file}:{number}"
        if not isinstance(row, dict):
            on_bad(
                InputError(
                    f"the array holds a {type(row).__name__}, not an object", where, "rows are objects"
                )
            )
        elif _is_deeper(row, MAX_DEPTH):
            on_bad(InputError(f"the row is nested more than {MAX_DEPTH} levels deep", where, "flatten it"))
        else:
            yield where, row, b""


def _skip_line(stream: BinaryIO, line: bytes) -> None:
    """Read up to the end of a line that is too long."""
    while line and not line.endswith(b"\n"):
        line = stream.readline(MAX_LINE)


def open_lines(file: Path) -> BinaryIO:
    """Open a file of JSON lines, unpacked; reading it raises one of UNREADABLE."""
    refuse_irregular(file)
    if file.suffix == ".zst":
        # The standard library reads zstd from Python 3.14 on; pyarrow is installed anyway.
        import pyarrow

        return io.BufferedReader(cast(Any, pyarrow.input_stream(str(file), compression="zstd")))
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
    opener = openers.get(file.suffix)
    if opener is None:
        return file.open("rb", buffering=READ_AT_ONCE)
    return opener(file, "rb")


def parse_line(line: bytes, first: bool = False) -> Row:
    """Parse a line of a file.

    Args:
        first: it is the first line of the file, which may begin with a byte order mark.

    Raises:
        InputError: the line is not a JSON object; the error has no `where`.
    """
    row = _decode(line, first)
    if not isinstance(row, dict):
        raise InputError(
            f"the line holds a {type(row).__name__}, not an object", fix="each line is one JSON object"
        )
    # Few brackets cannot be nested deeply; counting them is much faster than walking every row.
    brackets = line.count(b"[") + line.count(b"{")
    if brackets > MAX_DEPTH and _is_deeper(row, MAX_DEPTH):
        raise InputError(f"the row is nested more than {MAX_DEPTH} levels deep", fix="flatten it")
    return row


def _decode(text: bytes, first: bool) -> Any:
    """The value of a line, or of a whole file.

    Raises:
        InputError: it is not JSON in UTF-8; the error has no `where`.
    """
    try:
        value = _DECODER.decode(text.decode("utf-8-sig" if first else "utf8"))
        # JSON can hold half of a surrogate pair, which Python decodes, but which no file in UTF-8 can hold.
        # The texts are found faster than the expression, which reads every escaped character.
        is_possible = b"\\ud" in text or b"\\uD" in text
        if is_possible and _HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InputError(f"the line is not UTF-8: {error.reason}", fix="convert the file to UTF-8") from None
    except UnicodeEncodeError:
        raise InputError(
            "the line has half a surrogate pair, which is not a character",
            fix="write characters above U+FFFF as pairs, or as UTF-8",
        ) from None
    except (ValueError, RecursionError) as error:
        what = (
            "it is nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", error)
        )
        raise InputError(f"broken JSON: {what}", fix="each line is one JSON object") from None
    return value


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> Row:
    # Python's own decoder would keep the last value without a word.
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} appears twice in one object")
    return row


def _refuse_constant(name: str) -> None:
    # NaN and Infinity: Python reads and writes them, other programs do not.
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeated_keys, parse_constant=_refuse_constant)


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects are nested in `value` more than `levels` deep."""
    containers = [value]
    for _ in range(levels):
        children: list[Any] = []
        for container in containers:
            children += container.values() if isinstance(container, dict) else container
        containers = [child for child in children if isinstance(child, dict | list)]
        if not containers:
            return False
    return True


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _read_parquet(file: Path, on_bad: Bad) -> Iterator[Located]:
    import pyarrow
    import pyarrow.parquet

    try:
        refuse_irregular(file)
        # Verified checksums find damage that would otherwise be read as other text.
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as reader:
            columns = json_columns(reader.schema_arrow, str(file))
            number = 0
            for batch in reader.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                yield from batch_rows(batch, str(file), number, on_bad)
                number += batch.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"not a readable Parquet file: {error}", str(file), "write it again") from None


def json_columns(schema: pyarrow.Schema, where: str) -> list[str]:
    """The columns that a JSON row can hold; the others (times, bytes, images) are left out with a warning.

    Raises:
        InputError: two columns have the same name, or none is left.
    """
    repeated = [name for name in schema.names if schema.names.count(name) > 1]
    if repeated:
        raise InputError(
            f"two columns are called {repeated[0]!r}", where, "write the file again with other names"
        )

    left_out = {field.name: str(field.type) for field in schema if not _is_json(field.type)}
    kept = [name for name in schema.names if name not in left_out]
    if not kept:
        raise InputError(
            f"no column can be read: {left_out}", where, "rows hold texts, numbers, lists and objects"
        )
    if left_out:
        shown = ", ".join(f"{name} ({kind})" for name, kind in left_out.items())
        warnings.warn(
            f"{where}: left out, since rows hold texts, numbers, lists and objects: {shown}", stacklevel=2
        )
    return kept


def _is_json(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    # A dictionary here is an encoding: each value is stored once.
    if types.is_dictionary(kind):
        return _is_json(cast(Any, kind).value_type)
    if (
        types.is_struct(kind)
        or types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
    ):
        return all(_is_json(kind.field(number).type) for number in range(kind.num_fields))
    checks = (
        types.is_null,
        types.is_boolean,
        types.is_integer,
        types.is_floating,
        types.is_string,
        types.is_large_string,
        types.is_string_view,
    )
    return any(check(kind) for check in checks)


def batch_rows(batch: Any, file: str, before: int, on_bad: Bad) -> Iterator[Located]:
    """The rows of a batch (or table) of Arrow.

    Args:
        file: the first part of `where`.
        before: rows of the file before this batch.
        on_bad: called for each row that is not UTF-8 or has an infinite number or NaN.
    """
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        # Convert the rows one by one, to find the wrong ones.
        rows = [None] * batch.num_rows

    for number, row in enumerate(rows):
        where = f"{file}:{before + number + 1}"
        try:
            if row is None:
                row = batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            on_bad(InputError(f"the row is not UTF-8: {error.reason}", where, "write the file again"))
            continue
        numbers = {name: value for name, value in row.items() if isinstance(value, float)}
        infinite = [name for name, value in numbers.items() if not math.isfinite(value)]
        if infinite:
            name = infinite[0]
            on_bad(
                InputError(f"column {name!r} holds {row[name]}", where, "write null if there is no number")
            )
            continue
        yield where, row
