"""Reviews: resumable, bound to the text that was read, and an input of the mix."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from r1pipe.data.review import (
    NOBODY,
    REJECTED,
    Reviews,
    add_decisions,
    decide,
    export_csv,
    import_csv,
    open_rows,
    read_decisions,
)
from r1pipe.errors import InputError


def chat(number: int, text: str = "ho") -> dict:
    messages = [
        {"role": "user", "content": f"嗨 {number}"},
        {"role": "assistant", "content": f"<think></think>{text}"},
    ]
    return {"id": f"x{number}", "domain": "general", "messages": messages}


ROWS = [chat(number) for number in range(5)]


def test_rejected_rows_go_and_edits_come(tmp_path: Path):
    file = tmp_path / "r.jsonl"
    add_decisions(file, [decide(ROWS[0], "accept"), decide(ROWS[1], "reject"), decide(ROWS[2], "reject")])
    add_decisions(file, [decide(ROWS[2], "edit", "<think></think>hey")])  # the last decision counts
    add_decisions(file, [decide(chat(3, "another text"), "reject")])
    with pytest.warns(UserWarning, match="1 decisions are about other rows or other texts"):
        reviews = Reviews(["a", "b"], {"a": file})
        kept = [found for row in ROWS if (found := reviews("a", row))]
        assert [reviews("b", row) for row in ROWS] == ROWS
        card = reviews.summary()
    assert [row["id"] for row in kept] == ["x0", "x2", "x3", "x4"] and reviews.rejected == [("a", ROWS[1])]
    assert kept[1]["messages"][-1]["content"] == "<think></think>hey" and [
        row.get("review") for row in kept
    ] == [
        "accepted",
        "edited",
        None,
        None,
    ]
    assert card == {"a": {"accepted": 1, "edited": 1, "rejected": 1, "open": 2, "outdated": 1}, "b": NOBODY}


def test_the_wrong_file_is_refused(tmp_path: Path):
    add_decisions(tmp_path / "r.jsonl", [decide(chat(9), "reject")])
    with pytest.raises(InputError, match="none of the 1 decisions"):
        reviews = Reviews(["a"], {"a": tmp_path / "r.jsonl"})
        assert [reviews("a", row) for row in ROWS] == ROWS
        reviews.summary()
    with pytest.raises(InputError, match="reviews of 'c'"):
        Reviews(["a"], {"c": tmp_path / "r.jsonl"})


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_kill_in_the_middle_of_a_line_loses_that_line_only(tmp_path: Path, cut: int):
    file = tmp_path / "r.jsonl"
    add_decisions(file, [decide(ROWS[0], "accept"), decide(ROWS[1], "reject")])
    file.write_bytes(file.read_bytes()[:-cut])
    left = read_decisions(file)
    assert list(left) == (["x0", "x1"] if cut == 1 else ["x0"])  # without its line end a decision is whole
    add_decisions(file, [decide(ROWS[2], "accept")])
    assert list(read_decisions(file)) == [*left, "x2"]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"id": "a"}',
        '{"id": 1, "content": "c", "decision": "accept"}',
        '{"id": "a", "content": "c", "decision": "edit"}',
    ],
)
def test_a_broken_decision_is_named(tmp_path: Path, line: str):
    add_decisions(tmp_path / "r.jsonl", [decide(ROWS[0], "accept")])
    with (tmp_path / "r.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError) as caught:
        read_decisions(tmp_path / "r.jsonl")
    assert caught.value.where.endswith("r.jsonl:2")


def fill(path: Path, decisions: dict[str, tuple[str, str | None]]) -> None:
    """As a spreadsheet does: CRLF also inside the cells."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        table = list(csv.DictReader(stream))
    with path.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        for cells in table:
            decision, text = decisions.get(cells["id"], (cells["decision"], None))
            writer.writerow(
                {**cells, "decision": decision, "response": (text or cells["response"]).replace("\n", "\r\n")}
            )


def test_a_table_goes_out_and_comes_back(tmp_path: Path):
    rows = [*ROWS, chat(5, 'two\nlines, "quoted" ' + "long " * 40_000)]
    known = {"x0": decide(rows[0], "edit", "mine")}
    assert export_csv(rows, known, tmp_path / "t.csv") == 5
    assert import_csv(rows, known, tmp_path / "t.csv") == []
    fill(
        tmp_path / "t.csv",
        {"x1": ("Reject", None), "x5": ("accept", None), "x2": ("edit", "<think></think>so\nor so")},
    )
    new = {one["id"]: one for one in import_csv(rows, known, tmp_path / "t.csv")}
    assert {name: one["decision"] for name, one in new.items()} == {
        "x1": "reject",
        "x2": "edit",
        "x5": "accept",
    }
    assert new["x2"]["text"] == "<think></think>so\nor so" and [
        row["id"] for row in open_rows(rows, known | new)
    ] == [
        "x3",
        "x4",
    ]


@pytest.mark.parametrize(
    ("filled", "says"),
    [
        ({"x1": ("yes", None)}, "decision is 'yes'"),
        ({"x1": ("accept", "changed")}, "was changed, and the decision is accept"),
        ({"x1": ("edit", " ")}, "edited response is empty"),
    ],
)
def test_a_wrong_cell_is_named_and_nothing_is_taken(tmp_path: Path, filled: dict, says: str):
    export_csv(ROWS, {}, tmp_path / "t.csv")
    fill(tmp_path / "t.csv", {"x0": ("accept", None), **filled})
    with pytest.raises(InputError, match=says) as caught:
        import_csv(ROWS, {}, tmp_path / "t.csv")
    assert caught.value.where.endswith("t.csv:3")


def test_a_table_of_another_dataset_is_refused(tmp_path: Path):
    export_csv([chat(0, "other")], {}, tmp_path / "t.csv")
    fill(tmp_path / "t.csv", {"x0": ("accept", None)})
    with pytest.raises(InputError, match="not in the dataset with this text"):
        import_csv(ROWS, {}, tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("id,text\n1,2\n")
    with pytest.raises(InputError, match="no column 'content'"):
        import_csv(ROWS, {}, tmp_path / "t.csv")


def test_the_mix_applies_reviews_and_its_card_says_so(known, run_stage, tmp_path: Path):
    add_decisions(tmp_path / "r.jsonl", [decide(ROWS[1], "reject"), decide(ROWS[0], "accept")])
    given = {
        "reviewed": known.write(tmp_path / "a.jsonl", ROWS),
        "other": known.write(tmp_path / "b.jsonl", [chat(7)]),
    }
    metrics, out = run_stage("mix", {"reviews": {"reviewed": tmp_path / "r.jsonl"}}, chats=given)
    assert metrics["rows"] == 5 and [row["reason"] for row in known.read(out["chats"] / "dropped.jsonl")] == [
        REJECTED
    ]
    assert (
        metrics[f"dropped/{REJECTED}"] == 1
        and "- reviewed: accepted 1, edited 0, rejected 1" in (out["chats"] / "card.md").read_text()
    )
    card = json.loads((out["chats"] / "card.json").read_text())
    assert card["reviews"] == {
        "reviewed": {"accepted": 1, "edited": 0, "rejected": 1, "open": 3, "outdated": 0},
        "other": NOBODY,
    }


def test_a_mix_of_one_input_is_the_review_of_it(known, run_stage, tmp_path: Path):
    """As between cold-start-data and cold-start: nothing is lost but what people rejected, and columns travel along."""
    rows = [{**row, "source": "zero-traces", "language": "zh"} for row in ROWS]
    known.write(tmp_path / "traces.jsonl", rows)
    add_decisions(
        tmp_path / "r.jsonl", [decide(rows[1], "reject"), decide(rows[3], "edit", "<think>better</think>ho")]
    )
    _, out = run_stage(
        "mix", {"reviews": {"traces": tmp_path / "r.jsonl"}}, chats={"traces": tmp_path / "traces.jsonl"}
    )
    kept = {row["id"]: row for row in known.read(out["chats"] / "rows.jsonl")}
    assert kept.pop("x3")["messages"][-1]["content"] == "<think>better</think>ho"
    assert kept == {row["id"]: row for row in rows if row["id"] in ("x0", "x2", "x4")}
