"""docs/grpo_in_one_file.py computes what the trainer computes: from one rollout, both make the same first update."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import ROOT

from r1pipe.schema import GRPOParams, Phase, RewardSpec

PAGE = runpy.run_path(str(ROOT / "docs" / "grpo_in_one_file.py"))
BASE = ROOT / "r1pipe" / "embedded" / "data" / "base"


@pytest.mark.parametrize("name", [name for name in PAGE if name.startswith("test_")])
def test_its_own_tests(name: str) -> None:
    PAGE[name]()


def test_the_first_update_is_the_trainer_s(here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_trainers import grpo_trainer
    from transformers import AutoModelForCausalLM

    rewards = [RewardSpec(name="accuracy"), RewardSpec(name="format", params={"form": "zero"})]
    params = GRPOParams(
        lr=PAGE["LR"],
        beta=PAGE["BETA"],
        epsilon=PAGE["CLIP"],
        adam_betas=(0.9, 0.99),
        num_generations=4,
        batch_size=16,
        minibatches_per_rollout=1,
        eval_prompts=0,
        ref_replace_every=None,
        bf16=False,
        phases=[Phase(steps=1, max_tokens=32, rewards=rewards)],
    )
    trainer = grpo_trainer(params, BASE, here)
    rollouts: list[dict[str, Any]] = []
    score = trainer._generate_and_score_completions

    def kept(inputs: Any) -> dict[str, Any]:
        rollouts.append(score(inputs))
        return rollouts[-1]

    monkeypatch.setattr(trainer, "_generate_and_score_completions", kept)
    trainer.train()
    rollout = rollouts[0]

    prompts = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(rollout["prompt_ids"], rollout["prompt_mask"], strict=True)
    ]
    responses = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(rollout["completion_ids"], rollout["completion_mask"], strict=True)
    ]
    assert rollout["advantages"].abs().max() > 0, (
        "no group taught anything: the comparison would be of nothing"
    )

    policy = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    optimizer = torch.optim.AdamW(policy.parameters(), lr=PAGE["LR"], betas=(0.9, 0.99), weight_decay=0.0)
    batch = PAGE["make_batch"](prompts, responses, pad=0)
    with torch.no_grad():
        ref_logps_BT = PAGE["log_probs"](policy, batch)
    PAGE["update"](policy, optimizer, batch, rollout["advantages"], ref_logps_BT)

    for (name, ours), theirs in zip(policy.named_parameters(), trainer.model.parameters(), strict=True):
        moved = (ours - before[name]).abs().max()
        # Adam's first step is the sign of the gradient: entries whose gradient is near 0 may differ, the rest may not
        agree = ((ours - theirs).abs() <= 0.05 * moved).float().mean()
        assert agree > 0.99, f"{name}: {agree:.3f}"


def test_the_page_learns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(Path(ROOT))
    right = PAGE["main"](1)
    assert len(right) == 1 and "tokens" in capsys.readouterr().out
