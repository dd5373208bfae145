"""preference-data: pairs and labels, from a judge or from files."""

import json

import pytest

from r1pipe.errors import ConfigError, InputError


def files(shared_data):
    xstest = {
        "path": shared_data / "xstest.jsonl.gz",
        "shape": "refused",
        "columns": {"domain": "label"},
        "values": {"domain": {"safe": "lookalike", "unsafe": "harmful"}},
    }
    hh = {"path": shared_data / "hh_harmless.jsonl.gz", "shape": "chosen-rejected"}
    return {"pairs_from": {"path": shared_data / "pandalm_pairs.jsonl.gz", "shape": "compared"}, "labels_from": [hh, xstest]}


def test_files_alone(known, run_stage, shared_data):
    metrics, out = run_stage("preference-data", files(shared_data))
    pairs, labels = known.read(out["pairs"] / "rows.jsonl"), known.read(out["labels"] / "rows.jsonl")
    assert metrics["pairs"] == len(pairs) > 200 and metrics["labels"] == len(labels) > 2000
    assert abs(metrics["characters/chosen"] / metrics["characters/rejected"] - 1) <= 0.05
    assert {"no clear preference", "length balance"} <= {row["reason"] for row in known.read(out["pairs"] / "dropped.jsonl")}
    assert json.loads((out["labels"] / "card.json").read_text())["unsafe"] > 1000


def test_what_is_missing_is_said(run_stage, tiny_checkpoint):
    with pytest.raises(ConfigError, match="pairs and labels come from files"):
        run_stage("preference-data", {})
    for name in ("pairs", "labels"):
        (run_stage.tmp_path / f"out-{name}").rmdir()
    with pytest.raises(ConfigError, match="go together"):
        run_stage("preference-data", {"judge": "world"}, model=tiny_checkpoint)


def test_labels_of_one_class_are_refused(run_stage, shared_data):
    config = files(shared_data)
    with pytest.raises(InputError, match="labels are safe"):
        run_stage("preference-data", {**config, "labels_from": config["labels_from"][1]})


def test_the_world_judges(known, run_stage, tiny_checkpoint):
    from r1pipe.embedded.judge import CRITERIA_SEEN, compare, is_safe
    from r1pipe.embedded.world import problems

    general, safety = problems("train", ["general"], 120, 0), problems("train", ["harmful", "lookalike"], 60, 0)
    inputs = {"general": known.write(run_stage.tmp_path / "g.jsonl", general), "safety": known.write(run_stage.tmp_path / "s.jsonl", safety)}
    config = {"judge": "world", "also": "world", "sampling": {"n": 2, "max_tokens": 16, "temperature": 1.0}, "length_tolerance": 0.05}
    metrics, out = run_stage("preference-data", config, model=tiny_checkpoint, prompts=inputs)
    pairs, labels = known.read(out["pairs"] / "rows.jsonl"), known.read(out["labels"] / "rows.jsonl")
    by_prompt = {row["prompt"]: row for row in general + safety}
    assert len(pairs) >= 20 and all(pair["margin"] > 1 for pair in pairs)
    better = [compare(by_prompt[pair["prompt"]], pair["chosen"], pair["rejected"], CRITERIA_SEEN) for pair in pairs]
    assert sum(better) / len(better) > 0.8  # the votes are noisy, four of them hardly
    for unit in ("characters", "tokens"):
        assert abs(metrics[f"{unit}/chosen"] / metrics[f"{unit}/rejected"] - 1) <= 0.05
    assert {row["safe"] for row in labels if row["domain"] == "harmful"} == {0, 1}
    assert all(row["safe"] == is_safe(by_prompt[row["prompt"]], row["response"]) for row in labels)
    assert not any(pair["domain"] == "harmful" for pair in pairs)
