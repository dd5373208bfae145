"""What is decided before packed training starts.

Whether rows are packed, how many tokens a pass holds, whether activations are recomputed, and whether layers are
compiled. All of it is decided from the model's shape, before its weights are loaded.
"""

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
from r1pipe.training.smaller_passes import halved_at, smaller_tokens
from r1pipe.training.telemetry import flops_per_token, peak_flops

# Seconds of training from which compilation pays. It takes 8 to 15 on an H200's host, and saves a quarter where
# arithmetic takes the time, 40 % where starting kernels does.
COMPILE_PAYS_AFTER = 40.0

# To guess how long training takes: the share of a GPU's arithmetic that it uses, the peak of an unknown GPU, and what
# Python needs to start the kernels of a layer, forwards and backwards. Both together are what an update takes of 30
# layers 576 wide, 150 ms, and of 24 layers 896 wide, 140 ms (H200).
LIKELY_MFU = 0.4
LIKELY_PEAK_FLOPS = 1e14
LAUNCHES_OF_A_LAYER = 0.004

# Tokens of a pass that are tried, the most first.
PASSES = range(32768, 8191, -1024)

# Tokens of a pass where activations are recomputed anyway, or nothing is known of the device.
DEFAULT_PASS = 16384

# The share of the parameters that is trained under LoRA, roughly.
LORA_TRAINS = 0.02


@dataclass(frozen=True)
class PackingPlan:
    """How packed training runs.

    Attributes:
        sampler: which rows share a pass.
        checkpointing: activations are recomputed in the backward pass.
        compile: layers are compiled.
    """

    sampler: PackSampler
    checkpointing: bool
    compile: bool

    def trainer(self, **arguments: Any) -> Any:
        """The trainer, with its model switched over to packed attention.

        Args:
            arguments: of TRL's SFTTrainer.
        """
        from r1pipe.training.sft.sft_trainer import PackedSFTTrainer

        model = arguments["model"]
        assert use_packed_attention(model), "plan_packing looked at this model"
        if self.compile:
            compile_layers(model)
        return PackedSFTTrainer(self.sampler, **arguments)


def plan_packing(
    checkpoint: Path,
    lengths: list[int],
    params: SFTParams,
    *,
    updates: int,
    here: Here,
    seed: int,
) -> PackingPlan | None:
    """Decide how rows are packed, and record it in metrics.jsonl.

    Args:
        lengths: the tokens of each row.
        updates: how many there are in the whole training.

    Returns:
        the plan; None where rows go in padded batches.
    """
    if not params.packing:
        _warn_of_options_for_packing(params, "sft.packing is false")
        return None
    if torch.cuda.is_available():
        # Passes differ in length, and memory in blocks of fixed size would be left with holes. PyTorch reads this at
        # its first allocation.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    skeleton = skeleton_of(checkpoint)
    obstacle = packing_obstacle(skeleton.config, skeleton)
    if obstacle:
        warnings.warn(f"rows are padded, not packed: of {type(skeleton).__name__}, {obstacle}", stacklevel=2)
        _warn_of_options_for_packing(params, "rows are padded")
        return None
    _warn_of_options_for_padding(params)

    trained_tokens = updates * params.batch_size * sum(lengths) / len(lengths)
    flops = trained_tokens * flops_per_token(skeleton) / here.world_size
    compiled = _is_compiled(params, here, skeleton, flops=flops, passes=updates)
    memory = device_memory()
    shares = state_shares(here)
    trained = 1.0 if params.lora is None else LORA_TRAINS

    def need(pass_tokens: int) -> Need:
        return training_need(
            skeleton,
            # The longest row is a pass of its own, whatever the limit.
            max(pass_tokens, max(lengths)),
            on=shares,
            compiled=compiled,
            trained=trained,
            in_float32=trained if half_base(params, here) else 1.0,
        )

    pack_tokens = params.pack_tokens
    if pack_tokens is None:
        pack_tokens = DEFAULT_PASS
        if memory is not None and params.gradient_checkpointing is not True:
            pack_tokens = next((tokens for tokens in PASSES if need(tokens).fits(memory)), DEFAULT_PASS)

    def sampler_of(pack_tokens: int) -> PackSampler:
        return PackSampler(
            lengths,
            batch_size=params.batch_size,
            updates=updates,
            ranks=here.world_size,
            rank=here.rank,
            pack_tokens=pack_tokens,
            seed=seed,
        )

    sampler = sampler_of(pack_tokens)
    # What the sampler made of the limit decides, since its largest pass may be smaller, or one long row.
    planned = need(sampler.capacity)
    # false = where it does not fit; true = always; `never` is neither.
    checkpointing = params.gradient_checkpointing is True
    if params.gradient_checkpointing is False and memory is not None:
        checkpointing = not planned.fits(memory)
    # After that: where memory has run out, the estimate was too low, and must not give up checkpointing for it.
    if halved_at(here):
        sampler = sampler_of(smaller_tokens(sampler.capacity, here))
    plan = PackingPlan(sampler, checkpointing, compiled)
    _record(plan, planned, here)
    return plan


def _record(plan: PackingPlan, need: Need, here: Here) -> None:
    activations = need.checkpointed if plan.checkpointing else need.activations
    estimate = need.states + need.loss + activations
    here.launched["packing"] = {
        "passes": plan.sampler.accumulation,
        "largest_pass_tokens": plan.sampler.capacity,
        "gradient_checkpointing": plan.checkpointing,
        "compile": plan.compile,
        "estimated_gib": round(estimate / 2**30, 1),
    }
    here.log(packing=here.launched["packing"])


def _warn_of_options_for_packing(params: SFTParams, reason: str) -> None:
    """Warn of options that are stated, and that only packed rows use."""
    stated = {"pack_tokens": params.pack_tokens is not None, "compile: true": params.compile is True}
    for option, is_stated in stated.items():
        if is_stated:
            warnings.warn(
                f"sft.{option} is ignored: it is an option for packed rows, and {reason}", stacklevel=3
            )


def _warn_of_options_for_padding(params: SFTParams) -> None:
    """Warn of options that are stated, and that only padded rows use."""
    if params.microbatch is not None:
        warnings.warn(
            f"microbatch {params.microbatch} is ignored, since rows are packed: pack_tokens limits the size of a pass",
            stacklevel=3,
        )
    if "train_sampling_strategy" in params.trl:
        warnings.warn(
            "sft.trl.train_sampling_strategy is ignored, since rows are packed, and each update is drawn at random",
            stacklevel=3,
        )


def skeleton_of(checkpoint: Path) -> Any:
    """The model without its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint))


def _is_compiled(params: SFTParams, here: Here, skeleton: Any, *, flops: float, passes: int) -> bool:
    """Whether layers are compiled: as the config says; `auto` = where it pays.

    Args:
        flops: the floating-point operations of the whole training on one device.
        passes: the forward passes on one device, at least.
    """
    # The hooks that gather sharded weights cannot be compiled.
    if here.sharded_weights:
        if params.compile is True:
            warnings.warn(
                "compile is ignored: weights are sharded, and gathering them cannot be compiled", stacklevel=3
            )
        return False
    if params.compile != "auto":
        return params.compile
    # Routing to experts breaks the graph of a layer.
    if not torch.cuda.is_available() or routed(skeleton.config):
        return False
    arithmetic = flops / ((peak_flops() or LIKELY_PEAK_FLOPS) * LIKELY_MFU)
    launches = passes * skeleton.config.get_text_config().num_hidden_layers * LAUNCHES_OF_A_LAYER
    return arithmetic + launches > COMPILE_PAYS_AFTER
