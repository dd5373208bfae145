"""prompts: sources to rows, with held-out problems that are in no way training problems."""

import json

import pytest

from r1pipe.errors import ConfigError, InputError


def test_a_file_and_its_heldout_part(known, run_stage, tmp_path):
    path = known.write(
        tmp_path / "a.jsonl",
        [{"id": f"p{i}", "problem": f"{i}+1?", "answer": str(i + 1)} for i in range(100)],
    )
    source = {"path": path, "columns": {"prompt": "problem"}, "domain": "math", "shares": {"heldout": 0.2}}
    metrics, out = run_stage(
        "prompts",
        {"source": source, "heldout": {**source, "split": "heldout"}},
        outputs=("prompts", "heldout"),
    )
    train, heldout = known.read(out["prompts"] / "rows.jsonl"), known.read(out["heldout"] / "rows.jsonl")
    assert len(train) + len(heldout) == 100 == metrics["prompts"] + metrics["heldout"] and not {
        r["id"] for r in train
    } & {r["id"] for r in heldout}
    assert json.loads((out["prompts"] / "card.json").read_text())["domains"] == {"math": len(train)}


def test_the_world(known, run_stage):
    config = {
        "source": {"world": ["reasoning", "general", "safety"], "count": 64},
        "heldout": {"world": "reasoning", "count": 20, "split": "dev"},
    }
    metrics, out = run_stage("prompts", config, outputs=("prompts", "heldout"))
    rows = known.read(out["prompts"] / "rows.jsonl")
    assert (
        len(rows) == 64
        and len({row["domain"] for row in rows}) == 8
        and {row["language"] for row in rows} == {"en", "zh"}
    )


def test_a_heldout_problem_that_is_trained_on_is_refused(known, run_stage, tmp_path):
    path = known.write(tmp_path / "a.jsonl", known.rows())
    with pytest.raises(InputError, match="12 held-out problems are training problems"):
        run_stage(
            "prompts", {"source": {"path": path}, "heldout": {"path": path}}, outputs=("prompts", "heldout")
        )


def test_heldout_and_its_output_go_together(known, run_stage, tmp_path):
    path = known.write(tmp_path / "a.jsonl", known.rows())
    with pytest.raises(ConfigError, match="go together"):
        run_stage("prompts", {"source": {"path": path}}, outputs=("prompts", "heldout"))


def test_code_is_left_out_without_isolation(known, run_stage, here):
    here.isolation = False
    metrics, out = run_stage("prompts", {"source": {"world": "reasoning", "count": 20}})
    assert metrics == {"prompts": 16, "dropped": 4}
    assert {row["reason"] for row in known.read(out["prompts"] / "dropped.jsonl")} == {
        "code without isolation"
    }
