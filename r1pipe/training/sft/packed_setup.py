"""What is decided before packed training starts: whether rows are packed, how, whether activations are recomputed and layers compiled."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from r1pipe.here import Here
from r1pipe.models.loading import compile_layers, routed
from r1pipe.models.memory import Need, device_memory, state_shares, training_need
from r1pipe.models.packed_attention import packing_obstacle, use_packed_attention
from r1pipe.schema import SFTParams
from r1pipe.training.arguments import half_base
from r1pipe.training.sft.pack_sampler import PackSampler
from r1pipe.training.telemetry import flops_per_token, peak_flops

COMPILE_PAYS_AFTER = 600.0  # seconds of training; compiling takes about one minute
PASSES = range(32768, 8191, -1024)  # tokens of a pass: the most that fits
DEFAULT_PASS = 16384  # where activations are recomputed anyway, or nothing is known of the device
LIKELY_MFU = 0.4  # to guess how long training takes


@dataclass(frozen=True)
class PackingPlan:
    """How packed training runs."""

    sampler: PackSampler
    checkpointing: bool
    compile: bool

    def trainer(self, **arguments: Any) -> Any:
        """The trainer, its model switched over to packed attention."""
        from r1pipe.training.sft.sft_trainer import PackedSFTTrainer

        model = arguments["model"]
        assert use_packed_attention(model), "plan_packing looked at this model"
        if self.compile:
            compile_layers(model)
        return PackedSFTTrainer(self.sampler, **arguments)


def plan_packing(
    checkpoint: Path, lengths: list[int], params: SFTParams, updates: int, here: Here, seed: int
) -> PackingPlan | None:
    """The plan, said in metrics.jsonl; None where rows go in padded batches."""
    if not params.packing:
        _warn_of_padding(params, "sft.packing is false")
        return None
    if (
        torch.cuda.is_available()
    ):  # passes differ in length, and blocks of fixed size would leave holes; read at the first allocation
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    skeleton = skeleton_of(checkpoint)
    if reason := packing_obstacle(skeleton.config, skeleton):
        warnings.warn(f"rows are padded, not packed: of {type(skeleton).__name__}, {reason}", stacklevel=3)
        _warn_of_padding(params, "rows are padded")
        return None
    if params.microbatch is not None:
        warnings.warn(
            f"microbatch {params.microbatch} is ignored, since rows are packed: pack_tokens says how much a pass holds",
            stacklevel=3,
        )
    if "train_sampling_strategy" in params.trl:
        warnings.warn(
            "sft.trl.train_sampling_strategy is ignored, since rows are packed, and each update is drawn at random",
            stacklevel=3,
        )
    tokens = updates * params.batch_size * sum(lengths) / len(lengths)
    compiled = _compiled(params, here, skeleton, tokens * flops_per_token(skeleton) / here.world_size)
    on = state_shares(here)
    memory = device_memory()

    def need(tokens: int) -> Need:
        trained = 1.0 if params.lora is None else 0.02
        return training_need(
            skeleton, max(tokens, max(lengths)), on, compiled, trained, trained if half_base(params, here) else 1.0
        )

    pack_tokens = params.pack_tokens
    if pack_tokens is None:
        always = params.gradient_checkpointing is True or memory is None
        pack_tokens = next((n for n in PASSES if not always and need(n).fits(memory or 0)), DEFAULT_PASS)
    sampler = PackSampler(lengths, params.batch_size, updates, here.world_size, here.rank, pack_tokens, seed)
    checkpointing = params.gradient_checkpointing is True
    if params.gradient_checkpointing is False and memory is not None:
        checkpointing = not need(sampler.capacity).fits(memory)
    planned = need(sampler.capacity)
    here.launched["packing"] = {
        "passes": sampler.accumulation,
        "largest_pass_tokens": sampler.capacity,
        "gradient_checkpointing": checkpointing,
        "compile": compiled,
        "estimated_gib": round(
            (planned.states + planned.loss + (planned.checkpointed if checkpointing else planned.activations)) / 2**30,
            1,
        ),
    }
    here.log(packing=here.launched["packing"])
    return PackingPlan(sampler, checkpointing, compiled)


def _warn_of_padding(params: SFTParams, why: str) -> None:
    """What is stated for packed rows only, and does nothing for padded ones."""
    stated = {"pack_tokens": params.pack_tokens is not None, "compile: true": params.compile is True}
    for name, is_stated in stated.items():
        if is_stated:
            warnings.warn(f"sft.{name} is ignored, since it is of packed rows, and {why}", stacklevel=4)


def skeleton_of(checkpoint: Path) -> Any:
    """The model without its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint))


def _compiled(params: SFTParams, here: Here, skeleton: Any, flops: float) -> bool:
    """Whether layers are compiled: not under hooks that gather weights, and by itself only where it pays (routing to experts breaks the graph)."""
    if here.sharded_weights:
        if params.compile is True:
            warnings.warn(
                "compile is ignored: weights are sharded, and gathering them cannot be compiled", stacklevel=4
            )
        return False
    if params.compile == "auto":
        return (
            torch.cuda.is_available()
            and not routed(skeleton.config)
            and flops / ((peak_flops() or 1e14) * LIKELY_MFU) > COMPILE_PAYS_AFTER
        )
    return params.compile
