"""Rows as Parquet shards of one schema, written without holding more than a few megabytes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
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
        # Of an array of rows and not by Table.from_pylist, which takes the columns of its first row for those of all.
        schema = pa.unify_schemas([pa.schema(pa.array(batch).type) for batch in _batches(lines())], promote_options="permissive")
        stream = lines()
        for shard in range(shards):
            with whole(folder / f"rows-{shard:05d}-of-{shards:05d}.parquet") as file, pyarrow.parquet.ParquetWriter(file, schema) as writer:
                for batch in _batches(islice(stream, shard_rows)):
                    writer.write_batch(pa.RecordBatch.from_struct_array(pa.array(batch, pa.struct(schema))))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"the rows do not fit into Parquet: {error}", str(folder), "give each column one type, or write `format: jsonl`") from None


def _batches(lines: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for line in lines:
        batch.append(json.loads(line))
        size += len(line)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
