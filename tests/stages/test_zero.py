"""The real training stages under DeepSpeed's ZeRO on two CPU ranks: what comes out is a plain checkpoint.

Slow: both ranks import TRL, and the first use on a machine builds DeepSpeed's CPU operator. `make ranks` runs just these.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine import config, r1pipe

pytestmark = pytest.mark.slow

SFT = """
stages:
  cold-start:
    inputs: {model: MODEL, chats: ./chats.jsonl}
    outputs: {checkpoint: dev1}
    sft: {lr: 1.0e-2, batch_size: 4, max_length: 128, max_steps: 3}
"""
RL = """
stages:
  reasoning-rl:
    inputs: {model: MODEL, prompts: ./prompts.jsonl, heldout: ./prompts.jsonl}
    outputs: {checkpoint: dev2}
    grpo:
      lr: 1.0e-2
      num_generations: 4
      batch_size: 16
      minibatches_per_rollout: 1
      ref_replace_every: 2
      eval_every: 2
      eval_prompts: PROMPTS
      keep: KEEP
      phases:
        - {steps: 2, max_tokens: 12, rewards: &rewards [{name: random}]}
        - {steps: 2, max_tokens: 16, temperature: 0.7, rewards: *rewards}
"""


def assert_trained_checkpoint(out: Path, before: Path) -> None:
    """A plain Hugging Face folder, whole, that loads, differs from where it began and answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    old, new = AutoModelForCausalLM.from_pretrained(before), AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    weights = new.state_dict()
    assert {name: weight.shape for name, weight in weights.items()} == {name: weight.shape for name, weight in old.state_dict().items()}
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    moved = [name for name, weight in old.state_dict().items() if (weight != weights[name]).any()]
    assert len(moved) == len(weights), "every weight is trained, on whichever rank its shard lay"
    ids = tokenizer("1 + 2", return_tensors="pt")
    assert new.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def run(folder: Path, text: str, stage: str, profile: str) -> dict[str, float]:
    pytest.importorskip("deepspeed")
    config(folder, text)
    done = r1pipe(folder, "run-all", "t.yaml", "--set", f"stages.{stage}.launch={{profile: {profile}, num_processes: 2, threads: 1}}", timeout=600)
    log = folder / f"runs/t/{stage}/logs/attempt_1.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-4000:] if log.exists() else "")
    return json.loads((folder / f"runs/t/{stage}/manifest.json").read_text())["metrics"]


def test_zero2_cold_start(tmp_path: Path, tiny_checkpoint: Path) -> None:
    chats = [{"role": "user", "content": "what is 1 + 2 ?"}, {"role": "assistant", "content": "<think>1 + 2 = 3</think>3"}]
    lines = [json.dumps({"id": str(i), "messages": chats, "domain": "math", "source": "sampled"}) + "\n" for i in range(12)]
    (tmp_path / "chats.jsonl").write_text("".join(lines))
    metrics = run(tmp_path, SFT.replace("MODEL", str(tiny_checkpoint)), "cold-start", "zero2")
    assert metrics["steps"] == 3 and metrics["rows"] == 12
    assert_trained_checkpoint(tmp_path / "runs/t/cold-start/out/checkpoint", tiny_checkpoint)


@pytest.mark.parametrize(("keep", "prompts"), [("last", 5), ("best", 1)])
def test_zero3_reasoning_rl(tmp_path: Path, tiny_checkpoint: Path, keep: str, prompts: int) -> None:
    """Generation, the reference's replacement, both phases; one held-out prompt leaves a rank none, so responses differ in length."""
    lines = [json.dumps({"id": str(i), "prompt": f"what is {i} + 2 ?", "domain": "math", "answer": str(i + 2)}) + "\n" for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    metrics = run(tmp_path, RL.replace("MODEL", str(tiny_checkpoint)).replace("KEEP", keep).replace("PROMPTS", str(prompts)), "reasoning-rl", "zero3")
    assert metrics["steps"] == 4 and metrics["heldout_tokens"] > 0
    kl = {line["step"]: line["kl"] for line in map(json.loads, (tmp_path / "runs/t/reasoning-rl/metrics.jsonl").read_text().splitlines()) if "kl" in line}
    assert kl[2] > 0.001 and kl[2] > 10 * kl[3], "the reference becomes the policy after update 2"
    assert_trained_checkpoint(tmp_path / "runs/t/reasoning-rl/out/checkpoint", tiny_checkpoint)
