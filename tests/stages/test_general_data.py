"""general-data: replies of a writer and of files, few refusals, empty thinking where none is needed."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from r1pipe.errors import ConfigError, InputError

sys.path.append(str(Path(__file__).parents[1] / "generation"))
from service import stats, writer  # noqa: E402


def test_files_alone(known, run_stage, shared_data):
    reuse = [
        {
            "path": [shared_data / "seed_tasks.jsonl.gz", shared_data / "user_instructions.jsonl.gz"],
            "shape": "instruction",
            "language": "en",
        },
        {"path": shared_data / "identity.jsonl.gz", "shape": "instruction", "columns": {"language": "lang"}},
    ]
    metrics, out = run_stage("general-data", {"reuse": reuse, "identity": {"name": "Tiny", "author": "Us"}})
    rows = known.read(out["chats"] / "rows.jsonl")
    assert metrics["kept"] == len(rows) >= 350 and {row["source"] for row in rows} == {"reuse"}
    assert all(row["messages"][1]["content"].startswith("<think></think>") for row in rows)
    assert "{{" not in json.dumps(rows) and any("Tiny" in row["messages"][1]["content"] for row in rows)


def test_a_slot_that_nothing_fills_is_an_error(run_stage, shared_data):
    reuse = {
        "path": shared_data / "identity.jsonl.gz",
        "shape": "instruction",
        "columns": {"language": "lang"},
    }
    with pytest.raises(InputError, match=r"nothing fills \{\{author\}\}") as caught:
        run_stage("general-data", {"reuse": reuse, "identity": {"name": "Tiny"}})
    assert "identity.jsonl.gz:1" in caught.value.where and "identity: {author: ...}" in caught.value.fix


def test_what_a_source_leaves_out_is_in_dropped(known, run_stage, tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "Say hi.", "output": "Hi."}\n{"instruction": \n{"instruction": "Say ho.", "output": "Ho."}\n'
    )
    reuse = {"path": tmp_path / "a.jsonl", "shape": "instruction", "on_bad_row": "skip", "max_bad_rows": 0.5}
    with pytest.warns(UserWarning, match="1 of 3 rows skipped as malformed"):
        metrics, out = run_stage("general-data", {"reuse": reuse})
    (dropped,) = known.read(out["chats"] / "dropped.jsonl")
    assert (
        metrics["kept"] == 2
        and dropped["reason"] == "malformed row"
        and dropped["where"].endswith("a.jsonl:2")
        and "broken JSON" in dropped["detail"]
    )
    assert json.loads((out["chats"] / "card.json").read_text())["reviews"] == "not reviewed by people"


def test_nothing_to_do_is_refused(run_stage):
    with pytest.raises(ConfigError, match="nothing to write and nothing to reuse"):
        run_stage("general-data", {})


def test_ids_that_prompts_and_reused_rows_share_cost_no_row(known, run_stage, tmp_path):
    """Two files that each count their rows from 1."""
    from r1pipe.embedded.world import problems

    prompts = [
        {**row, "id": str(number)} for number, row in enumerate(problems("train", ["general"], 5, 0), 1)
    ]
    said = [
        {"id": str(number), "instruction": f"Say {number}.", "output": f"It is {number}."}
        for number in range(1, 9)
    ]
    config = {
        "writer": "world",
        "reuse": {"path": known.write(tmp_path / "r.jsonl", said), "shape": "instruction"},
    }
    metrics, out = run_stage("general-data", config, prompts=known.write(tmp_path / "p.jsonl", prompts))
    rows = known.read(out["chats"] / "rows.jsonl")
    assert Counter(row["source"] for row in rows) == {"written": 5, "reuse": 8} and metrics["prompts"] == 13
    assert len({row["id"] for row in rows}) == 13


def test_the_world_writes_with_few_refusals(known, run_stage, tmp_path):
    from r1pipe.embedded.world import problems
    from r1pipe.embedded.world_judge import is_refusal, is_right

    prompts = problems("train", ["general"], 300, 0) + problems("train", ["harmful", "lookalike"], 100, 0)
    path = known.write(tmp_path / "p.jsonl", prompts)
    config = {"writer": "world", "judge": "world", "careful": 0.5, "refusal_share": 0.02}
    metrics, out = run_stage("general-data", config, prompts=path)
    rows = known.read(out["chats"] / "rows.jsonl")
    domains = Counter(row["domain"] for row in rows)
    assert domains["harmful"] == 7 and domains["general"] > 250
    by_id = {row["id"]: row for row in prompts}
    for row in rows:
        reply = row["messages"][1]["content"]
        assert is_refusal(reply) == (row["domain"] == "harmful")
        assert is_right(by_id[row["id"]], reply) or row["domain"] == "harmful"
    assert {"enough refusals"} <= {row["reason"] for row in known.read(out["chats"] / "dropped.jsonl")}
    assert metrics["kept"] == len(rows)


def test_a_language_model_that_dies_while_it_judges_the_worlds_replies_is_paid_once(
    known, run_stage, tmp_path, monkeypatch
):
    from r1pipe.embedded.world import problems
    from r1pipe.text import endpoint

    monkeypatch.setattr(endpoint, "FIRST_WAIT_S", 0.01)
    path = known.write(tmp_path / "p.jsonl", problems("train", ["general"], 100, 0))

    def made(judging, model):
        judge = {"base_url": judging, "model": model, "max_in_flight": 4, "retries": 0}
        _, out = run_stage("general-data", {"writer": "world", "judge": judge}, prompts=path)
        found = {file.name: file.read_text() for file in out["chats"].iterdir()}
        out["chats"].rename(tmp_path / f"{model}-{len(list(tmp_path.iterdir()))}")
        return found

    with writer("judge") as judging:
        with pytest.raises(InputError, match="gave no answer 32 times running"):
            made(judging, "dies")  # after 40 questions
        (tmp_path / "out-chats").rmdir()
        endpoint.endpoint.cache_clear()  # as in a new process
        before = stats(judging)["requests"]
        resumed = made(judging, "good")
        assert stats(judging)["requests"] - before <= 60 + 4
        for file in (tmp_path / "workdir").iterdir():
            file.unlink()
        assert made(judging, "good") == resumed
        assert "wrong by the judge" in resumed["dropped.jsonl"] and resumed["rows.jsonl"]
