"""compare: win rates against one checkpoint and paired differences, from reports."""

import json
import sys
import tempfile
from pathlib import Path

import pytest

from r1pipe.errors import ConfigError, InputError

sys.path.append(str(Path(__file__).parents[1] / "generation"))
from service import stats, writer  # noqa: E402


def report(known, folder, name, lines):
    folder.mkdir()
    known.write(
        folder / "rows.jsonl",
        [{"pass": None, "sample": 0, "tokens": 5, "response": "", **line} for line in lines],
    )
    (folder / "scores.json").write_text(json.dumps({name: {}}))
    return folder


def test_paired_differences(known, run_stage, tmp_path):
    zero = [
        {"id": f"p{i}", "scores": {"math": float(i % 4 != 0), "reasoning": float(i % 4 != 0)}}
        for i in range(100)
    ]
    base = [
        {"id": f"p{i}", "scores": {"math": float(i % 4 == 1), "reasoning": float(i % 4 == 1)}}
        for i in range(100)
    ]
    reports = {
        "base": report(known, tmp_path / "b", "base", base),
        "zero": report(known, tmp_path / "z", "zero", zero),
    }
    metrics, out = run_stage("compare", {"differences": [["zero", "base"]]}, reports=reports)
    found = json.loads((out["report"] / "paired.json").read_text())
    assert [one["suite"] for one in found] == ["math", "reasoning"]
    assert (
        found[0]["difference"] == 0.5
        and 0.39 < found[0]["low"] < 0.5 < found[0]["high"] < 0.61
        and found[0]["n"] == 100
    )
    assert metrics["zero-base/math"] == 0.5 and metrics["zero-base/math/low"] == found[0]["low"]


def test_what_cannot_be_compared(known, run_stage, tmp_path):
    reports = {"base": report(known, tmp_path / "b", "other", [{"id": "p", "scores": {"math": 1.0}}])}
    with pytest.raises(ConfigError, match="no report of zero"):
        run_stage("compare", {"differences": [["zero", "base"]]}, reports=reports)
    (tmp_path / "out-report").rmdir()
    with pytest.raises(InputError, match="'base' holds the scores of other"):
        run_stage("compare", {"differences": [["base", "base"]]}, reports=reports)


def test_a_report_of_another_run_may_have_another_name(known, run_stage):
    with tempfile.TemporaryDirectory() as run:
        reports = {
            name: report(known, Path(run) / name, "r1", [{"id": "p", "scores": {"math": score}}])
            for name, score in (("one-r1", 0.0), ("another-r1", 1.0))
        }
        metrics, _ = run_stage("compare", {"differences": [["another-r1", "one-r1"]]}, reports=reports)
    assert metrics["another-r1-one-r1/math"] == 1.0


def test_the_world_compares_careful_with_sloppy_replies(known, run_stage, tmp_path):
    import random

    from r1pipe.embedded.oracle import write
    from r1pipe.embedded.world import problems

    rows, rng = problems("heldout", ["general"], 120, 0), random.Random(0)
    prompts = known.write(tmp_path / "p.jsonl", rows)
    reports = {
        name: report(
            known,
            tmp_path / name,
            name,
            [
                {"id": row["id"], "response": write(row, rng, quality), "scores": {"general": 1.0}}
                for row in rows
            ],
        )
        for name, quality in (("dev3", "sloppy"), ("r1", "careful"))
    }
    config = {"judge": "world", "against": "dev3", "differences": [["r1", "dev3"]]}
    metrics, out = run_stage("compare", config, reports=reports, prompts=prompts)
    scores = json.loads((out["report"] / "scores.json").read_text())
    mine = scores["r1"]["helpful"]
    assert (
        mine["pass@1"] == metrics["helpful/r1"] > 0.7
        and mine["won"] > 0.8
        and 0.9 < mine["won_low"] < mine["won"] <= mine["won_high"]
    )
    assert (
        mine["wins"] + mine["losses"] + mine["ties"] == 120
        and mine["decided"] == (mine["wins"] + mine["losses"]) / 120
    )
    assert mine["pass@1/seen"] > 0.6 and mine["n"] == 120 and mine["tokens"] == 5
    assert scores["dev3"]["helpful"]["pass@1"] == 0.5 and scores["dev3"]["helpful"]["decided"] == 0
    helpful = next(
        one for one in json.loads((out["report"] / "paired.json").read_text()) if one["suite"] == "helpful"
    )
    assert helpful["difference"] == pytest.approx(mine["pass@1"] - 0.5) and helpful["low"] > 0
    assert len(known.read(out["report"] / "rows.jsonl")) == 240


def test_a_model_behind_a_service_compares_in_both_orders(known, run_stage, tmp_path):
    """Longer is better to this judge; one that favours the first reply decides nothing."""
    rows = [
        {"id": f"g{i}", "prompt": f"Greet me {i}.", "domain": "general", "language": "en"} for i in range(20)
    ]
    prompts = known.write(tmp_path / "p.jsonl", rows)
    # 12 longer, 4 as long, 4 shorter; thinking is not shown to the judge
    lengths = [9] * 12 + [5] * 4 + [2] * 4
    said = {
        "dev3": ["<think>no</think>hello"] * 20,
        "r1": [f"<think>so</think>{'h' * length}" for length in lengths],
    }
    said["r1"][12] = "<think>another way</think>hello"
    reports = {}
    for name, responses in said.items():
        lines = [
            {"id": row["id"], "response": response, "scores": {"general": 1.0}}
            for row, response in zip(rows, responses, strict=True)
        ]
        reports[name] = report(known, tmp_path / name, name, lines)

    def compared(model):
        config = {"judge": {"base_url": base_url, "model": model}, "against": "dev3"}
        config["differences"] = [["r1", "dev3"]]
        metrics, out = run_stage("compare", config, reports=reports, prompts=prompts)
        return metrics, out["report"]

    with writer("judge") as base_url:
        metrics, folder = compared("good")
        # a summary that is equal asks nothing
        assert stats(base_url)["requests"] == 2 * 19
        scores = json.loads((folder / "scores.json").read_text())
        mine = scores["r1"]["helpful"]
        assert (mine["wins"], mine["losses"], mine["ties"]) == (12, 4, 4)
        assert mine["pass@1"] == metrics["helpful/r1"] == 0.7 and mine["won"] == 0.75
        assert (mine["consistent"], mine["first"], mine["unjudged"]) == (1.0, 0.5, 0)
        assert 0.5 < mine["won_low"] < 0.75 < mine["won_high"] < 0.9
        assert "seen" not in known.read(folder / "rows.jsonl")[0]
        assert metrics["r1-dev3/helpful"] == pytest.approx(0.2)
        # all of it once more where the stage's folder still has what was said
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        compared("good")
        assert stats(base_url)["requests"] == 2 * 19

        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        for journal in (tmp_path / "workdir").glob("judge-*"):
            journal.unlink()
        _, folder = compared("biased")
        mine = json.loads((folder / "scores.json").read_text())["r1"]["helpful"]
        assert (mine["ties"], mine["first"], mine["won"]) == (20, 1.0, 0.5)
        assert mine["consistent"] == 4 / 20
