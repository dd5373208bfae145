"""mix: shares and counts of rows, ids that stay unique, what is removed and why, the cards."""

import json

import pytest
from pydantic import ValidationError

from r1pipe.artifacts import Chats
from r1pipe.data.files import dataset_files
from r1pipe.data.io import read_rows
from r1pipe.errors import InputError
from r1pipe.stages.mix import Config


def chats(known, path, count, domain):
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think></think>a"}]
    return known.write(path, [{"id": f"x{i}", "messages": messages, "domain": domain} for i in range(count)])


def test_shares_and_unique_ids(known, run_stage, tmp_path):
    given = {
        "reasoning": chats(known, tmp_path / "r.jsonl", 300, "math"),
        "general": chats(known, tmp_path / "g.jsonl", 100, "general"),
    }
    metrics, out = run_stage("mix", {"shares": {"reasoning": 0.8, "general": 0.2}}, chats=given)
    rows = known.read(out["chats"] / "rows.jsonl")
    assert metrics == {"rows": 375, "rows/reasoning": 300, "rows/general": 75, "dropped/enough rows": 25}
    assert len({row["id"] for row in rows}) == 375
    assert {row["domain"] for row in rows[:40]} == {"math", "general"}  # shuffled
    math = json.loads((out["chats"] / "card.json").read_text())["statistics"]["domains"]["math"]
    assert (math["rows"], math["share"], math["rounds"], math["characters"]["mean"]) == (300, 0.8, 1.0, 17.0)
    dropped = known.read(out["chats"] / "dropped.jsonl")
    assert len(dropped) == 25 and {(row["input"], row["reason"]) for row in dropped} == {
        ("general", "enough rows")
    }
    assert not {row["id"] for row in dropped} & {row["id"] for row in rows}


def test_without_shares_all_rows_go_in(known, run_stage, tmp_path):
    given = {
        "reasoning": chats(known, tmp_path / "r.jsonl", 30, "math"),
        "general": chats(known, tmp_path / "g.jsonl", 10, "general"),
    }
    metrics, out = run_stage("mix", {}, chats=given)
    assert metrics["rows"] == 40 and not (out["chats"] / "dropped.jsonl").exists()


def test_shares_name_every_input(known, run_stage, tmp_path):
    with pytest.raises(InputError, match="shares are stated for reasoning"):
        run_stage(
            "mix",
            {"shares": {"reasoning": 1.0}},
            chats={
                "reasoning": chats(known, tmp_path / "r.jsonl", 3, "math"),
                "general": tmp_path / "r.jsonl",
            },
        )


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"shares": {"math": 0.5, "code": 0.5, "logic": 0}}, {"math": 20, "code": 20}),
        (
            {"shares": {"math": 0.5, "code": 0.25, "logic": 0.25}, "max_rows": 20},
            {"math": 10, "code": 5, "logic": 5},
        ),
        ({"counts": {"math": 7, "code": 20, "logic": 0}}, {"math": 7, "code": 20}),
    ],
)
def test_domains_over_all_inputs(known, run_stage, tmp_path, stated, expected):
    given = {
        name: chats(known, tmp_path / f"{name}.jsonl", count, domain)
        for name, count, domain in (("a", 30, "math"), ("b", 20, "code"), ("c", 10, "logic"))
    }
    _, out = run_stage("mix", {"by": "domain", **stated}, chats=given)
    found = json.loads((out["chats"] / "card.json").read_text())["statistics"]["domains"]
    assert {name: of["rows"] for name, of in found.items()} == expected


def test_fewer_rows_than_counted_on(known, run_stage, tmp_path):
    with pytest.warns(UserWarning, match="a has 3 rows, fewer than its count of 9"):
        assert (
            run_stage(
                "mix", {"counts": {"a": 9}}, chats={"a": chats(known, tmp_path / "a.jsonl", 3, "math")}
            )[0]["rows"]
            == 3
        )


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ({"counts": {"a": 1}, "max_rows": 3}, "leave out `shares`"),
        ({"shares": {"a": 0.0}}, "one of them above"),
        ({"counts": {"a": -1, "b": 3}}, "at least 0"),
    ],
)
def test_what_makes_no_mix_is_refused_in_the_config(stated, says):
    with pytest.raises(ValidationError, match=says):
        Config(**stated)


def test_what_is_removed_says_why(known, run_stage, tmp_path):
    import random

    rng = random.Random(0)
    words = [[f"w{rng.randrange(3000)}" for _ in range(120)] for _ in range(6)]
    exam = known.write(tmp_path / "exam.jsonl", [{"id": "q7", "problem": " ".join(words[5][:60])}])
    texts = [
        *words[:4],
        words[1][:-3] + ["other", "last", "words"],
        words[4] + words[5][20:30],
        words[4] + words[5][20:29],
    ]
    rows = [
        {
            "id": f"r{i}",
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": " ".join(text)}],
            "domain": "math",
        }
        for i, text in enumerate(texts)
    ]
    against = {"path": str(exam), "columns": {"prompt": "problem"}}
    metrics, out = run_stage(
        "mix",
        {"dedup": {}, "decontaminate": {"against": against}},
        chats={"a": known.write(tmp_path / "a.jsonl", rows)},
    )
    assert metrics == {"rows": 5, "rows/a": 5, "dropped/near-duplicate": 1, "dropped/contaminated": 1}
    copy, contaminated = known.read(out["chats"] / "dropped.jsonl")
    assert (copy["id"], copy["of"], copy["jaccard"]) == ("r4", "r1", round(115 / 121, 4))
    assert (contaminated["id"], contaminated["benchmark"], contaminated["shared"]) == (
        "r5",
        "exam.jsonl: q7",
        " ".join(words[5][20:30]),
    )
    assert "| contaminated | 1 |" in (out["chats"] / "card.md").read_text()


def test_shards_hold_the_same_rows_in_the_same_order(known, run_stage, tmp_path):
    given = {"a": chats(known, tmp_path / "a.jsonl", 25, "math")}
    _, out = run_stage("mix", {"format": "parquet", "shard_rows": 10, "seed": 3}, chats=given)
    files = dataset_files(out["chats"])
    shards = read_rows(out["chats"], Chats)
    for file in [*files, *out["chats"].parent.glob("workdir/*")]:
        file.unlink()
    out["chats"].rename(tmp_path / "shards")
    _, out = run_stage("mix", {"seed": 3}, chats=given)
    assert len(files) == 3 and shards == known.read(out["chats"] / "rows.jsonl")


def test_tokens_are_counted_by_a_checkpoint_s_tokenizer(known, run_stage, tmp_path, tiny_checkpoint):
    _, out = run_stage(
        "mix", {}, chats={"a": chats(known, tmp_path / "a.jsonl", 3, "math")}, tokenizer=tiny_checkpoint
    )
    tokens = json.loads((out["chats"] / "card.json").read_text())["statistics"]["total"]["tokens"]
    assert tokens["max"] == tokens["mean"] == 1 + 3  # q, <think>, </think>, a


def test_a_mix_of_which_nothing_is_left_says_why(run_stage, known, tmp_path):
    text = "one two three four five six seven eight nine ten eleven"
    exam = known.write(tmp_path / "exam.jsonl", [{"id": "e", "prompt": text}])
    rows = [
        {
            "id": f"r{i}",
            "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": f"{text} {i}"}],
            "domain": "math",
        }
        for i in range(3)
    ]
    with pytest.raises(
        InputError, match="0 of 3 rows are left: 3 of 3 share words with a benchmark"
    ) as caught:
        run_stage(
            "mix",
            {"decontaminate": {"against": {"path": str(exam)}}},
            chats={"a": known.write(tmp_path / "a.jsonl", rows)},
        )
    assert "decontaminate.against" in caught.value.fix


def test_the_card_compares_with_the_mix_before(known, run_stage, tmp_path):
    given = {"reasoning": chats(known, tmp_path / "r.jsonl", 3, "math")}
    metrics, out = run_stage("mix", {}, chats=given, before=tmp_path / "r.jsonl")
    card = json.loads((out["chats"] / "card.json").read_text())
    assert metrics["rounds/known_rows"] == card["rounds"]["known_rows"] == 1.0
    assert "Of its rows 100.0% stand in the mix before" in (out["chats"] / "card.md").read_text()
