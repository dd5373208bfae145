"""Malformed inputs: each is refused with file and line, or counted as skipped if the source allows it.

There is never a traceback, and never silence.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1pipe.artifacts import Chats, Labels, Pairs, Prompts
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError

ROW = {"id": "a", "prompt": "1+1?", "domain": "math", "answer": "2"}
TESTS = {"kind": "asserts", "setup": "", "asserts": ["assert f(1) == 2"]}
CHAT = {
    "id": "a",
    "domain": "general",
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}],
}
PAIR = {"id": "a", "domain": "general", "prompt": "hi", "chosen": "x", "rejected": "y"}
LABEL = {"id": "a", "domain": "harmful", "prompt": "hi", "response": "x", "safe": 1}
GOOD = {Prompts: ROW, Chats: CHAT, Pairs: PAIR, Labels: LABEL}


def line(row: Any, **changed: Any) -> bytes:
    return json.dumps({**row, **changed}).encode() + b"\n"


@dataclass
class Case:
    name: str
    says: str
    content: bytes
    file: str = "x.jsonl"
    at: str = ""  # where: behind the file's name
    kind: type = Prompts
    config: dict[str, Any] | None = None


def asks_something_else(row: dict) -> dict:
    """The row with another question: of equal prompts the second is left out."""
    questions = {name: f"{row[name]} Why?" for name in ("prompt", "question") if name in row}
    return {**row, **questions, **({"turns": ["Why?"]} if "turns" in row else {})}


def bad_rows() -> list[Case]:
    """Malformed rows, each as line 2 of 3."""
    cases: list[Case] = []

    def add(
        name: str,
        says: str,
        bad: bytes | dict,
        kind: type = Prompts,
        good: dict | None = None,
        **config: Any,
    ) -> None:
        good = good or GOOD[kind]
        bad = line(bad) if isinstance(bad, dict) else bad + b"\n"
        cases.append(
            Case(
                name,
                says,
                line(good, id="first") + bad + line(asks_something_else(good), id="third"),
                at=":2",
                kind=kind,
                config=config,
            )
        )

    syntax = {
        "unclosed object": b'{"id": "b", ',
        "unclosed string": b'{"id": "b',
        "single quotes": b"{'id': 'b'}",
        "trailing comma": b'{"id": "b",}',
        "no quotes": b"{id: b}",
        "comment": b'{"id": "b"} // two',
        "two objects": line(ROW).strip() * 2,
        "raw NUL bytes": b"\x00" * 100,
        "NUL in a string": b'{"id": "b\x00"}',
        "raw tab in a string": b'{"id": "b\tc"}',
        "CSV": b"id,prompt,answer",
        "Python's None": b'{"id": None}',
        "Python's True": b'{"id": True}',
        "NaN": b'{"id": "b", "prompt": "q", "score": NaN}',
        "Infinity": b'{"id": "b", "prompt": "q", "score": Infinity}',
        "-Infinity": b'{"id": "b", "prompt": "q", "x": [[-Infinity]]}',
        "a key twice": b'{"id": "b", "id": "c", "prompt": "q"}',
        "hex number": b'{"id": 0x1}',
        "leading zero": b'{"id": 01}',
        "an escape that is none": b'{"id": "\\x41"}',
        "half an escape": b'{"id": "\\u12"}',
        "a number of 5,000 digits": b'{"id": ' + b"9" * 5000 + b"}",
        "100,000 brackets": b'{"id": ' + b"[" * 100_000,
        "nested too deeply for Python": b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        "a line feed in a string": b'{"id": "b\n"}',
        "a BOM in the middle": "\ufeff".encode() + line(ROW, id="b").strip(),
    }
    for name, content in syntax.items():
        add(name, "broken JSON", content)
    for name, content in {
        "a list": b"[1, 2]",
        "a string": b'"row"',
        "a number": b"7",
        "null": b"null",
        "true": b"true",
    }.items():
        add(name, "not an object", content)
    add("latin-1", "not UTF-8", '{"id": "b", "prompt": "café"}'.encode("latin1"))
    add("a cut character", "not UTF-8", '{"id": "b", "prompt": "加'.encode()[:-1] + b'"}')
    add("an overlong NUL", "not UTF-8", b'{"id": "b\xc0\x80"}')
    add("GBK", "not UTF-8", '{"id": "b", "prompt": "一加一"}'.encode("gbk"))
    add("a raw surrogate", "not UTF-8", b'{"id": "b\xed\xa0\x80"}')
    add(
        "a lone high surrogate",
        "half a surrogate pair",
        b'{"id": "b", "prompt": "\\ud83d", "domain": "math"}',
    )
    add("a lone low surrogate in a key", "half a surrogate pair", b'{"id": "b", "prompt": "q", "\\udc00": 1}')
    add(
        "nested 100 levels deep",
        "more than 64 levels",
        b'{"id": "b", "prompt": "q", "x": ' + b"[" * 100 + b"]" * 100 + b"}",
    )

    def without(row: dict, column: str) -> dict:
        return {name: value for name, value in row.items() if name != column}

    add("no prompt", "no column 'prompt'", without(ROW, "prompt"))
    add("prompt is null", "no column 'prompt'", {**ROW, "prompt": None})
    add("an empty object", "no column 'prompt'", b"{}")
    add("a prompt of spaces", "prompt is empty", {**ROW, "id": "b", "prompt": " \n"})
    add("a prompt that is a number", "neither a text nor a list", {**ROW, "prompt": 5})
    add("a prompt that is an object", "neither a text nor a list", {**ROW, "prompt": {"text": "q"}})
    add("an empty list of messages", "neither a text nor a list", {**ROW, "prompt": []})
    add("messages without roles", "has the role None", {**ROW, "prompt": [{"content": "q"}]})
    add(
        "a role that is a number",
        "has the role 1",
        {**ROW, "prompt": [{"role": 1, "content": "q"}] * 2},
    )
    add("an answer that is an object", "column 'answer'", {**ROW, "id": "b", "answer": {"is": "2"}})
    add("an answer that is true", "column 'answer'", {**ROW, "id": "b", "answer": True})
    add("a level in words", "column 'level'", {**ROW, "id": "b", "level": "hard"})
    add("a level of 1.5", "column 'level'", {**ROW, "id": "b", "level": 1.5})
    add("a domain that is a list", "column 'domain'", {**ROW, "id": "b", "domain": [1]})
    add("a language that is a number", "column 'language'", {**ROW, "id": "b", "language": 1})
    add("an id that is a list", "column 'id'", {**ROW, "id": ["b"]})
    add("a solution that is an object", "column 'solution'", {**ROW, "id": "b", "solution": {}})
    add("a huge id of a wrong type", "column 'id'", {**ROW, "id": ["b" * 10**6]})
    add("tests of no kind", "tests has kind None", {**ROW, "id": "b", "tests": {}})
    add(
        "tests of an unknown kind", "tests has kind 'pytest'", {**ROW, "id": "b", "tests": {"kind": "pytest"}}
    )
    add("tests that are a string", "tests has kind None", {**ROW, "id": "b", "tests": "assert"})
    add("tests without asserts", "have no 'asserts'", {**ROW, "id": "b", "tests": {**TESTS, "asserts": []}})
    add(
        "an entry point that is a number",
        "column 'entry_point'",
        {**ROW, "id": "b", "tests": TESTS, "entry_point": 1},
    )
    add(
        "the column that `columns` names",
        "no column 'question'",
        {**ROW, "id": "b"},
        good={**ROW, "question": "q"},
        columns={"prompt": "question"},
    )
    turns = {**ROW, "turns": ["q"]}
    add(
        "a place that a list does not have",
        "no column 'turns.0'",
        {**turns, "turns": []},
        good=turns,
        columns={"prompt": "turns.0"},
    )
    add(
        "a place in what is no list",
        "no column 'turns.0'",
        {**turns, "turns": 3},
        good=turns,
        columns={"prompt": "turns.0"},
    )
    add(
        "the column that a template names",
        "no column 'turns'",
        {**ROW, "id": "b"},
        good=turns,
        templates={"prompt": "{turns}"},
    )
    add(
        "a value that is not mapped",
        "does not map",
        {**ROW, "domain": "maths"},
        values={"domain": {"math": "math"}},
    )
    add(
        "no mark before the answer",
        "has no '####'",
        {**ROW, "id": "b"},
        good={**ROW, "answer": "so #### 2"},
        answer_after="####",
    )
    add(
        "a mark in an answer that is a list",
        "column 'answer'",
        {**ROW, "answer": [1]},
        good={**ROW, "answer": "#### 2"},
        answer_after="####",
    )
    plus = {
        "prompt": "q",
        "solution": "def f(x): return x",
        "entry_point": "f",
        "inputs": [[1]],
        "domain": "general",
    }
    add(
        "arguments that are no lists",
        "not a list of argument lists",
        {**plus, "inputs": [1]},
        good=plus,
        shape="reference-tests",
    )
    add(
        "a tolerance in words", "column 'atol'", {**plus, "atol": "small"}, good=plus, shape="reference-tests"
    )
    chat = CHAT["messages"]
    add("no messages", "no column 'prompt'", without(CHAT, "messages"), Chats)
    add("messages that are a string", "no column 'prompt'", {**CHAT, "messages": "hi"}, Chats)
    add("no messages in the list", "must end with", {**CHAT, "id": "b", "messages": []}, Chats)
    add("the user's message last", "must end with", {**CHAT, "id": "b", "messages": chat[:1]}, Chats)
    add("a message that is a string", "not all {role, content}", {**CHAT, "messages": ["hi"]}, Chats)
    add(
        "a message without content",
        "a message holds None",
        {**CHAT, "messages": [{"role": "user"}]},
        Chats,
    )
    add(
        "content that is null",
        "a message holds None",
        {**CHAT, "messages": [chat[0], {**chat[1], "content": None}]},
        Chats,
    )
    add(
        "content in parts",
        "a message holds [{'type'",
        {**CHAT, "id": "b", "messages": [{"role": "user", "content": [{"type": "text"}]}, chat[1]]},
        Chats,
    )
    add(
        "a message without role",
        "has the role None",
        {**CHAT, "id": "b", "messages": [{"content": "hi"}, chat[1]]},
        Chats,
    )
    add(
        "a slot that nothing fills",
        "nothing fills {{name}}",
        {**CHAT, "messages": [chat[0], {**chat[1], "content": "I am {{name}}"}]},
        Chats,
    )
    task = {"instruction": "say", "output": "ho"}
    add(
        "an instruction that is a number",
        "column 'instruction'",
        {**task, "instruction": 5},
        Chats,
        good=task,
        shape="instruction",
    )
    add(
        "an input that is a list",
        "column 'input'",
        {**task, "input": ["x"]},
        Chats,
        good=task,
        shape="instruction",
    )
    add(
        "an instruction without output",
        "no column 'response'",
        without(task, "output"),
        Chats,
        good=task,
        shape="instruction",
    )
    add(
        "an output that is a number",
        "column 'response'",
        {**task, "output": 5},
        Chats,
        good=task,
        shape="instruction",
    )
    add("no rejected", "no column 'rejected'", without(PAIR, "rejected"), Pairs)
    add("chosen that is a list", "not all {role, content}", {**PAIR, "chosen": ["x"]}, Pairs)
    add("a margin in words", "column 'margin'", {**PAIR, "id": "b", "margin": "large"}, Pairs)
    add(
        "a margin above all numbers",
        "column 'margin'",
        line({**PAIR, "id": "b", "margin": 7}).replace(b"7", b"1e999").strip(),
        Pairs,
    )
    compared = {"prompt": "q", "response1": "x", "response2": "y", "label": 1}
    add(
        "a response that is null",
        "no column 'response2'",
        {**compared, "response2": None},
        Pairs,
        good=compared,
        shape="compared",
    )
    add(
        "a response that is a number",
        "column 'response1'",
        {**compared, "response1": 1},
        Pairs,
        good=compared,
        shape="compared",
    )
    add("safe is 2", "safe is 2", {**LABEL, "id": "b", "safe": 2}, Labels)
    add("safe is yes", "column 'safe'", {**LABEL, "id": "b", "safe": "yes"}, Labels)
    add("no response", "no column 'response'", without(LABEL, "response"), Labels)
    # Found when the order is drawn, so which of the two is named depends on the seed.
    cases.append(
        Case(
            "an id twice",
            "appears twice",
            line(ROW, prompt="x") + line(ROW, id="b", prompt="z") + line(ROW, prompt="y"),
        )
    )
    return cases


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def bad_files() -> list[Case]:
    """What no `on_bad_row` may skip: nobody knows how many rows are missing."""
    many = b"".join(line(ROW, id=str(number), prompt=f"{number}?") for number in range(2000))
    zst = pa.compress(many, codec="zstd", asbytes=True)
    noise = bytes(range(256)) * 8
    good = parquet(pa.Table.from_pylist([ROW]))
    torn = bytearray(
        parquet(
            pa.Table.from_pylist([{**ROW, "id": str(n), "prompt": f"{n} + {n * 7919}?"} for n in range(2000)])
        )
    )
    torn[4:2000] = noise[: 2000 - 4]
    wide = pa.table({"id": ["a"], "prompt": ["q"], "score": [float("nan")]})
    text = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe")
    )
    return [
        Case("an empty file", "dataset is empty", b""),
        Case("blank lines", "dataset is empty", b"\n \n\r\n"),
        Case("an empty gz", "not a complete gzip", b"", "x.jsonl.gz"),
        Case("an empty zst", "not a complete zst", b"", "x.jsonl.zst"),
        Case("an empty xz", "not a complete xz", b"", "x.jsonl.xz"),
        Case("a gz of nothing", "dataset is empty", gzip.compress(b""), "x.jsonl.gz"),
        Case("a truncated gz", "not a complete gzip", gzip.compress(many)[:-100], "x.jsonl.gz"),
        Case("a gz without its checksum", "not a complete gzip", gzip.compress(many)[:-8], "x.jsonl.gz"),
        Case(
            "a gz with a wrong checksum",
            "not a complete gzip",
            gzip.compress(many)[:-8] + b"\0" * 8,
            "x.jsonl.gz",
        ),
        Case(
            "a gz with noise inside", "not a complete gzip", gzip.compress(many)[:200] + noise, "x.jsonl.gz"
        ),
        Case("a gz that is plain text", "not a complete gzip", many, "x.jsonl.gz"),
        Case("a zst that is plain text", "not a complete zst", many, "x.jsonl.zst"),
        Case("a truncated zst", "not a complete zst", zst[:-50], "x.jsonl.zst"),
        Case("an xz that is plain text", "not a complete xz", many, "x.jsonl.xz"),
        Case("a truncated xz", "not a complete xz", lzma.compress(many)[:-50], "x.jsonl.xz"),
        Case("a truncated bz2", "not a complete bz2", bz2.compress(many)[:-50], "x.jsonl.bz2"),
        Case("plain that is gz", "not UTF-8", gzip.compress(many), "x.jsonl", at=":1"),
        Case("UTF-16", "not UTF-8", many.decode().encode("utf-16"), "x.jsonl", at=":1"),
        Case("carriage returns alone", "broken JSON", many.replace(b"\n", b"\r"), "x.jsonl", at=":1"),
        Case("one JSON array", "not an object", json.dumps([ROW, ROW]).encode(), "x.jsonl", at=":1"),
        Case(
            "an array over many lines",
            "broken JSON",
            json.dumps([ROW, ROW], indent=1).encode(),
            "x.jsonl",
            at=":1",
        ),
        Case("a csv", "cannot read rows from a .csv", b"id,prompt\n", "x.csv"),
        Case("an empty array", "dataset is empty", b"[]", "x.json"),
        Case("an array that is not whole", "broken JSON", b'[{"id": "a"}', "x.json"),
        Case("an array of texts", "not an object", b'["a"]', "x.json", at=":1"),
        Case("no ending", "cannot read rows from a file without an ending", many, "x"),
        Case("an empty parquet", "not a readable Parquet", b"", "x.parquet"),
        Case("a parquet of text", "not a readable Parquet", many, "x.parquet"),
        Case("a truncated parquet", "not a readable Parquet", good[:-20], "x.parquet"),
        Case("a parquet with noise inside", "not a readable Parquet|UTF-8", bytes(torn), "x.parquet"),
        Case(
            "a parquet without rows",
            "dataset is empty",
            parquet(pa.Table.from_pylist([ROW]).slice(0, 0)),
            "x.parquet",
        ),
        Case(
            "a parquet of bytes alone",
            "no column can be read",
            parquet(pa.table({"prompt": pa.array([b"q"])})),
            "x.parquet",
        ),
        Case(
            "a parquet with a column twice",
            "two columns are called 'id'",
            parquet(pa.table([["a"], ["b"]], names=["id", "id"])),
            "x.parquet",
        ),
        Case(
            "a parquet without prompt",
            "no column 'prompt'",
            parquet(pa.table({"id": ["a"]})),
            "x.parquet",
            at=":1",
        ),
        Case(
            "a parquet with a null prompt",
            "no column 'prompt'",
            parquet(pa.table({"prompt": ["q", None]})),
            "x.parquet",
            at=":2",
        ),
        Case(
            "a parquet with numbers as prompts",
            "neither a text nor",
            parquet(pa.table({"prompt": [1, 2]})),
            "x.parquet",
            at=":1",
        ),
        Case("a parquet with NaN", "column 'score' holds nan", parquet(wide), "x.parquet", at=":1"),
        Case(
            "a parquet with broken text",
            "not UTF-8",
            parquet(pa.table({"prompt": text})),
            "x.parquet",
            at=":2",
        ),
        Case(
            "a column that `where` names",
            "no row has the column 'lang'",
            line(ROW),
            config={"where": {"lang": ["en"]}},
        ),
    ]


ROWS, FILES = bad_rows(), bad_files()


def source(folder: Path, case: Case, **more: Any) -> Source:
    path = folder / case.file
    path.write_bytes(case.content)
    return Source(path=path, **(case.config or {}), **more)


def test_there_are_a_hundred() -> None:
    names = [case.name for case in ROWS + FILES]
    assert len(names) == len(set(names)) >= 100


@pytest.mark.parametrize("case", ROWS + FILES, ids=lambda case: case.name)
@pytest.mark.parametrize("count", [None, 2])
def test_it_is_refused_with_file_and_line(tmp_path: Path, case: Case, count: int | None) -> None:
    with pytest.raises(InputError, match=re.sub(r"([{}\[])", r"\\\1", case.says)) as caught:
        load(source(tmp_path, case, count=count), case.kind, seed=0)
    assert f"{case.file}{case.at}" in caught.value.where
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("case", ROWS, ids=lambda case: case.name)
@pytest.mark.parametrize("count", [None, 2])
def test_a_malformed_row_is_skipped_and_counted_where_allowed(
    tmp_path: Path, case: Case, count: int | None
) -> None:
    bad = 2 if case.name == "a line feed in a string" else 1  # it makes two lines of one
    with pytest.warns(UserWarning, match=f"{bad} of {2 + bad} rows skipped as malformed"):
        loaded = load(
            source(tmp_path, case, count=count, on_bad_row="skip", max_bad_rows=0.5), case.kind, seed=0
        )
    assert len(loaded.rows) == 2
    assert loaded.reasons == {"malformed row": bad}
    assert all(row["where"] and row["detail"] for row in loaded.dropped)
    with pytest.raises(InputError, match=f"{bad} of {2 + bad} rows are malformed; 10% may be"):
        load(source(tmp_path, case, count=count, on_bad_row="skip", max_bad_rows=0.1), case.kind, seed=0)


@pytest.mark.parametrize("case", FILES[2:20], ids=lambda case: case.name)
def test_a_file_that_is_not_whole_is_never_skipped(tmp_path: Path, case: Case) -> None:
    if case.at:
        pytest.skip("these are malformed rows")
    with pytest.raises(InputError, match=case.says):
        load(source(tmp_path, case, on_bad_row="skip", max_bad_rows=1), case.kind, seed=0)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r1pipe.data.files.MAX_LINE", 1000)
    case = Case("huge", "", line(ROW) + b'{"id": "' + b"x" * 5000 + b'"}\n' + line(ROW, id="b", prompt="2?"))
    with pytest.raises(InputError, match="line is longer than") as caught:
        load(source(tmp_path, case), Prompts, seed=0)
    assert caught.value.where.endswith("x.jsonl:2")
    with pytest.warns(UserWarning, match="1 of 3 rows skipped as malformed"):
        assert (
            len(load(source(tmp_path, case, on_bad_row="skip", max_bad_rows=0.5), Prompts, seed=0).rows) == 2
        )


def test_an_empty_folder_and_a_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(InputError, match="folder has no rows"):
        load(Source(path=tmp_path / "x.jsonl"), Prompts, seed=0)


def test_odd_but_whole_files_are_read(tmp_path: Path) -> None:
    """A BOM, CRLF, no last line feed, blank lines, members one after the other, columns that differ from row to row."""
    one, two = line(ROW), line(ROW, id="b", prompt="2?", level=3)
    contents = {
        "bom.jsonl": "\ufeff".encode() + one + two,
        "crlf.jsonl": (one + two).replace(b"\n", b"\r\n"),
        "no-end.jsonl": one + b"\n \n" + two.rstrip(),
        "two.jsonl.gz": gzip.compress(one) + gzip.compress(two),
        "two.jsonl.zst": pa.compress(one, codec="zstd", asbytes=True)
        + pa.compress(two, codec="zstd", asbytes=True),
        "x.jsonl.xz": lzma.compress(one + two),
        "x.jsonl.bz2": bz2.compress(one + two),
        "x.parquet": parquet(pa.Table.from_pylist([{**ROW, "level": None}, json.loads(two)])),
    }
    found = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        found.append(load(Source(path=tmp_path / name), Prompts, seed=0).rows)
    assert all(rows == found[0] for rows in found)
    assert len(found[0]) == 2


def test_parquet_columns_that_no_row_can_hold_are_left_out_with_a_warning(tmp_path: Path) -> None:
    table = pa.table(
        {"prompt": ["q"], "image": [b"png"], "when": pa.array([0], pa.timestamp("s")), "tags": [["x"]]}
    )
    (tmp_path / "x.parquet").write_bytes(parquet(table))
    with pytest.warns(UserWarning, match=r"left out.*image \(binary\), when \(timestamp"):
        (row,) = load(Source(path=tmp_path / "x.parquet"), Prompts, seed=0).rows
    assert row["tags"] == ["x"]
    assert "image" not in row


@pytest.mark.parametrize(
    "name", ["unclosed object", "a lone high surrogate", "a truncated gz", "a parquet of text"]
)
def test_the_command_line_exits_with_2(tmp_path: Path, name: str) -> None:
    from engine import environment

    case = next(case for case in ROWS + FILES if case.name == name)
    (tmp_path / case.file).write_bytes(case.content)
    (tmp_path / "t.yaml").write_text(
        f"stages:\n  prompts: {{source: {{path: {case.file}}}, outputs: {{prompts: p}}}}\n"
    )
    command = [sys.executable, "-m", "r1pipe.cli.main", "run-all", "t.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{case.file}{case.at}" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "runs/t/prompts/manifest.json").exists()
