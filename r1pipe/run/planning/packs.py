"""What the trainers will decide by themselves: how many tokens a pass holds, and whether activations are recomputed.

The rules are those of r1pipe/training/sft/packed_setup.py and r1pipe/training/grpo/pack_budget.py, which decide when a
model is loaded. tests/run/planning/test_packs.py compares their numbers with the ones here.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from r1pipe.run.planning.activations import FLOAT, HALF, Adapter, Training
from r1pipe.run.planning.footprint import CONTEXT, cache_bytes
from r1pipe.run.planning.model_shape import ModelShape

# r1pipe/models/memory.py, whose estimate is rougher than footprint.py's on purpose: it must not be below.
KEPT_PER_HIDDEN = 45
KEPT_PER_INNER = 8
KEPT_BY_CHECKPOINT = 4
COMPILED = 0.55
RESERVE = 0.88
LOGIT_TOKENS = 4096

# r1pipe/training/sft/packed_setup.py
PASSES = range(
    32768,
    8191,
    -1024,
)
DEFAULT_PASS = 16384
LORA_TRAINS = 0.02

# r1pipe/training/grpo/pack_budget.py and completion_packs.py
SPARE_BYTES = 2**31
MEMORY_SHARE = 0.7
LEAST_TOKENS = 1024
MOST_TOKENS = 32_768

# PEFT's own choice for Qwen2 and Llama.
DEFAULT_TARGETS = ("q_proj", "v_proj")
DEFAULT_RANK = 8


def adapter_of(lora: dict[str, Any] | None) -> Adapter | None:
    """The adapter of a `lora:` block."""
    if lora is None:
        return None
    targets = lora.get("target_modules") or DEFAULT_TARGETS
    every = targets == "all-linear"
    named = {targets} if isinstance(targets, str) else set(targets)

    def count(*names: str) -> int:
        return sum(every or name in named for name in names)

    return Adapter(
        rank=lora.get("r", DEFAULT_RANK),
        attention_in=count(
            "q_proj",
            "k_proj",
            "v_proj",
        ),
        attention_out=count("o_proj"),
        mlp_in=count("gate_proj", "up_proj"),
        mlp_out=count("down_proj"),
    )


# --- SFT --------------------------------------------------------------------------------------------------------------


def rough_need(training: Training, tokens: int) -> tuple[float, float]:
    """training_need of r1pipe/models/memory.py: bytes without and with checkpointing."""
    shape = training.shape
    adapter = training.adapter is not None
    trained = LORA_TRAINS if adapter else 1.0
    in_float32 = trained if training.frozen_half else 1.0
    weights = gradients = moments = 1.0
    if training.profile not in ("process", "ddp"):
        shard = 1 / training.ranks
        weights = moments = 0.0 if training.offload != "none" else shard
        gradients = 1.0 if training.profile == "zero1" else shard
    states = 4 * weights * in_float32 + (4 * gradients + 8 * moments) * trained + 2
    layer = rough_layer(shape, training.compiled)
    loss = min(tokens, LOGIT_TOKENS) * shape.vocabulary * 2 + shape.head * 6
    fixed = shape.parameters * states + loss
    kept = tokens * shape.layers * layer
    recomputed = tokens * (shape.layers * shape.hidden * KEPT_BY_CHECKPOINT + layer)
    return fixed + kept, fixed + recomputed


def rough_layer(shape: ModelShape, compiled: bool) -> float:
    """Bytes a token of one layer, by r1pipe/models/memory.py."""
    inner = shape.inner
    if shape.experts:
        inner = max(shape.inner, shape.visited * shape.expert_inner + shape.shared_inner)
    layer = KEPT_PER_HIDDEN * shape.hidden + KEPT_PER_INNER * inner
    return layer * (COMPILED if compiled else 1.0)


def sft_pass(training: Training, memory: float, longest: int, asked: int | None) -> int:
    """Tokens of a pass that plan_packing takes.

    Args:
        memory: of the GPU.
        longest: tokens of the longest row.
        asked: `pack_tokens` of the config.
    """
    if asked is not None:
        return max(asked, longest)
    if training.checkpointing:
        return max(DEFAULT_PASS, longest)
    for tokens in PASSES:
        if rough_need(training, max(tokens, longest))[0] <= RESERVE * memory:
            return max(tokens, longest)
    return max(DEFAULT_PASS, longest)


# --- RL ---------------------------------------------------------------------------------------------------------------


def auto_pack(training: Training, memory: float) -> int:
    """Tokens of a pack where the config says `auto`: what is free when the first pack is made, less what will come."""
    shape = training.shape
    rollout = training.rollout
    size = shape.parameters
    master = size * (HALF if training.zero else FLOAT)
    shards = training.ranks if training.zero == 3 else 1
    taken = CONTEXT + master / shards + rollout.vllm_bytes + rollout.models
    if training.zero:
        taken += FLOAT * training.trained / training.ranks
    if rollout.reference:
        taken += master / shards
    if rollout.twin:
        taken += HALF * size + cache_bytes(
            shape,
            rollout.rows,
            rollout.columns,
        )
    shard = 1 / training.ranks if training.zero else 1.0
    gradients = 1.0 if training.zero == 1 else shard
    moments = 0.0 if training.offload != "none" else shard
    to_come = training.trained * (4 * gradients * (training.zero != 3) + 8 * moments)
    free = memory - taken - to_come - SPARE_BYTES
    layer = rough_layer(shape, training.compiled)
    per_token = shape.layers * layer
    if training.checkpointing:
        per_token = shape.layers * shape.hidden * KEPT_BY_CHECKPOINT + layer
    # In whole thousands, as auto_tokens rounds.
    tokens = int(MEMORY_SHARE * free / per_token) // 1024 * 1024
    return max(LEAST_TOKENS, min(MOST_TOKENS, tokens))


def largest_pack(rows: int, budget: int, *, group: int, prompt: float, answer: float) -> tuple[int, int]:
    """The packs of a minibatch on a GPU, and the tokens of the largest; rows with the same prompt share it.

    Args:
        rows: responses of the minibatch on this GPU.
        budget: tokens of a pack.
        group: responses to a prompt.
        prompt, answer: tokens of each.
    """
    whole = rows * answer + math.ceil(rows / group) * prompt
    packs = max(1, math.ceil(whole / budget))
    while True:
        # r1pipe/training/grpo/completion_packs.py deals as many rows to each pack.
        in_pack = math.ceil(rows / packs)
        tokens = in_pack * answer + math.ceil(in_pack / group) * prompt
        if tokens <= budget or packs >= rows:
            return packs, math.ceil(tokens)
        packs += 1


def with_pass(training: Training, passes: int, tokens: int) -> Training:
    return replace(
        training,
        passes=passes,
        tokens=tokens,
    )
