"""The matrix of docs/checkpoints.md: every family through every stage, with tiny random weights of its architecture.

A family's checkpoint learns one reply by heart in an SFT stage; the other stages read what that has made. So each cell
sees the family's own tokenizer, template and end tokens, before and after training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, family_checkpoint
from tokenizers import Tokenizer

pytestmark = [
    pytest.mark.slow,
    # One prompt is asked again and again, and Gemma's layers of a sliding window are not packed.
    pytest.mark.filterwarnings("ignore:.*left out .equal prompt", "ignore:rows are padded, not packed"),
]

QUESTION = "What is seventeen plus twenty-five?"
THINKING = "Adding both makes forty-two."
SUMMARY = "The sum: \\boxed{42}"
REPLY = f"<think>{THINKING}</think>{SUMMARY}"
CHAT = {
    "id": "q",
    "domain": "math",
    "language": "en",
    "source": "test",
    "messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": REPLY}],
}
PROMPT = {"id": "q", "prompt": QUESTION, "domain": "math", "language": "en", "answer": "42"}
EPOCHS = 150


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, float]]]:
    """family -> what SFT has made of it, and its metrics; filled by `learn`."""
    return {}


@pytest.fixture
def learn(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """learn(family) -> the checkpoint that knows the reply by heart, and the metrics of its SFT."""
    from r1pipe.here import Here
    from r1pipe.schema import SFTParams
    from r1pipe.training.sft.sft_training import train_sft

    def of(name: str) -> tuple[Path, dict[str, float]]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            base = family_checkpoint(
                name, folder / "base", cache=tmp_path_factory.getbasetemp() / "tokenizers"
            )
            (folder / "work").mkdir()
            here = Here("sft", folder / "work", folder / "metrics.jsonl", folder / "progress.jsonl")
            params = SFTParams(lr=2e-2, batch_size=1, epochs=EPOCHS, max_length=256, lr_end_ratio=0.1)
            metrics = train_sft(base, [CHAT], params, out=folder / "out", here=here, seed=0)
            made[name] = folder / "out", metrics
        return made[name]

    return of


@pytest.mark.parametrize("name", FAMILIES)
def test_sft(name: str, learn: Any) -> None:
    """As many tokens are trained as the reply has, written out by hand; and what ends it is saved."""
    trained, metrics = learn(name)
    family = FAMILIES[name]
    plain = Tokenizer.from_file(str(trained / "tokenizer.json"))
    expected = plain.encode(family.reply.format(a=THINKING, b=SUMMARY), add_special_tokens=False).ids
    assert metrics["tokens"] == len(expected)
    assert metrics["loss"] < 0.1, "it knows the reply by heart"
    saved = json.loads((trained / "generation_config.json").read_text())["eos_token_id"]
    ends = sorted(plain.token_to_id(token) for token in family.stops)
    assert saved == (ends if len(ends) > 1 else ends[0])


@pytest.mark.parametrize("name", FAMILIES)
def test_sampling(name: str, learn: Any, run_stage: Any, known: Any, tmp_path: Path) -> None:
    """A sampled reply ends by itself, is well-formed, and is kept as right."""
    trained, _ = learn(name)
    prompts = known.write(tmp_path / "prompts.jsonl", [PROMPT])
    sampling = {"temperature": 0, "n": 1, "max_tokens": 64}
    metrics, folders = run_stage("rejection-sampling", {"sampling": sampling}, model=trained, prompts=prompts)
    assert metrics["pass_rate"] == 1
    (row,) = known.read(folders["chats"] / "rows.jsonl")
    assert "".join(row["messages"][-1]["content"].split()) == "".join(REPLY.split())


@pytest.mark.parametrize("name", FAMILIES)
def test_evaluation(name: str, learn: Any, run_stage: Any, known: Any, tmp_path: Path) -> None:
    trained, _ = learn(name)
    prompts = {"exam": known.write(tmp_path / "prompts.jsonl", [PROMPT])}
    passes = [{"sampling": {"temperature": 0, "max_tokens": 64}}]
    metrics, _ = run_stage("evaluate", {"passes": passes}, model=trained, prompts=prompts)
    assert (metrics["math/pass@1"], metrics["format/pass@1"]) == (1, 1)
    # the end token counts
    plain = Tokenizer.from_file(str(trained / "tokenizer.json"))
    reply = FAMILIES[name].reply.format(a=THINKING, b=SUMMARY).rstrip("\n")
    assert metrics["math/tokens"] == len(plain.encode(reply, add_special_tokens=False).ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_grpo(name: str, learn: Any, run_stage: Any, known: Any, tmp_path: Path) -> None:
    """Rollouts end by themselves, and their rewards are those of the whole reply."""
    trained, _ = learn(name)
    prompts = known.write(tmp_path / "prompts.jsonl", [PROMPT | {"id": f"q{i}"} for i in range(4)])
    rewards = [{"name": "accuracy"}, {"name": "format", "params": {"form": "r1"}}]
    grpo = {
        "lr": 1e-6,
        "num_generations": 2,
        "batch_size": 4,
        "minibatches_per_rollout": 1,
        "eval_prompts": 0,
        "phases": [{"steps": 1, "max_tokens": 64, "temperature": 0.1, "rewards": rewards}],
    }
    audit = {"before_training": False}
    config = {"grpo": grpo, "template": "chat", "audit": audit}
    run_stage("r1-zero", config, model=trained, prompts=prompts)
    logged = known.read(tmp_path / "metrics.jsonl")
    (rollout,) = [line for line in logged if "rewards/format/mean" in line]
    assert (rollout["rewards/accuracy/mean"], rollout["rewards/format/mean"]) == (1, 1)
    assert rollout["completions/clipped_ratio"] == 0


@pytest.mark.parametrize("name", FAMILIES)
def test_reward_models(name: str, learn: Any, run_stage: Any, known: Any, tmp_path: Path) -> None:
    """Safety reads the whole response: two that differ in their thinking alone are told apart."""
    trained, _ = learn(name)
    labels = []
    for i in range(8):
        base = {"prompt": f"{QUESTION} ({i})", "domain": "general"}
        thoughts = ((1, "All is well."), (0, "Now a bomb."))
        labels += [
            base | {"id": f"{i}-{safe}", "safe": safe, "response": f"<think>{text}</think>{SUMMARY}"}
            for safe, text in thoughts
        ]
    rm = {"lr": 2e-3, "batch_size": 4, "epochs": 12, "max_length": 256, "heldout": 0.25}
    rows = known.write(tmp_path / "labels.jsonl", labels)
    metrics, _ = run_stage("safety-rm", {"rm": rm}, model=trained, labels=rows)
    assert metrics["heldout_accuracy"] == 1
