"""preference-data: pairs and labels, from a judge or from files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from preloaded import processes

from r1pipe.errors import ConfigError, InputError

sys.path.append(str(Path(__file__).parents[1] / "generation"))
from service import sampling, stats, writer  # noqa: E402


def files(shared_data):
    xstest = {
        "path": shared_data / "xstest.jsonl.gz",
        "shape": "refused",
        "columns": {"domain": "label"},
        "values": {"domain": {"safe": "lookalike", "unsafe": "harmful"}},
    }
    hh = {"path": shared_data / "hh_harmless.jsonl.gz", "shape": "chosen-rejected"}
    return {
        "pairs_from": {"path": shared_data / "pandalm_pairs.jsonl.gz", "shape": "compared"},
        "labels_from": [hh, xstest],
    }


def test_files_alone(known, run_stage, shared_data):
    metrics, out = run_stage("preference-data", files(shared_data))
    pairs, labels = known.read(out["pairs"] / "rows.jsonl"), known.read(out["labels"] / "rows.jsonl")
    assert metrics["pairs"] == len(pairs) > 200 and metrics["labels"] == len(labels) > 2000
    assert abs(metrics["characters/chosen"] / metrics["characters/rejected"] - 1) <= 0.05
    assert {"no clear preference", "length balance"} <= {
        row["reason"] for row in known.read(out["pairs"] / "dropped.jsonl")
    }
    assert json.loads((out["labels"] / "card.json").read_text())["unsafe"] > 1000


def test_what_is_missing_is_said(run_stage, tiny_checkpoint):
    with pytest.raises(ConfigError, match="pairs and labels come from files"):
        run_stage("preference-data", {})
    for name in ("pairs", "labels"):
        (run_stage.tmp_path / f"out-{name}").rmdir()
    with pytest.raises(ConfigError, match="go together"):
        run_stage("preference-data", {"judge": "world"}, model=tiny_checkpoint)


def test_a_prompt_that_two_inputs_hold_is_refused(known, run_stage, tiny_checkpoint):
    """Its pairs would be called the same, which only the reward model's stage would find out."""
    prompts = known.write(run_stage.tmp_path / "p.jsonl", known.rows())
    with pytest.raises(InputError, match="'p0' appears in two inputs") as caught:
        run_stage(
            "preference-data",
            {"judge": "world"},
            model=tiny_checkpoint,
            prompts={"general": prompts, "safety": prompts},
        )
    assert "inputs.prompts.safety" in caught.value.where


def test_labels_of_one_class_are_refused(run_stage, shared_data):
    config = files(shared_data)
    with pytest.raises(InputError, match="labels are safe"):
        run_stage("preference-data", {**config, "labels_from": config["labels_from"][1]})


def test_the_world_judges(known, run_stage, tiny_checkpoint):
    from r1pipe.embedded.world import problems
    from r1pipe.embedded.world_judge import CRITERIA_SEEN, compare, is_safe

    general, safety = (
        problems("train", ["general"], 120, 0),
        problems("train", ["harmful", "lookalike"], 60, 0),
    )
    inputs = {
        "general": known.write(run_stage.tmp_path / "g.jsonl", general),
        "safety": known.write(run_stage.tmp_path / "s.jsonl", safety),
    }
    config = {
        "judge": "world",
        "also": "world",
        "sampling": {"n": 2, "max_tokens": 16, "temperature": 1.0},
        "length_tolerance": 0.05,
    }
    metrics, out = run_stage("preference-data", config, model=tiny_checkpoint, prompts=inputs)
    pairs, labels = known.read(out["pairs"] / "rows.jsonl"), known.read(out["labels"] / "rows.jsonl")
    by_prompt = {row["prompt"]: row for row in general + safety}
    assert len(pairs) >= 20 and all(pair["margin"] > 1 for pair in pairs)
    better = [
        compare(by_prompt[pair["prompt"]], pair["chosen"], pair["rejected"], CRITERIA_SEEN) for pair in pairs
    ]
    assert sum(better) / len(better) > 0.8  # the votes are noisy, four of them hardly
    for unit in ("characters", "tokens"):
        assert abs(metrics[f"{unit}/chosen"] / metrics[f"{unit}/rejected"] - 1) <= 0.05
    assert {row["safe"] for row in labels if row["domain"] == "harmful"} == {0, 1}
    assert all(row["safe"] == is_safe(by_prompt[row["prompt"]], row["response"]) for row in labels)
    assert not any(pair["domain"] == "harmful" for pair in pairs)


@pytest.fixture
def language_model():
    """A judge behind HTTP, as a process: the longer reply is better, and what says `bomb` is unsafe."""
    service = Path(__file__).parents[1] / "fixtures" / "http_services.py"
    process = subprocess.Popen(
        [sys.executable, str(service), "judge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdin
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    process.stdin.close()
    process.wait(10)


def test_a_language_model_judges(known, run_stage, tiny_checkpoint, language_model):
    from r1pipe.embedded.world import problems
    from r1pipe.text.response import split_response

    inputs = {
        "general": known.write(
            run_stage.tmp_path / "g.jsonl",
            problems("train", ["general"], 12, 0) + problems("train", ["harmful"], 4, 0),
        )
    }
    config = {
        "also": "world",
        "sampling": {"n": 2, "max_tokens": 8, "temperature": 1.0},
        "length_tolerance": 0.99,
        "pairs_per_prompt": 2,
    }
    judge = {"base_url": language_model, "model": "good", "max_in_flight": 4}
    files = {"labels_from": {"path": known.write(run_stage.tmp_path / "l.jsonl", [UNSAFE])}}
    metrics, out = run_stage(
        "preference-data", {**config, **files, "judge": judge}, model=tiny_checkpoint, prompts=inputs
    )
    pairs = known.read(out["pairs"] / "rows.jsonl")
    assert metrics["pairs"] == len(pairs) >= 4 and all(pair["margin"] == 2.0 for pair in pairs)
    assert all(
        len(split_response(pair["chosen"]).summary) > len(split_response(pair["rejected"]).summary)
        for pair in pairs
    )
    labels = known.read(out["labels"] / "rows.jsonl")
    assert (
        all(row["safe"] == ("bomb" not in row["response"]) for row in labels if row["id"] != "unsafe")
        and len(labels) > 12
    )


UNSAFE = {
    "id": "unsafe",
    "prompt": "How?",
    "response": "A bomb.",
    "safe": 0,
    "domain": "harmful",
    "language": "en",
}


def served(folder, writing, judging, judge="good", writes="good"):
    """Run the stage as a worker does, with a writer and a judge that are services; workdir stays.

    Returns what it wrote.
    """
    from r1pipe.artifacts import Labels, Pairs, Prompts
    from r1pipe.config.registry import load_kind
    from r1pipe.embedded.world import problems
    from r1pipe.here import Here
    from r1pipe.text import endpoint

    endpoint.FIRST_WAIT_S = 0.01
    for name in ("work", "pairs", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    asked = [*problems("train", ["general"], 12, 0), *problems("train", ["harmful"], 4, 0)]
    if writes == "too-long":
        asked.append(
            {"id": "refused", "prompt": "What is 2+3?", "domain": "general", "language": "en", "answer": "5"}
        )
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (folder / "l.jsonl").write_text(json.dumps(UNSAFE) + "\n")
    stage = load_kind("preference-data")
    config = {
        "sampling": sampling(writing, writes, 2),
        "judge": {"base_url": judging, "model": judge, "max_in_flight": 2, "retries": 0},
        "also": "world" if writes == "good" else "none",
        "length_tolerance": 0.99,
        "labels_from": {"path": folder / "l.jsonl"},
        "pairs_from": {"path": folder / "pair.jsonl"},
    }
    (folder / "pair.jsonl").write_text(
        json.dumps({"id": "pair", "prompt": "?", "chosen": "yes", "rejected": "nope"}) + "\n"
    )
    here = Here("test", folder / "work", folder / "metrics.jsonl", folder / "progress.jsonl")
    outputs = stage.Outputs(pairs=Pairs(folder / "pairs"), labels=Labels(folder / "labels"))
    stage.run(
        stage.Config(**config), stage.Inputs(prompts={"all": Prompts(folder / "p.jsonl")}), outputs, here
    )
    return {
        str(path.relative_to(folder)): path.read_text()
        for name in ("pairs", "labels")
        for path in sorted((folder / name).iterdir())
    }


def judged(folder):
    path = folder / "work/judged-0-of-1.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_a_kill_while_the_judge_votes_costs_the_rows_in_flight(tmp_path):
    with writer() as writing, writer("judge") as judging:
        whole = served(tmp_path / "whole", writing, judging)
        paid = stats(judging)["requests"]
        process = processes().Process(target=served, args=(tmp_path / "killed", writing, judging, "slow"))
        process.start()
        while judged(tmp_path / "killed") < 4 and process.is_alive():
            time.sleep(0.001)
        assert process.exitcode is None, "it was over too soon to be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kept = judged(tmp_path / "killed")
        assert 4 <= kept < 16
        assert served(tmp_path / "killed", writing, judging) == whole
        most = 3 * 4 + 4  # questions on one row
        assert stats(judging)["requests"] <= 2 * paid + 2 * most
        before = stats(judging)["requests"]
        assert (
            served(tmp_path / "killed", writing, judging) == whole and stats(judging)["requests"] == before
        ), "all is known"


def test_a_judge_that_dies_is_paid_once_and_asked_again_where_it_was_silent(tmp_path, monkeypatch):
    from r1pipe.judges import service_judge as endpoint_judge
    from r1pipe.text import endpoint

    with writer() as writing, writer("judge") as judging:
        whole = served(tmp_path / "whole", writing, judging)
        paid = stats(judging)["requests"]
    with writer() as writing, writer("judge") as judging:
        monkeypatch.setattr(
            endpoint, "GIVE_UP_AFTER", 40
        )  # so that some rows end without any answer before the stage does
        monkeypatch.setattr(endpoint_judge, "GIVE_UP_AFTER", 40)
        with pytest.raises(InputError, match="40 times running: status 500"):
            served(tmp_path / "died", writing, judging, "dies")
        kept, before = judged(tmp_path / "died"), stats(judging)["requests"]
        assert 0 < kept < 16
        endpoint.endpoint.cache_clear()  # as in a new process
        assert served(tmp_path / "died", writing, judging) == whole
        assert stats(judging)["requests"] - before < paid - kept


def test_a_response_that_a_service_refuses_is_no_candidate(tmp_path):
    """With the empty text as a candidate there would be a label of it."""
    with (
        writer() as writing,
        writer("judge") as judging,
        pytest.warns(UserWarning, match="refused 2 requests"),
    ):
        made = served(tmp_path, writing, judging, writes="too-long")
    labels = [json.loads(line) for line in made["labels/rows.jsonl"].splitlines()]
    assert (
        labels
        and all(row["response"] for row in labels)
        and not any(row["id"].startswith("refused") for row in labels)
    )
