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

from r1pipe.data.files import Row
from r1pipe.data.io import atomic_file
from r1pipe.errors import InputError

# Bytes of JSON that become one row group.
_BATCH = 8 << 20


def write_parquet(folder: Path, lines: Callable[[], Iterator[bytes]], rows: int, shard_rows: int) -> None:
    """Write rows-00000-of-00009.parquet and so on.

    Args:
        lines: returns the rows as lines of JSON; called twice, since the one schema of the shards is that of all rows.
        rows: the number of these rows.
        shard_rows: rows of a shard.

    Raises:
        InputError: a column has values that Parquet cannot hold.
    """
    # Rounded up: the last shard may be smaller.
    shards = -(-rows // shard_rows)
    try:
        schema = _schema(lines())
        stream = lines()
        for shard in range(shards):
            path = folder / f"rows-{shard:05d}-of-{shards:05d}.parquet"
            with atomic_file(path) as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
                for batch in _batches(islice(stream, shard_rows)):
                    writer.write_batch(_record_batch(batch, schema))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"the rows do not fit into Parquet: {error}",
            str(folder),
            "give each column one type, or write `format: jsonl`",
        ) from None


def _schema(lines: Iterable[bytes]) -> pa.Schema:
    """The one schema of all rows."""
    # Rows of one form have one schema. There are few forms, so this takes little time and memory.
    first_of_form: dict[Any, Row] = {}
    for line in lines:
        row = json.loads(line)
        first_of_form.setdefault(_form(row), row)
    # Each schema is that of an array of one row: Table.from_pylist takes the columns of its first row for those of all.
    schemas = [pa.schema(pa.array([row]).type) for row in first_of_form.values()]
    return pa.unify_schemas(schemas, promote_options="permissive")


def _form(value: Any) -> Any:
    """What decides the type that a value gets in Arrow; hashable."""
    if isinstance(value, dict):
        return tuple((name, _form(child)) for name, child in value.items())
    if isinstance(value, list):
        return frozenset(map(_form, value))
    return type(value)


def _record_batch(lines: bytes, schema: pa.Schema) -> pa.RecordBatch:
    parse_options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    # One block: Arrow refuses a line that is longer than a block.
    read_options = pyarrow.json.ReadOptions(use_threads=False, block_size=len(lines) + 1)
    rows = pyarrow.json.read_json(io.BytesIO(lines), read_options, parse_options)
    (batch,) = rows.combine_chunks().to_batches()
    return batch


def _batches(lines: Iterable[bytes]) -> Iterator[bytes]:
    batch: list[bytes] = []
    size = 0
    for line in lines:
        batch.append(line)
        size += len(line)
        if size >= _BATCH:
            yield b"".join(batch)
            batch = []
            size = 0
    if batch:
        yield b"".join(batch)
