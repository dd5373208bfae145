"""mix: shares of rows, ids that stay unique, and the table of domains."""

import json

import pytest

from r1pipe.errors import InputError


def chats(known, path, count, domain):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think></think>a"}]
    return known.write(path, [{"id": f"x{i}", "messages": messages, "domain": domain} for i in range(count)])


def test_shares_and_unique_ids(known, run_stage, tmp_path):
    given = {"reasoning": chats(known, tmp_path / "r.jsonl", 300, "math"), "general": chats(known, tmp_path / "g.jsonl", 100, "general")}
    metrics, out = run_stage("mix", {"shares": {"reasoning": 0.8, "general": 0.2}}, chats=given)
    rows = known.read(out["chats"] / "rows.jsonl")
    assert metrics == {"rows": 375, "rows/reasoning": 300, "rows/general": 75}
    assert len({row["id"] for row in rows}) == 375
    assert {row["domain"] for row in rows[:40]} == {"math", "general"}  # shuffled
    assert json.loads((out["chats"] / "card.json").read_text())["domains"]["math"] == {"rows": 300, "share": 0.8, "rounds": 1.0, "characters": 17.0}


def test_without_shares_all_rows_go_in(known, run_stage, tmp_path):
    given = {"reasoning": chats(known, tmp_path / "r.jsonl", 30, "math"), "general": chats(known, tmp_path / "g.jsonl", 10, "general")}
    assert run_stage("mix", {}, chats=given)[0]["rows"] == 40


def test_shares_name_every_input(known, run_stage, tmp_path):
    with pytest.raises(InputError, match="shares are stated for reasoning"):
        run_stage("mix", {"shares": {"reasoning": 1.0}}, chats={"reasoning": chats(known, tmp_path / "r.jsonl", 3, "math"), "general": tmp_path / "r.jsonl"})
