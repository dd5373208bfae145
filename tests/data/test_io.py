"""Reading and writing rows: every mistake in a file is named by file and line."""

import gzip
import json

import pytest

from r1pipe.artifacts import Chats, Labels, Pairs, Prompts
from r1pipe.data.io import read_rows, rename_columns, write_rows
from r1pipe.errors import InputError

ROW = {"id": "a", "prompt": "1+1?", "domain": "math", "answer": "2"}


def lines(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf8"
    )
    return path


def test_the_three_formats_hold_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [ROW, {**ROW, "id": "b", "language": "zh", "prompt": "1加1？"}]
    plain = lines(tmp_path / "rows.jsonl", *rows)
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"language": None, **row} for row in rows]), tmp_path / "rows.parquet"
    )
    assert (
        read_rows(plain, Prompts)
        == read_rows(packed, Prompts)
        == read_rows(tmp_path / "rows.parquet", Prompts)
        == rows
    )


def test_a_written_dataset_is_read_back(tmp_path):
    write_rows(tmp_path, [ROW], dropped=[{"id": "b", "reason": "wrong"}], card={"kept": 1})
    assert read_rows(tmp_path, Prompts) == [ROW]  # and dropped.jsonl is not taken for rows
    assert json.loads((tmp_path / "dropped.jsonl").read_text())["reason"] == "wrong"
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["kept"] == 1
    assert card["statistics"]["domains"]["math"]["characters"]["mean"] == 4.0
    assert "| math | 1 | 100.0% | 1.0 | 4.0 |" in (tmp_path / "card.md").read_text()


def test_a_write_that_fails_leaves_no_rows(tmp_path):
    def rows():
        yield ROW
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_rows(tmp_path, rows())
    with pytest.raises(InputError, match="no rows"):
        read_rows(tmp_path, Prompts)


@pytest.mark.parametrize(
    ("kind", "second", "says"),
    [
        (Prompts, '{"id": "b", ', "broken JSON"),
        (Prompts, "[1, 2]", "holds a list"),
        (Prompts, {"id": "b", "domain": "math"}, "no column 'prompt'"),
        (Prompts, {**ROW, "id": "b", "answer": True}, "column 'answer' holds True, and must be a string"),
        (Prompts, {**ROW, "id": "b", "prompt": "  "}, "prompt is empty"),
        (Prompts, {**ROW, "prompt": "3+3?"}, "'a' appears twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, kind, second, says):
    path = lines(tmp_path / "p.jsonl", ROW, second)
    with pytest.raises(InputError) as caught:
        read_rows(path, kind)
    assert says in caught.value.what
    assert "p.jsonl:2" in caught.value.where


@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [
        (
            Chats,
            {"id": "a", "domain": "general", "messages": [{"role": "user", "content": "hi"}]},
            "must end with a message of the assistant",
        ),
        (Chats, {"id": "a", "domain": "general", "messages": [{"role": "user"}]}, "a message holds None"),
        (Pairs, {"id": "a", "domain": "general", "prompt": "hi", "chosen": "x"}, "no column 'rejected'"),
        (Labels, {"id": "a", "domain": "harmful", "prompt": "hi", "response": "x", "safe": 2}, "safe is 2"),
        (
            Labels,
            {"id": "a", "domain": "harmful", "prompt": "hi", "response": "x", "safe": "yes"},
            "must be an integer",
        ),
    ],
)
def test_each_kind_has_its_contract(tmp_path, kind, row, says):
    with pytest.raises(InputError, match=says):
        read_rows(lines(tmp_path / "r.jsonl", row), kind)


def test_a_null_is_absent(tmp_path):
    assert read_rows(lines(tmp_path / "r.jsonl", {**ROW, "language": None}), Prompts) == [ROW]


def test_columns_are_renamed():
    row = {"id": "a", "question": "1+1?", "domain": "math"}
    assert rename_columns(row, {"prompt": "question"}, "r.jsonl:1")["prompt"] == "1+1?"
    with pytest.raises(InputError, match="no column 'problem'"):
        rename_columns(row, {"prompt": "problem"}, "r.jsonl:1")


def test_what_cannot_be_read_at_all(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_rows(tmp_path / "absent.jsonl", Prompts)
    with pytest.raises(InputError, match="empty"):
        read_rows(lines(tmp_path / "empty.jsonl"), Prompts)
    with pytest.raises(InputError, match="cannot read rows from a .csv"):
        read_rows(lines(tmp_path / "x.csv"), Prompts)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode() + b"\n" * 9000)[:-12])
    with pytest.raises(InputError, match="not a complete gzip"):
        read_rows(tmp_path / "cut.jsonl.gz", Prompts)
    (tmp_path / "latin.jsonl").write_bytes('{"prompt": "caf\u00e9"}\n'.encode("latin1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_rows(tmp_path / "latin.jsonl", Prompts)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="Parquet"):
        read_rows(tmp_path / "x.parquet", Prompts)
