"""What our trainers override or rely on in TRL, by the hash of its source.

An upstream change fails here, so that it is looked at before it is shipped. The hashes are of TRL 1.16.0. Where a test
fails: read the method's new source, see whether our override still does what it replaces (its docstring says why it is
there), then put the new hash and the new version here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from typing import Any

import pytest
from peft import LoraConfig
from transformers import TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, SFTConfig
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from r1pipe.config.library_options import LORA, options
from r1pipe.schema import DPOParams, GRPOParams, RewardModelParams, SFTParams
from r1pipe.schema.training import PointwiseParams
from r1pipe.training.grpo.grpo_trainer import R1GRPOTrainer
from r1pipe.training.grpo.vllm_rollouts import trl_extract_logprobs

READ_FROM = "1.16.0"
OVERRIDDEN = {
    "_calculate_rewards": "736ae29b083840b5",
    "_compute_loss": "80295546bbdbf6f7",
    "_generate": "2a27fdf8f5e6f356",
    "_generate_and_score_completions": "1fa48922792dcd5c",
    "_generate_single_turn": "e0f02e4fc094cefd",
    "_get_per_token_logps_and_entropies": "ea73c3909275851d",
    "_get_train_sampler": "36497afb4d311dc9",
    "_prepare_inputs": "f824e7fb07147956",
    "_save_checkpoint": "ec91bde123649111",
    "_tokenize_prompts": "d2d27f7c9bfda85f",
    "log": "1e7772819cc8cf09",
    "training_step": "9e18632f7dd8e8d8",
}
# Not overridden, but what they take and return must stay as it is.
RELIED_ON: dict[str, tuple[Any, str]] = {
    "VLLMGeneration.generate": (VLLMGeneration.generate, "2d2ac2be5b1309c4"),
    "VLLMGeneration.sync_weights": (VLLMGeneration.sync_weights, "63d669fb32304ff5"),
    "extract_logprobs": (trl_extract_logprobs, "ea9254b4a72d3ed7"),
    # Rows come as what the first makes and the second reads.
    "DPOTrainer._prepare_dataset": (DPOTrainer._prepare_dataset, "35e349e8e8266df4"),
    "DataCollatorForPreference.torch_call": (DataCollatorForPreference.torch_call, "0b8bb4c294bf8420"),
    "add_fused_lm_head": (add_fused_lm_head, "422d009f04b66659"),
}


def source_hash(function: Any) -> str:
    return hashlib.sha256(inspect.getsource(inspect.unwrap(function)).encode()).hexdigest()[:16]


def overridden() -> set[str]:
    ours = [
        name
        for cls in R1GRPOTrainer.__mro__[: R1GRPOTrainer.__mro__.index(GRPOTrainer)]
        for name in vars(cls)
    ]
    methods = {name: getattr(GRPOTrainer, name, None) for name in ours if not name.startswith("__")}
    # transformers comes in many versions, so its methods are held by tests of what they do
    return {
        name
        for name, method in methods.items()
        if callable(method) and inspect.unwrap(method).__module__.startswith("trl")
    }


def test_every_override_is_held() -> None:
    assert overridden() == set(OVERRIDDEN), (
        "a method that is overridden needs its hash here, and one that is not needs none"
    )


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_what_we_override_has_not_changed(name: str) -> None:
    found = source_hash(getattr(GRPOTrainer, name))
    assert found == OVERRIDDEN[name], (
        f"TRL changed GRPOTrainer.{name} since {READ_FROM}: read it, then record {found}"
    )


@pytest.mark.parametrize("name", sorted(RELIED_ON))
def test_what_we_lean_on_has_not_changed(name: str) -> None:
    function, recorded = RELIED_ON[name]
    found = source_hash(function)
    assert found == recorded, f"TRL changed {name} since {READ_FROM}: read it, then record {found}"


def test_a_change_is_seen() -> None:
    """The hash covers the body, through TRL's decorators."""

    def before() -> int:
        return 1

    def after() -> int:
        return 2

    after.__name__ = "before"
    assert source_hash(before) != source_hash(after)
    assert "def _compute_loss" not in inspect.getsource(
        inspect.unwrap(GRPOTrainer._generate_and_score_completions)
    )


def test_options_are_the_libraries_own() -> None:
    """As their source says them; nothing of theirs is imported for it."""
    pairs = (
        (SFTParams.trl_config, SFTConfig),
        (GRPOParams.trl_config, GRPOConfig),
        (RewardModelParams.trl_config, RewardConfig),
        (DPOParams.trl_config, DPOConfig),
        (PointwiseParams.trl_config, TrainingArguments),
        (LORA, LoraConfig),
    )
    for config, library in pairs:
        taken = {field.name for field in dataclasses.fields(library) if field.init}
        assert options(config) == taken, config
    assert options("no_such_package/file.py:Class") == frozenset()
    assert options("trl/no/such/file.py:Class") == frozenset()
    assert options("trl/trainer/sft_config.py:NoSuchClass") == frozenset()
