"""Adapters: trained by SFT and RL, and merged into a plain checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1pipe.errors import ConfigError
from r1pipe.here import Here
from r1pipe.schema import GRPOParams, Phase, RewardSpec, SFTParams
from tests.tiny_trainers import ROWS

LORA = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
PHASES = [
    Phase(steps=2, max_tokens=8, rewards=[RewardSpec(name="random")]),
    Phase(steps=2, max_tokens=8, temperature=0.7, rewards=[RewardSpec(name="random")]),
]
RL = {
    "lr": 1e-2,
    "num_generations": 4,
    "batch_size": 8,
    "minibatches_per_rollout": 2,
    "eval_every": 2,
    "eval_prompts": 4,
    "phases": PHASES,
}


def moved(before: Path, after: Path) -> set[str]:
    old, new = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (before, after))
    assert set(old) == set(new)
    return {name for name in old if (old[name] != new[name]).any()}


def adapted(checkpoint: Path) -> set[str]:
    return {
        name
        for name in AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
        if name.endswith(("q_proj.weight", "v_proj.weight"))
    }


def test_sft_trains_the_adapter_alone_and_writes_it_merged(tiny_checkpoint: Path, here: Here, tmp_path: Path):
    from r1pipe.training.sft.sft_training import train_sft

    rows = [
        {
            "messages": [
                {"role": "user", "content": "what is 1 + 2 ?"},
                {"role": "assistant", "content": "<think>1 + 2 = 3</think>3"},
            ]
        }
    ] * 4
    out = tmp_path / "out"
    out.mkdir()
    train_sft(
        tiny_checkpoint,
        rows,
        SFTParams(lr=1e-2, batch_size=4, max_length=128, max_steps=3, lora=LORA),
        out=out,
        here=here,
        seed=0,
    )
    assert moved(tiny_checkpoint, out) == adapted(tiny_checkpoint)
    assert not list(out.glob("adapter*")) and AutoTokenizer.from_pretrained(out).chat_template


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.filterwarnings("ignore:a plain loop draws")  # on a GPU: an adapter has no CUDA graphs
def test_rl_trains_the_adapter_alone_and_writes_it_merged(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, keep: str
):
    """Through a change of temperature, with KL to the base, whichever policy is kept."""
    from r1pipe.training.grpo.grpo_training import train_grpo

    out = tmp_path / "out"
    out.mkdir()
    params = GRPOParams(**{**RL, "lora": LORA, "beta": 0.1, "ref_replace_every": None, "keep": keep})
    metrics = train_grpo(
        checkpoint=tiny_checkpoint,
        prompts={"prompts": ROWS},
        heldout=ROWS[:4],
        params=params,
        template="chat",
        out=out,
        here=here,
        seed=0,
    )
    assert metrics["steps"] == 4
    assert moved(tiny_checkpoint, out) == adapted(tiny_checkpoint)
    assert not list(out.glob("adapter*")) and AutoTokenizer.from_pretrained(out).chat_template
    kl = [line["kl"] for line in map(json.loads, here.metrics_path.read_text().splitlines()) if "kl" in line]
    assert kl[0] < 1e-6 < kl[-1], "the reference is the base: the policy starts there and leaves"


def test_merged_weights_answer_as_the_adapter_does(tiny_checkpoint: Path, tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    from r1pipe.models.loading import merge_adapter

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32),
        LoraConfig(task_type="CAUSAL_LM", **LORA),
    )
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(str(tmp_path / "adapter"))
    merge_adapter(tmp_path / "adapter", tiny_checkpoint, tmp_path / "out")
    ids = torch.arange(5, 30)[None]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, model.eval()(ids).logits, atol=1e-4)
        assert not torch.allclose(
            plain(ids).logits, AutoModelForCausalLM.from_pretrained(tiny_checkpoint)(ids).logits, atol=1e-2
        )


def test_a_reference_that_would_be_replaced_is_refused():
    with pytest.raises(ValidationError, match="set ref_replace_every: null .* or beta: 0"):
        GRPOParams(**{**RL, "lora": LORA})
    GRPOParams(**{**RL, "lora": LORA, "beta": 0.0})
    GRPOParams(**{**RL, "lora": LORA, "ref_replace_every": None})


def test_an_argument_that_peft_does_not_know_is_a_mistake():
    from r1pipe.training.arguments import lora_config

    with pytest.raises(ConfigError, match="no argument 'rank'"):
        lora_config({"rank": 8}, "sft.lora")
    assert lora_config(None, "sft.lora") is None


@pytest.mark.slow
def test_the_same_seed_gives_the_same_adapter(tiny_checkpoint: Path, here: Here, tmp_path: Path):
    """Whatever a process has drawn before."""
    from r1pipe.training.sft.sft_training import train_sft

    rows = [
        {
            "messages": [
                {"role": "user", "content": "what is 1 + 2 ?"},
                {"role": "assistant", "content": "<think>1 + 2 = 3</think>3"},
            ]
        }
    ] * 4
    for attempt, seed in enumerate((3, 3, 4)):
        torch.manual_seed(100 + attempt)
        (tmp_path / str(attempt)).mkdir()
        train_sft(
            tiny_checkpoint,
            rows,
            SFTParams(lr=1e-2, batch_size=4, max_length=128, max_steps=2, lora=LORA),
            out=tmp_path / str(attempt),
            here=here,
            seed=seed,
        )
    assert not moved(tmp_path / "0", tmp_path / "1")
    assert moved(tmp_path / "0", tmp_path / "2")
