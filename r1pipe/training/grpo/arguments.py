"""The recipe's fields as TRL's arguments, and what `auto` means for microbatches and compilation."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch

from r1pipe.errors import ConfigError
from r1pipe.generation.cuda_graphs import COMPILED_FROM
from r1pipe.here import Here
from r1pipe.models.loading import routed
from r1pipe.schema import GRPOParams, batches
from r1pipe.training.arguments import common_arguments, split_batch
from r1pipe.training.grpo.guards import KEPT_FOR_ROLLBACK
from r1pipe.training.grpo.prompt_order import updates_per_rollout
from r1pipe.training.grpo.vllm_rollouts import vllm_arguments

# Updates from which `compile: auto` compiles layers, which takes about a minute; our choice.
COMPILED_FROM_UPDATES = 50
# Responses of a forward pass on each rank where the config does not say.
MICROBATCH = 64


def grpo_arguments(
    params: GRPOParams,
    here: Here,
    seed: int,
) -> dict[str, Any]:
    """GRPOConfig's arguments. TRL's defaults are not R1's, so every value the paper states is passed."""
    # With packs, a training step is a rank's whole share of a minibatch; updates.py cuts it up.
    if token_microbatches(params) is None:
        microbatch, accumulate = split_batch(
            params.batch_size, here, params.microbatch, MICROBATCH, params.num_generations
        )
    else:
        microbatch, accumulate = batches.split_batch(
            params.batch_size, here.world_size, params.microbatch, params.batch_size, params.num_generations
        )
    arguments = {
        **common_arguments(params, here, seed, params.steps),
        # Batches. TRL counts forward passes where we count updates, so its numbers grow with the accumulation.
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": accumulate,
        "steps_per_generation": params.minibatches_per_rollout * accumulate,
        "num_iterations": params.inner_epochs,
        "max_steps": params.steps,
        "lr_scheduler_type": "constant_with_warmup" if params.warmup_ratio else "constant",
        # The rollout. Length and temperature are the first phase's; phases.py changes them. The order of prompts is
        # ours (prompt_order.py), and rewards read the column `row`, which the trainer would remove.
        "num_generations": params.num_generations,
        "max_completion_length": params.phases[0].max_tokens,
        "temperature": params.phases[0].temperature,
        "shuffle_dataset": False,
        "remove_unused_columns": False,
        # The loss: plain k3 without correction (v2 eq. 2).
        "beta": params.beta,
        "epsilon": params.epsilon,
        "epsilon_high": params.epsilon_high,
        "importance_sampling_level": params.importance_level,
        "loss_type": params.loss_type,
        "scale_rewards": params.scale_rewards,
        "multi_objective_aggregation": params.multi_objective_aggregation,
        "mask_truncated_completions": params.mask_truncated,
        "use_bias_correction_kl": False,
        # The reference becomes the policy now and then (v2 2.1); an alpha below 1 would mix the two.
        "sync_ref_model": params.beta > 0 and params.ref_replace_every is not None,
        "ref_model_mixup_alpha": 1.0,
        "ref_model_sync_steps": params.ref_replace_every or params.steps + 1,
        **vllm_arguments(params),
    }
    if may_roll_back(params):
        arguments["save_total_limit"] = max(params.keep_checkpoints, kept_for_rollback(params))
    return arguments | params.trl


def token_microbatches(params: GRPOParams) -> int | Literal["auto"] | None:
    """Tokens of a forward pass: as the config says; auto = on CUDA, by its memory; None = microbatches of rows.

    Raises:
        ConfigError: TRL's adaptive entropy bonus steers by whole accumulations, which packs do not make.
    """
    # the bonus is steered by the entropy of whole accumulations
    adaptive = params.trl.get("use_adaptive_entropy", False)
    if isinstance(params.microbatch_tokens, int) and adaptive:
        raise ConfigError(
            "microbatch_tokens and trl.use_adaptive_entropy cannot be combined",
            "grpo.microbatch_tokens",
            "microbatch_tokens: rows",
        )
    if isinstance(params.microbatch_tokens, int):
        return params.microbatch_tokens
    if params.microbatch_tokens == "rows":
        return None
    packs = torch.cuda.is_available() and params.microbatch is None and not adaptive
    return "auto" if packs else None


def compiled_layers(
    params: GRPOParams,
    here: Here,
    model: Any,
) -> bool:
    """Whether the layers are compiled: as the config says; auto = where enough updates of a large model pay for it."""
    if here.sharded_weights:
        # the gathering of shards cannot be compiled
        if params.compile is True:
            warnings.warn("grpo.compile is ignored: the profile shards the weights", stacklevel=2)
        return False
    if params.compile != "auto":
        return params.compile
    # a CPU and padded rows are not worth it
    if not torch.cuda.is_available() or token_microbatches(params) is None:
        return False
    if params.rollout == "hf":
        # An adapter takes minutes to compile for sampling, and TRL's own generation would be compiled for every
        # length.
        slow_to_compile = params.lora is not None or params.trl.get("use_transformers_continuous_batching")
        if slow_to_compile:
            return False
    # experts break the graph of a compiled layer
    large = model.num_parameters() >= COMPILED_FROM and not routed(model.config)
    return large and params.steps >= COMPILED_FROM_UPDATES


def may_roll_back(params: GRPOParams) -> bool:
    """Whether one of the guards may ask for a rollback."""
    return any(guard.action == "rollback" for guard in params.guards.rules().values())


def kept_for_rollback(params: GRPOParams) -> int:
    """How many of the trainer's checkpoints are kept, so that one is older than what a guard can find.

    A guard looks back over a window of rollouts in the first update after it.
    """
    updates = (params.guards.window + 1) * updates_per_rollout(params)
    return max(KEPT_FOR_ROLLBACK, math.ceil(updates / (params.save_every or 1)) + 1)
