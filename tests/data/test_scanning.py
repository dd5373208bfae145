"""A scan: every row on disk by number, the same whether it was killed or done by several processes."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

import r1pipe.data.scanning as scan_module
from r1pipe.artifacts import Chats
from r1pipe.data.scanning import Measure, scan
from r1pipe.errors import InputError


def rows(count, start=0):
    return [
        {
            "id": f"r{i}",
            "messages": [
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "content": "<think></think>" + f"回答 {i}" * 20},
            ],
            "domain": f"d{i % 3}",
        }
        for i in range(start, start + count)
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def quiet(done, total):
    assert done <= total


def folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_rows_by_number_from_every_format(tmp_path):
    import pyarrow
    import pyarrow.parquet

    made = rows(30)
    plain = write(tmp_path / "a.jsonl", made[:20])
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"language": None, **row} for row in made[20:]]), tmp_path / "b.parquet"
    )
    reported = []
    found = scan(
        {"a": plain, "b": tmp_path / "b.parquet"},
        Chats,
        Measure(),
        folder(tmp_path, "w"),
        progress=lambda done, total: reported.append((done, total)),
    )
    assert [found.row(number) for number in range(30)] == made
    assert found.domains == ["d0", "d1", "d2"]
    assert found.input(19) == "a"
    assert found.input(20) == "b"
    assert found.entries["characters"][3] == len("question 3") + len("<think></think>") + len("回答 3") * 20
    assert reported[-1][0] == 30


def _killed(path, work, after):
    def tell(done, total):
        if done > after:
            os.kill(os.getpid(), signal.SIGKILL)

    scan_module._CHUNK = 2000
    scan({"a": path}, Chats, Measure(threshold=0.75), work, progress=tell)


def test_a_killed_scan_goes_on(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", rows(200))
    whole = scan({"a": path}, Chats, Measure(threshold=0.75), folder(tmp_path, "whole"), progress=quiet)
    work = folder(tmp_path, "w")
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(path, work, 60))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with (work / scan_module.ROWS).open("ab") as stream:
        stream.write(b'{"id": "half a row')
    with (work / scan_module.ENTRIES).open("ab") as stream:
        stream.write(b"half an entry")
    measured = []
    measure_bytes = Measure.__call__

    def counted(self, *arguments):
        entries = measure_bytes(self, *arguments)
        measured.append(entries)
        return entries

    monkeypatch.setattr(Measure, "__call__", counted)
    again = scan({"a": path}, Chats, Measure(threshold=0.75), work, progress=quiet)
    assert sum(map(len, measured)) < 140  # what was done is not done again
    assert (again.entries == whole.entries).all()
    assert (work / scan_module.ROWS).read_bytes() == (tmp_path / "whole" / scan_module.ROWS).read_bytes()
    assert (work / scan_module.ENTRIES).read_bytes() == (
        tmp_path / "whole" / scan_module.ENTRIES
    ).read_bytes()


def test_several_processes_find_the_same(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", rows(300))
    alone = scan({"a": path}, Chats, Measure(threshold=0.75), folder(tmp_path, "alone"), progress=quiet)
    monkeypatch.setattr(scan_module, "_ALONE", 0)
    monkeypatch.setattr(scan_module, "_CHUNK", 5000)
    several = scan({"a": path}, Chats, Measure(threshold=0.75), folder(tmp_path, "several"), progress=quiet)
    assert (several.entries == alone.entries).all()


def test_an_id_that_appears_twice(tmp_path):
    first, second = write(tmp_path / "a.jsonl", rows(5)), write(tmp_path / "b.jsonl", rows(3, start=3))
    found = scan({"a": first, "b": second}, Chats, Measure(), folder(tmp_path, "w"), progress=quiet)
    assert [found.row(number)["id"] for number in range(5, 8)] == ["r3@b", "r4@b", "r5"]
    with pytest.raises(InputError, match="'r2' appears twice") as caught:
        scan(
            {"a": write(tmp_path / "c.jsonl", [*rows(5), *rows(1, start=2)])},
            Chats,
            Measure(),
            folder(tmp_path, "v"),
            progress=quiet,
        )
    assert "c.jsonl:3 and" in caught.value.where
    assert "c.jsonl:6" in caught.value.where


def ids(found):
    return [found.row(number)["id"] for number in range(len(found.entries))]


def test_ids_stay_unique_over_three_datasets(tmp_path):
    paths = {
        name: write(tmp_path / f"{name}.jsonl", rows(count)) for name, count in (("a", 2), ("b", 1), ("c", 2))
    }
    assert ids(scan(paths, Chats, Measure(), folder(tmp_path, "w"), progress=quiet)) == [
        "r0",
        "r1",
        "r0@b",
        "r0@c",
        "r1@c",
    ]
    again = {"b": write(tmp_path / "mixed.jsonl", [*rows(1), {**rows(1)[0], "id": "r0@c"}]), "c": paths["c"]}
    assert ids(scan(again, Chats, Measure(), folder(tmp_path, "v"), progress=quiet)) == [
        "r0",
        "r0@c",
        "r0@c@c",
        "r1",
    ]  # a mix that is mixed again


def test_an_id_that_appears_twice_behind_one_that_was_renamed(tmp_path):
    paths = {
        "a": write(tmp_path / "a.jsonl", rows(3)),
        "b": write(tmp_path / "b.jsonl", [*rows(3), *rows(1)]),
    }
    with pytest.raises(InputError, match="'r0' appears twice") as caught:
        scan(paths, Chats, Measure(), folder(tmp_path, "w"), progress=quiet)
    assert "b.jsonl:1 and" in caught.value.where
    assert "b.jsonl:4" in caught.value.where


def test_ids_that_share_only_their_hash_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_module, "_hash", lambda name: 7 if "@" not in name else 8)
    paths = {"a": write(tmp_path / "a.jsonl", rows(3)), "b": write(tmp_path / "b.jsonl", rows(2, start=2))}
    assert ids(scan(paths, Chats, Measure(), folder(tmp_path, "w"), progress=quiet)) == [
        "r0",
        "r1",
        "r2",
        "r2@b",
        "r3",
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "x", "domain": "d", "messages": []}', "must end with a message of the assistant"),
        (
            '{"id": "x", "domain": "d", "messages": [{"role": "assistant", "content": "\\ud800"}]}',
            "half a surrogate",
        ),
        ("{", "broken JSON"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, line, says):
    path = write(tmp_path / "a.jsonl", rows(2))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=says) as caught:
        scan({"a": path}, Chats, Measure(), folder(tmp_path, "w"), progress=quiet)
    assert "a.jsonl:3" in caught.value.where


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="empty"):
        scan({"a": write(tmp_path / "a.jsonl", [])}, Chats, Measure(), folder(tmp_path, "w"), progress=quiet)


def test_entries_are_small():
    assert Measure(threshold=0.75).entry.itemsize < 256
    assert np.dtype(Measure().entry).itemsize < 100


def test_lines_are_kept_as_they_stand_unless_people_could_not_read_them(tmp_path):
    row = (
        '{"id": "%s", "domain": "d",  "score": 1.50, '
        '"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think></think>%s"}]%s}'
    )
    lines = [
        row % ("a", "看", ""),
        row % ("b", "\\u770b", ""),
        row % ("c", "x", ', "none": null'),
        "  " + row % ("d", "x", "") + " \r",
    ]
    (tmp_path / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf" + "\n".join([*lines, row % ("e", "x", ',\r "more": 1')]).encode()
    )
    found = scan(
        {"a": tmp_path / "a.jsonl"}, Chats, Measure(threshold=0.75), folder(tmp_path, "w"), progress=quiet
    )
    kept = [found.line(number).decode() for number in range(5)]
    assert kept[0] == lines[0] + "\n"
    assert kept[3] == lines[3].strip() + "\n"
    assert "看" in kept[1]
    assert "none" not in kept[2]
    assert [json.loads(line)["id"] for line in kept] == list("abcde")
    assert all(line.count("\n") == 1 and "\r" not in line for line in kept)
