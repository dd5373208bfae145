"""The audit finds what is wrong with rewards and data, and nothing where nothing is."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest

from r1pipe.errors import GateError
from r1pipe.rewards import sandbox
from r1pipe.rewards.adversarial import VARIANTS, variants, wrong_answer
from r1pipe.rewards.checks import Audit, audit, audit_before_training, spread
from r1pipe.schema import AuditParams, Phase, RewardSpec


def spec(name: str, **fields: Any) -> RewardSpec:
    return RewardSpec.model_validate({"name": name, **fields})


def math_rows(n: int = 12) -> list[dict[str, Any]]:
    said = {"domain": "math", "language": "en", "solution": "Adding the two numbers gives the sum."}
    return [{"id": f"m{i}", "prompt": f"What is {i} plus 7?", "answer": str(i + 7), **said} for i in range(n)]


ZERO = [spec("accuracy"), spec("format", params={"form": "zero"}), spec("language")]
R1 = [spec("accuracy"), spec("format", params={"form": "r1"}), spec("language")]


def means(result: Audit, reward: str) -> dict[str, float | None]:
    return {variant: cell.mean for variant, cell in result.cells[reward].items()}


# --- rewards with a fault ---------------------------------------------------------------------------------------------


def reads_the_thinking(completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    """A reward with a common fault: the answer counts anywhere in the response."""
    return [float(gold in text) for text, gold in zip(completions, answer, strict=True)]


def mostly_out_of_time(completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    return [None if i % 2 else 1.0 for i in range(len(completions))]


# --- the audit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("specs", [ZERO, R1], ids=["zero", "r1"])
def test_good_rewards_on_good_rows(specs: list[RewardSpec]) -> None:
    result = audit("s", specs, math_rows(), AuditParams(), sample=12)
    assert result.failures == [] and result.worst == [] and result.unparseable == []
    accuracy = means(result, "accuracy")
    assert {name for name, value in accuracy.items() if value == 1.0} == {
        "gold",
        "repeated",
        "wrong-language",
    }
    assert {name for name, value in accuracy.items() if value == 0.0} == set(VARIANTS) - {
        "gold",
        "repeated",
        "wrong-language",
    }
    assert means(result, "format")["gold"] == 1.0 and means(result, "format")["truncated"] == 0.0
    assert means(result, "language")["wrong-language"] == 0.0 and means(result, "language")["gold"] == 1.0
    assert result.compared == 24 and result.disagreements == 0
    assert "12 of 12 gold answers parse" in result.line() and "nothing undeserved" in result.line()


def test_gold_that_does_not_parse_is_counted_and_named() -> None:
    rows = [*math_rows(8), {**math_rows(1)[0], "id": "broken", "answer": "\\frac{1}{"}]
    result = audit("s", R1, rows, AuditParams(), sample=9)
    assert result.unparseable == ["broken"] and result.gold == 9
    assert [f for f in result.failures if "do not parse (broken): 0.111, at most 0.01" in f]
    assert not [f for f in result.failures if "not judged" in f], "one problem is reported once"
    assert audit("s", R1, rows, AuditParams(max_unparseable=0.2), sample=9).failures == []


def test_a_reward_that_reads_the_thinking_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1pipe import rewards

    monkeypatch.setitem(rewards.REWARDS, "accuracy", reads_the_thinking)
    result = audit("s", R1, math_rows(), AuditParams(), sample=12, thorough=False)
    failed = {failure.split(":")[0] for failure in result.failures}
    assert {"accuracy on answer-in-thinking", "accuracy on several-answers"} <= failed
    worst = [row for row in result.worst if row["variant"] == "answer-in-thinking"]
    assert (
        worst
        and worst[0]["why"] == "deserves 0"
        and worst[0]["score"] == 1.0
        and worst[0]["gold"] in worst[0]["response"]
    )


def test_a_required_reward_that_cannot_judge_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from r1pipe import rewards

    monkeypatch.setitem(rewards.REWARDS, "accuracy", mostly_out_of_time)
    result = audit("s", R1, math_rows(), AuditParams(), sample=12, thorough=False)
    assert "accuracy on gold, not judged: 0.500, at most 0.01" in result.failures


def test_what_is_not_judged_is_counted_beyond_the_rows_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many rows are kept with their text, of all rewards together; the thresholds go by all rows."""
    from r1pipe import rewards
    from r1pipe.rewards import checks as module

    monkeypatch.setitem(rewards.REWARDS, "accuracy", mostly_out_of_time)
    wanted = audit("s", R1, math_rows(), AuditParams(), sample=12, thorough=False).failures
    monkeypatch.setattr(module, "MAX_WORST_ROWS", 1)
    result = audit("s", R1, math_rows(), AuditParams(), sample=12, thorough=False)
    assert (
        len(result.worst) == 1
        and result.failures == wanted
        and len([failure for failure in wanted if "not judged: 0.500" in failure]) > 1
    )


def test_a_verifier_that_differs_from_trls_is_found() -> None:
    rows = [{**row, "answer": f"{row['answer']} cm"} for row in math_rows()]
    result = audit(
        "s",
        R1,
        rows,
        AuditParams(),
        sample=12,
        stored=[(row, f"It is {row['answer'].split()[0]}.") for row in rows],
    )
    assert result.cells["accuracy"]["stored"].n == 12
    assert result.compared >= 12 and result.disagreements, (
        "TRL reads boxes only, ours the last number as well"
    )
    assert any("TRL's accuracy_reward says 0" in row["why"] for row in result.worst)
    assert any("differs from TRL" in failure for failure in result.failures)


@pytest.mark.skipif(
    sandbox.available() is not None, reason=f"nothing isolates code here: {sandbox.available()}"
)
def test_code_by_its_tests() -> None:
    tests = {"kind": "asserts", "setup": "", "asserts": ["assert f(2) == 4", "assert f(0) == 0"]}
    good = {
        "domain": "code",
        "language": "en",
        "prompt": "Double a number.",
        "tests": tests,
        "entry_point": "f",
        "solution": "def f(x):\n    return 2 * x",
    }
    specs = [spec("code"), spec("format", params={"form": "r1"})]
    result = audit("s", specs, [{"id": "c", **good}], AuditParams(), sample=1)
    assert result.failures == []
    assert {name for name, value in means(result, "code").items() if value} == {
        "gold",
        "repeated",
        "wrong-language",
    }
    bad = {**good, "id": "bad", "solution": "def f(x):\n    return x"}
    result = audit("s", specs, [bad], AuditParams(), sample=1)
    assert "code on gold: 0.000" in result.failures[0].replace("gold solutions", "gold")
    assert (
        result.worst[0]["why"] == "the gold solution is not right"
        and "return x" in result.worst[0]["response"]
    )


def test_rows_that_nothing_checks_have_no_gold() -> None:
    made = variants([{"id": "g", "domain": "general", "prompt": "Say hello."}], [], "r1")
    assert {name for name, pairs in made.items() if pairs} == {"empty", "truncated"}
    specs = [spec("format", params={"form": "r1"}), spec("helpful")]
    result = audit(
        "s",
        specs,
        [{"id": "g", "domain": "general", "language": "en", "prompt": "Say hello."}],
        AuditParams(),
        sample=1,
    )
    assert result.failures == [] and "helpful was not audited" in result.notes[0]


def test_wrong_answers_are_of_the_same_kind() -> None:
    assert wrong_answer("-3", []) == "-2" and wrong_answer("D", []) == "A" and wrong_answer("J", []) == "A"
    assert (
        wrong_answer("black", ["black", "Black ", "white"]) == "white"
        and wrong_answer("black", []) == "none of these"
    )


def test_every_domain_is_in_the_sample() -> None:
    rows = [{"id": str(i), "domain": "ab"[i % 50 == 0]} for i in range(500)]
    assert {row["domain"] for row in spread(rows, 4)} == {"a", "b"} and spread(rows, 4) == spread(rows, 4)
    assert (
        len(spread(rows, 4)) == 4
        and len(spread(rows, 9999)) == 500
        and len({row["id"] for row in spread(rows, 9999)}) == 500
    )


# --- before training --------------------------------------------------------------------------------------------------


def test_before_training_it_is_quick_and_stops_what_is_not_fit() -> None:
    phases = [
        Phase(steps=1, rewards=R1),
        Phase(
            steps=1,
            rewards=[
                *R1,
                spec("helpful"),
                spec("judge", params={"base_url": "http://127.0.0.1:9", "model": "m"}),
            ],
        ),
    ]
    audit_before_training("warm-up", phases, math_rows(), AuditParams())
    started = time.process_time()
    result = audit_before_training("s", phases, math_rows(3000), AuditParams())
    assert time.process_time() - started < 1.0 and result.sampled == 16 and result.gold == 3000
    assert list(result.cells) == ["accuracy", "format", "language"], "neither models nor services are asked"
    rows = [{**row, "answer": ""} for row in math_rows()]
    with pytest.raises(GateError, match="rewards of s are not fit") as caught:
        audit_before_training("s", phases, rows, AuditParams())
    assert caught.value.exit_code == 1 and "r1pipe audit rewards CONFIG --stage s" in caught.value.fix


def test_rl_does_not_start_on_what_is_not_fit(tiny_checkpoint, here, tmp_path) -> None:
    from r1pipe.schema import GRPOParams
    from r1pipe.training.grpo.grpo_training import train_grpo

    params = GRPOParams(
        lr=1e-4,
        num_generations=2,
        batch_size=4,
        minibatches_per_rollout=1,
        phases=[Phase(steps=1, max_tokens=4, rewards=R1)],
    )
    (tmp_path / "out").mkdir()

    def train(rows):
        train_grpo(
            checkpoint=tiny_checkpoint,
            prompts={"prompts": rows},
            heldout=[],
            params=params,
            template="chat",
            out=tmp_path / "out",
            here=here,
            seed=0,
            audit=AuditParams(),
        )

    with pytest.raises(GateError):
        train([{**row, "answer": "{"} for row in math_rows()])
    assert not here.metrics_path.exists() and not list(here.workdir.iterdir())
    train(math_rows())
    (note,) = [
        json.loads(line)["note"]
        for line in here.metrics_path.with_name("notes.jsonl").read_text().splitlines()
    ]
    assert "12 of 12 gold answers parse, gold solutions score 1.000, nothing undeserved" in note


PUBLIC = {
    "gsm8k_train": "word-problems",
    "aqua": "choice",
    "folio": "logic",
    "mmlu_stem": "choice",
    "cmath_zh": "math",
    "mgsm": "math",
}


@pytest.mark.parametrize(("name", "domain"), PUBLIC.items())
def test_public_data_pass(shared_data: Path, name: str, domain: str) -> None:
    with gzip.open(shared_data / f"{name}.jsonl.gz", "rt", encoding="utf8") as stream:
        rows = [{"domain": domain, **json.loads(line)} for line in stream]
    rows = [
        {**row, "prompt": row.get("problem") or row.get("conclusion"), "language": row.get("lang", "en")}
        for row in rows
        if row.get("answer")
    ]
    result = audit_before_training(
        name,
        [Phase(steps=1, rewards=[spec("accuracy"), spec("format", params={"form": "r1"})])],
        rows,
        AuditParams(sample=32),
    )
    assert result.failures == []
