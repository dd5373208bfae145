"""Bases with experts go through SFT and RL: a tiny random DeepSeek-V3 and a tiny random Qwen3-MoE.

DeepSeek-V3 has latent attention and sigmoid routing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DeepseekV3Config,
    PreTrainedConfig,
    Qwen3MoeConfig,
)

from r1pipe.generation.decoding import decode

BASE = Path(__file__).parents[2] / "r1pipe" / "embedded" / "data" / "base"
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2, "tie_word_embeddings": False}
FAMILIES: dict[str, PreTrainedConfig] = {
    "deepseek-v3": DeepseekV3Config(
        **SHAPE,
        **EXPERTS,
        num_key_value_heads=2,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        num_mtp_layers=0,
    ),
    "qwen3-moe": Qwen3MoeConfig(**SHAPE, **EXPERTS, num_key_value_heads=1, num_experts=4, head_dim=16),
}


def make_moe(family: str, folder: Path) -> Path:
    """A checkpoint with random weights and the embedded tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    config = FAMILIES[family]
    config.update(
        {
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BASE / name, folder)
    return folder


@pytest.fixture(scope="module", params=list(FAMILIES))
def moe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_moe(request.param, tmp_path_factory.mktemp(request.param) / "base")


def moved(before: Path, after: Path) -> set[str]:
    """Weights that differ between two plain checkpoints of one shape."""
    old, new = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (before, after))
    assert {name: weight.shape for name, weight in old.items()} == {
        name: weight.shape for name, weight in new.items()
    }
    assert all(torch.isfinite(weight).all() for weight in new.values())
    return {name for name in old if (old[name] != new[name]).any()}


def assert_trained(before: Path, after: Path) -> None:
    """All weights moved but DeepSeek-V3's routing bias; the config is the base's.

    The bias is a buffer with which pretraining balances the experts.
    """
    old, new = AutoConfig.from_pretrained(before), AutoConfig.from_pretrained(after)
    weights = set(AutoModelForCausalLM.from_pretrained(before).state_dict())
    bias = {"model.layers.1.mlp.gate.e_score_correction_bias"} if old.model_type == "deepseek_v3" else set()
    assert weights - moved(before, after) == bias
    assert not any(getattr(config, "output_router_logits", False) for config in (old, new)), (
        "TRL's switch for the balancing loss stays out of the checkpoint"
    )


def aux_losses(metrics: Path) -> list[float]:
    return [
        line["aux_loss"] for line in map(json.loads, metrics.read_text().splitlines()) if "aux_loss" in line
    ]


def test_cold_start(moe: Path, run_stage: Any, known: Any) -> None:
    rows = [
        {
            "id": str(i),
            "messages": [
                {"role": "user", "content": f"1+{i}?"},
                {"role": "assistant", "content": known.chat_form(f"1+{i}", str(1 + i))},
            ],
        }
        | {"domain": "math", "source": "sampled"}
        for i in range(8)
    ]
    chats = known.write(run_stage.tmp_path / "chats.jsonl", rows)
    metrics, out = run_stage(
        "cold-start",
        {"sft": {"lr": 1e-2, "batch_size": 4, "max_length": 256, "max_steps": 6}},
        model=moe,
        chats=chats,
    )
    lines = [json.loads(line) for line in (run_stage.tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert metrics["steps"] == 6 and losses[-1] < losses[0] - 0.5, losses
    assert_trained(moe, out["checkpoint"])
    assert bool(aux_losses(run_stage.tmp_path / "metrics.jsonl")) == ("qwen3" in str(moe)), (
        "DeepSeek-V3 declares no balancing loss, Qwen3-MoE does"
    )


def test_reasoning_rl(moe: Path, run_stage: Any, known: Any) -> None:
    prompts = known.write(run_stage.tmp_path / "prompts.jsonl", known.rows())
    settings = {
        "lr": 1e-2,
        "num_generations": 4,
        "batch_size": 16,
        "minibatches_per_rollout": 2,
        "ref_replace_every": 2,
        "eval_every": 2,
        "eval_prompts": 3,
    }
    phases = [{"steps": 4, "max_tokens": 12, "rewards": [{"name": "random"}]}]
    metrics, out = run_stage(
        "reasoning-rl", {"grpo": settings | {"phases": phases}}, model=moe, prompts=prompts, heldout=prompts
    )
    assert metrics["steps"] == 4 and metrics["heldout_tokens"] > 0
    assert_trained(moe, out["checkpoint"])
    assert bool(aux_losses(run_stage.tmp_path / "metrics.jsonl")) == ("qwen3" in str(moe)), (
        "DeepSeek-V3 declares no balancing loss, Qwen3-MoE does"
    )


def test_decode_is_generate(moe: Path) -> None:
    """Greedy sampling in our loop gives what the library's own loop gives, also with a cache of latents."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(moe, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(moe),
    )
    prompts = [
        tokenizer(text)["input_ids"] for text in ("What is 2 + 3?", "Is it so, or is it not, and why?")
    ]
    ours = decode(
        model,
        prompts,
        n=2,
        max_new_tokens=24,
        temperature=0,
        eos_ids=[tokenizer.eos_token_id],
        pad_id=tokenizer.pad_token_id,
    ).token_ids
    for row, prompt in enumerate(prompts):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[
            0, len(prompt) :
        ].tolist()
        assert ours[2 * row] == ours[2 * row + 1] == theirs
