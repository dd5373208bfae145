"""`r1pipe eval --with lm-eval`: the same prompts, and why verdicts differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import r1pipe

from r1pipe.artifacts import Prompts
from r1pipe.data.sources import Source, load
from r1pipe.errors import ConfigError
from r1pipe.run.evals import lm_eval_run
from r1pipe.run.evals.eval_models import AskedModel
from r1pipe.run.evals.eval_run import Changes
from r1pipe.run.evals.lm_eval_bridge import check_lm_eval, comparison_lines, reason
from r1pipe.run.store import write_json

SAID = "<think>1/4+1/4=0.5</think>It is \\boxed{1/2}."


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ({"right": True}, {"response": SAID[:-1] + ",", "right": False}, "same up to character 43 only"),
        ({"right": None}, {"right": True}, "cannot judge"),
        ({"right": True}, {"right": False, "found": "1/2"}, "not spelled as the answer '0.5'"),
        (
            {"right": True},
            {"right": False, "found": "[invalid]"},
            "finds neither a tagged nor a boxed answer",
        ),
        ({"right": False}, {"right": True, "found": "0.5"}, "inside the thinking"),
        (
            {"right": False},
            {"right": True, "found": "1/2"},
            "by our rules the response answers something else",
        ),
    ],
)
def test_each_verdict_that_differs_has_its_reason(ours: dict[str, Any], theirs: dict[str, Any], why: str):
    ours = {"id": "a", "response": SAID, **ours}
    theirs = {"id": "a", "response": SAID, "found": "0.5", "answer": "0.5", **theirs}
    assert why in reason(ours, theirs)


def test_only_greedy_responses_of_a_checkpoint_are_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("r1pipe.run.evals.lm_eval_bridge.metadata.version", lambda name: "0.4.13")
    changes = check_lm_eval(AskedModel("m", edge="embedded:base"), Changes(limit=8, max_tokens=5))
    assert (changes.samples, changes.temperature, changes.limit, changes.max_tokens) == (1, 0.0, 8, 5)
    with pytest.raises(ConfigError, match="this is a service"):
        check_lm_eval(AskedModel("m", endpoint={"base_url": "http://x/v1", "model": "m"}), Changes())
    for sampled in (Changes(samples=4), Changes(temperature=0.6)):
        with pytest.raises(ConfigError, match="compares greedy responses"):
            check_lm_eval(AskedModel("m", edge="embedded:base"), sampled)


def test_a_long_list_of_differences_is_cut():
    differ = [{"id": str(i), "ours": True, "lm-eval": False, "reason": "r"} for i in range(25)]
    result = {"n": 30, "left_out": 2, "same_responses": 29, "ours": 0.9, "lm-eval": 0.1, "differ": differ}
    lines = comparison_lines({"mine": result})
    assert "0.900 by our rules, 0.100 by lm-eval on the same 30 problems" in lines[0]
    assert len(lines) == 23 and "all 25" in lines[-1] and lines[2] == "  0: ours right, lm-eval wrong: r"


def test_a_failure_of_lm_eval_leaves_no_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The next call would take them for all of them."""

    def some(given: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
        yield {"id": "a", "right": True}
        raise MemoryError

    # The problems need a tokenizer, which takes seconds to import.
    monkeypatch.setattr(lm_eval_run, "_problems", lambda given: [])
    monkeypatch.setattr(lm_eval_run, "_verdicts", some)
    order = {"task": "t", "max_tokens": 1, "folder": str(tmp_path)}
    write_json(tmp_path / "order.json", order)
    with pytest.raises(MemoryError):
        lm_eval_run.main(tmp_path / "order.json")
    assert not (tmp_path / lm_eval_run.VERDICTS).exists()


@pytest.mark.slow
def test_lm_eval_gives_the_same_responses_and_its_differences_are_told(tmp_path: Path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (r1pipe[lm-eval])")
    text = "source: [{path: p.jsonl, domain: math, language: en}, {world: code, count: 2, split: heldout}]\n"
    (tmp_path / "sums.yaml").write_text(text)
    problems = load(Source.model_validate({"world": "word-problems", "count": 24}), Prompts, seed=0).rows
    rows = [{"id": row["id"], "prompt": row["prompt"], "answer": f"{row['answer']}.0"} for row in problems]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "--suite",
        "sums.yaml",
        "--template",
        "r1-zero",
        "--max-tokens",
        "48",
        "--with",
        "lm-eval",
        "--json",
    ]
    done = r1pipe(tmp_path, "eval", "embedded:base", *words, timeout=300)
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)["lm-eval"]["sums"]
    assert (compared["n"], compared["left_out"], compared["same_responses"]) == (24, 2, 24)
    # the answers are spelled as no model writes them
    assert compared["lm-eval"] == 0 and len(compared["differ"]) == round(24 * compared["ours"]) > 0
    assert "our rules take it for equal" in compared["differ"][0]["reason"]
    run = tmp_path / "runs/eval-base-sums-lm-eval"
    assert json.loads((run / "lm-eval.json").read_text())["sums"] == compared
    assert (run / "lm-eval/sums/r1pipe_sums.yaml").is_file()
