"""Parquet shards: one schema, the same rows, nothing half-written."""

import json

import pytest

from r1pipe.artifacts import Chats
from r1pipe.data.files import dataset_files
from r1pipe.data.io import json_line, read_rows
from r1pipe.data.shards import write_parquet
from r1pipe.errors import InputError

MESSAGES = [
    {"role": "user", "content": "2020-01-01"},
    {"role": "assistant", "content": "<think>a</think>看\n"},
]
ROWS = [
    {
        "id": f"{i}",
        "messages": MESSAGES,
        "domain": "math",
        **({"level": i, "tests": {"kind": "asserts", "asserts": ["x"]}} if i > 7 else {}),
    }
    for i in range(10)
]


def test_shards_are_read_back_as_they_were(tmp_path):
    import pyarrow.parquet

    write_parquet(tmp_path, lambda: map(json_line, ROWS), len(ROWS), shard_rows=4)
    assert [file.name for file in dataset_files(tmp_path)] == [
        f"rows-0000{i}-of-00003.parquet" for i in range(3)
    ]
    assert read_rows(tmp_path, Chats) == ROWS
    assert len({str(pyarrow.parquet.read_schema(file)) for file in tmp_path.iterdir()}) == 1


def test_what_does_not_fit_is_refused_and_leaves_no_rows(tmp_path):
    for odd in ({"level": "hard"}, {"level": {}}):
        rows = [*ROWS, {**ROWS[0], **odd}]
        with pytest.raises(InputError, match="do not fit into Parquet"):
            write_parquet(
                tmp_path,
                lambda rows=rows: (json.dumps(row).encode() for row in rows),
                len(rows),
                shard_rows=4,
            )
        with pytest.raises(InputError, match="no rows"):
            dataset_files(tmp_path)


def test_odd_values_are_read_back_as_they_were(tmp_path):
    odd = [
        {
            **ROWS[0],
            "id": "a",
            "text": 'NUL \u0000, tab\t, \u2028, 😀, \\u0041 and "2020-01-01T00:00:00Z"',
            "n": 1,
            "x": 1,
        },
        {**ROWS[0], "id": "b", "text": "2020-01-01T00:00:00Z", "n": -(2**63), "x": 0.1},
        {
            **ROWS[0],
            "id": "c",
            "text": "",
            "n": 2**63 - 1,
            "x": 1e-300,
            "deep": {"a": [{"b": [1, 2]}, {"b": []}], "c": True},
        },
        {
            **ROWS[0],
            "id": "d",
            "text": "5",
            "messages": [*MESSAGES, {"role": "assistant", "content": "x", "name": "y"}],
        },
    ]
    write_parquet(tmp_path, lambda: map(json_line, odd), len(odd), shard_rows=100)
    back = read_rows(tmp_path, Chats)
    assert [(row["text"], row.get("n"), row.get("x")) for row in back] == [
        (row["text"], row.get("n"), row.get("x")) for row in odd
    ]
    assert back[2]["deep"]["a"][0]["b"] == [1, 2]
    assert back[2]["deep"]["c"] is True
    assert back[3]["messages"][-1] == {"role": "assistant", "content": "<think></think>x"}, (
        "the name is not read"
    )
