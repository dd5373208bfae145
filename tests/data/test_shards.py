"""Parquet shards: one schema, the same rows, nothing half-written."""

import json

import pytest

from r1pipe.artifacts import Chats
from r1pipe.data.files import dataset_files
from r1pipe.data.io import line, read_rows
from r1pipe.data.shards import write_parquet
from r1pipe.errors import InputError

MESSAGES = [{"role": "user", "content": "2020-01-01"}, {"role": "assistant", "content": "看\n"}]
ROWS = [
    {"id": f"{i}", "messages": MESSAGES, "domain": "math", **({"level": i, "tests": {"kind": "asserts", "asserts": ["x"]}} if i > 7 else {})} for i in range(10)
]


def test_shards_are_read_back_as_they_were(tmp_path):
    import pyarrow.parquet

    write_parquet(tmp_path, lambda: map(line, ROWS), len(ROWS), shard_rows=4)
    assert [file.name for file in dataset_files(tmp_path)] == [f"rows-0000{i}-of-00003.parquet" for i in range(3)]
    assert read_rows(tmp_path, Chats) == ROWS
    assert len({str(pyarrow.parquet.read_schema(file)) for file in tmp_path.iterdir()}) == 1


def test_what_does_not_fit_is_refused_and_leaves_no_rows(tmp_path):
    for odd in ({"level": "hard"}, {"level": {}}):
        rows = [*ROWS, {**ROWS[0], **odd}]
        with pytest.raises(InputError, match="do not fit into Parquet"):
            write_parquet(tmp_path, lambda rows=rows: (json.dumps(row).encode() for row in rows), len(rows), shard_rows=4)
        with pytest.raises(InputError, match="no rows"):
            dataset_files(tmp_path)
