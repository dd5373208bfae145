"""Rows as Parquet shards of one schema, written without holding more than a few megabytes of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from r1pipe.data.io import whole
from r1pipe.errors import InputError

_BATCH = 8 << 20  # bytes of JSON that become one row group


def write_parquet(folder: Path, lines: Callable[[], Iterator[bytes]], rows: int, shard_rows: int) -> None:
    """Write rows-00000-of-00009.parquet and so on; all get their names when all are written.

    Args:
        lines: gives the rows as lines of JSON; called twice, since the shards' one schema is that of all rows.
        rows: how many these are.
        shard_rows: rows of a shard.

    Raises:
        InputError: a column holds what Parquet cannot.
    """
    shards = -(-rows // shard_rows)
    try:
        schema = _schema(lines())
        stream = lines()
        for shard in range(shards):
            with (
                whole(folder / f"rows-{shard:05d}-of-{shards:05d}.parquet") as file,
                pyarrow.parquet.ParquetWriter(file, schema) as writer,
            ):
                for batch in _batches(islice(stream, shard_rows)):
                    writer.write_batch(_record_batch(batch, schema))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"the rows do not fit into Parquet: {error}",
            str(folder),
            "give each column one type, or write `format: jsonl`",
        ) from None


def _schema(lines: Iterable[bytes]) -> pa.Schema:
    """The one schema of all rows; rows of a form that was seen before are passed over."""
    forms: set[Any] = set()
    new: list[dict[str, Any]] = []
    for line in lines:
        row = json.loads(line)
        if (form := _form(row)) not in forms:
            forms.add(form)
            new.append(row)
    # Of arrays of rows and not by Table.from_pylist, which takes the columns of its first row for those of all.
    return pa.unify_schemas([pa.schema(pa.array([row]).type) for row in new], promote_options="permissive")


def _form(value: Any) -> Any:
    """What decides which type a value gets in Arrow."""
    if isinstance(value, dict):
        return tuple((name, _form(child)) for name, child in value.items())
    if isinstance(value, list):
        return frozenset(map(_form, value))
    return type(value)


def _record_batch(lines: bytes, schema: pa.Schema) -> pa.RecordBatch:
    parse = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    (batch,) = pyarrow.json.read_json(io.BytesIO(lines), read, parse).combine_chunks().to_batches()
    return batch


def _batches(lines: Iterable[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= _BATCH:
            yield b"".join(batch)
            batch, size = [], 0
    if batch:
        yield b"".join(batch)
