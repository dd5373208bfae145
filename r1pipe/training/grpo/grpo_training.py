"""Group relative policy optimisation: the recipe's fields to a trainer, and a checkpoint out of it (v2 2.1, 3.2)."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from r1pipe.errors import ConfigError, InputError
from r1pipe.generation.cuda_graphs import COMPILED_FROM
from r1pipe.here import Here
from r1pipe.models.loading import load_model, load_tokenizer, routed, save_trained
from r1pipe.rewards.checks import audit_before_training
from r1pipe.schema import AuditParams, GRPOParams
from r1pipe.text.rendering import prompt_ids, read_template, render_prompt
from r1pipe.training.arguments import common_arguments, lora_config, resume_from, split_batch
from r1pipe.training.callbacks import Heldout, MetricsCallback
from r1pipe.training.grpo.grpo_trainer import R1GRPOTrainer
from r1pipe.training.grpo.guards import KEPT_FOR_ROLLBACK, GuardCallback, LearningRate, past_rollbacks, roll_back
from r1pipe.training.grpo.prompt_order import order_prompts, spare_prompts, updates_per_rollout
from r1pipe.training.grpo.vllm_rollouts import require_vllm, vllm_arguments

COMPILED_FROM_UPDATES = 50  # our choice
MICROBATCH = 64  # completions a forward pass and rank where the config does not say


def grpo_arguments(params: GRPOParams, here: Here, seed: int) -> dict[str, Any]:
    """GRPOConfig's arguments. TRL's defaults are not R1's, so every value the paper states is passed."""
    whole = (
        token_microbatches(params) is not None
    )  # a training step is then a rank's share of a minibatch; the trainer cuts it up
    microbatch, accumulate = split_batch(
        params.batch_size,
        here.world_size,
        params.microbatch,
        params.batch_size if whole else MICROBATCH,
        params.num_generations,
    )
    return {
        **common_arguments(params, here, seed, params.steps),
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": accumulate,
        "steps_per_generation": params.minibatches_per_rollout * accumulate,  # TRL counts forward passes, not updates
        "num_iterations": params.inner_epochs,
        "max_steps": params.steps,
        "lr_scheduler_type": "constant_with_warmup" if params.warmup_ratio else "constant",
        "num_generations": params.num_generations,
        "max_completion_length": params.phases[0].max_tokens,
        "temperature": params.phases[0].temperature,
        "beta": params.beta,
        "epsilon": params.epsilon,
        "epsilon_high": params.epsilon_high,
        "importance_sampling_level": params.importance_level,
        "loss_type": params.loss_type,
        "scale_rewards": params.scale_rewards,
        "multi_objective_aggregation": params.multi_objective_aggregation,
        "use_bias_correction_kl": False,  # plain k3, v2 eq. 2
        "sync_ref_model": params.beta > 0 and params.ref_replace_every is not None,
        "ref_model_mixup_alpha": 1.0,  # the reference becomes the policy, no mixture
        "ref_model_sync_steps": params.ref_replace_every or params.steps + 1,
        "shuffle_dataset": False,  # the order is ours: r1pipe/training/grpo/prompt_order.py
        "remove_unused_columns": False,
        "mask_truncated_completions": params.mask_truncated,
        **vllm_arguments(params),
        **({"save_total_limit": kept_for_rollback(params)} if _may_roll_back(params) else {}),
        **params.trl,
    }


def token_microbatches(params: GRPOParams) -> int | Literal["auto"] | None:
    """Tokens of a forward pass: as the config says; auto = on CUDA; None = rows.

    Raises:
        ConfigError: TRL's adaptive entropy bonus steers by whole accumulations, which token microbatches do not make.
    """
    asked, adaptive = params.microbatch_tokens, params.trl.get("use_adaptive_entropy", False)
    if isinstance(asked, int) and adaptive:
        raise ConfigError(
            "microbatch_tokens does not go with trl.use_adaptive_entropy",
            "grpo.microbatch_tokens",
            "microbatch_tokens: rows",
        )
    if asked != "auto":
        return asked if isinstance(asked, int) else None
    return "auto" if torch.cuda.is_available() and params.microbatch is None and not adaptive else None


def compiled_layers(params: GRPOParams, here: Here, model: Any) -> bool:
    """Whether the layers are compiled: as the config says; auto = where enough updates of a model of some size pay for the minute that it takes."""
    if here.sharded_weights:  # gathering them cannot be compiled
        if params.compile is True:
            warnings.warn("grpo.compile is ignored: the profile cuts up the weights", stacklevel=2)
        return False
    if params.compile != "auto":
        return params.compile
    pays = (
        params.steps >= COMPILED_FROM_UPDATES and model.num_parameters() >= COMPILED_FROM and not routed(model.config)
    )
    if (
        params.rollout == "hf"
    ):  # an adapter takes minutes to compile; TRL's own generation would be compiled for every length
        pays = pays and params.lora is None and not params.trl.get("use_transformers_continuous_batching")
    return pays and torch.cuda.is_available() and token_microbatches(params) is not None


def kept_for_rollback(params: GRPOParams) -> int:
    """Trainer checkpoints that reach back before the window of a finding, which is made in the first update after it."""
    window = (params.guards.window + 1) * updates_per_rollout(params)
    return max(KEPT_FOR_ROLLBACK, math.ceil(window / (params.save_every or 1)) + 1)


def _may_roll_back(params: GRPOParams) -> bool:
    return any(guard.action == "rollback" for guard in params.guards.rules().values())


def train_grpo(
    checkpoint: Path,
    prompts: dict[str, list[dict[str, Any]]],
    heldout: list[dict[str, Any]],
    params: GRPOParams,
    template: str,
    out: Path,
    here: Here,
    seed: int,
    models: dict[str, Callable[..., list[float]]] | None = None,
    audit: AuditParams | None = None,
) -> dict[str, float]:
    """Train the policy through all phases and write a checkpoint.

    Args:
        prompts: input port -> rows; the phases name the ports.
        heldout: rows scored before training, every `eval_every` updates and at the end.
        template: `chat` or a template file; nothing of the response is prefilled.
        models: scorers for helpful and harmless.
        audit: what the rewards must show on these prompts before the first update; none = nothing.

    Returns:
        steps, kept_step, reward (mean of the last tenth), the held-out accuracy and tokens at the start and of the policy that was kept,
        and, where a guard spoke, guard_findings and rollbacks.

    Raises:
        GateError: the audit of the rewards passed a threshold; nothing was trained.
        GuardError: a guard whose action is `pause` found something, or rolling back did not help.
    """
    named = {name for phase in params.phases for name in phase.prompts}
    missing = sorted(named - {name for name, rows in prompts.items() if rows})
    if missing:
        raise (InputError if missing[0] in prompts else ConfigError)(
            f"a phase asks for prompts from {', '.join(missing)}, where there are none",
            "grpo.phases.prompts",
            f"inputs with rows: {', '.join(n for n, r in prompts.items() if r) or 'none'}",
        )
    if _may_roll_back(params) and here.world_size > 1:
        raise ConfigError(
            "a rollback works in one process so far",
            "grpo.guards",
            "action: pause, and start again by hand; or launch: {num_processes: 1}",
        )
    if _may_roll_back(params) and params.rollout == "vllm":
        raise ConfigError(
            "a rollback makes the trainer anew, and vLLM in this process keeps its memory",
            "grpo.guards",
            "action: pause; or rollout: vllm-server",
        )
    require_vllm(params)
    share = params.batch_size * params.minibatches_per_rollout // here.world_size
    if params.resample and share % params.num_generations:
        raise ConfigError(
            f"resample needs whole groups on each rank: {share} completions a rank are not a multiple of num_generations {params.num_generations}",
            "grpo.resample",
            "another batch_size or number of ranks; or resample: 0",
        )
    if audit is not None and audit.before_training and here.main:
        asked = [
            row
            for name in dict.fromkeys(name for phase in params.phases for name in phase.prompts)
            for row in prompts[name]
        ]
        asked = asked if here.isolation else [row for row in asked if not row.get("tests")]
        here.note(audit_before_training(here.stage, params.phases, asked, audit).line())
    tokenizer = load_tokenizer(checkpoint)
    text = read_template(template)
    rows = order_prompts(params, prompts, seed)
    asked = heldout[: params.eval_prompts]
    watch = Heldout(asked, prompt_ids(asked, text, tokenizer) if asked else [], here, params)
    while True:
        trainer, guard = _make_trainer(checkpoint, rows, params, text, tokenizer, watch, here, seed, models, prompts)
        trainer.train(resume_from_checkpoint=resume_from(here))
        if guard.rollback is None:
            break
        trainer.graphed = None  # its cache must not stand beside the next trainer's
        roll_back(
            guard.rollback, params.guards, here
        )  # the next trainer goes on from what this leaves, and so does `watch`
    if (best := watch.best_folder) is not None:
        if here.main:  # a second name of the same files: until the stage is published, an attempt that follows must find them in the workdir
            shutil.copytree(best, out, copy_function=_link, dirs_exist_ok=True)
    else:
        save_trained(trainer, tokenizer, out, here)
    found = [entry["reward"] for entry in trainer.state.log_history if entry.get("reward") is not None]
    tail = found[-max(1, len(found) // 10) :]
    metrics: dict[str, float] = {
        "steps": params.steps,
        "reward": round(sum(tail) / max(1, len(tail)), 4),
        **watch.summary(),
    }
    rollbacks = len(past_rollbacks(here))
    if guard.findings or rollbacks:
        metrics |= {"guard_findings": guard.findings + rollbacks, "rollbacks": rollbacks}
    return metrics


def _link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _make_trainer(
    checkpoint: Path,
    rows: list[dict[str, Any]],
    params: GRPOParams,
    template: str | None,
    tokenizer: Any,
    watch: Heldout,
    here: Here,
    seed: int,
    models: dict[str, Callable[..., list[float]]] | None,
    prompts: dict[str, list[dict[str, Any]]],
) -> tuple[R1GRPOTrainer, GuardCallback]:
    """A trainer before its first update, with the learning rate that the rollbacks so far have left."""
    args = GRPOConfig(
        **grpo_arguments(params, here, seed)
    )  # before the model: under ZeRO-3 it is then loaded in shards
    guard = GuardCallback(params.guards, here)

    def spare(rollout: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        return ((render_prompt(row, template), row) for row in spare_prompts(params, prompts, seed, rollout))

    model = load_model(checkpoint, training=True)
    trainer = R1GRPOTrainer(
        params=params,
        here=here,
        rows=list(rows),
        models=models,
        microbatch_tokens=token_microbatches(params),
        compiled=compiled_layers(params, here, model),
        spare=spare,
        args=args,
        model=model,
        train_dataset=Dataset.from_dict(
            {"prompt": [render_prompt(row, template) for row in rows], "row": list(range(len(rows)))}
        ),
        processing_class=tokenizer,
        peft_config=lora_config(params.lora, "grpo.lora"),
        callbacks=[MetricsCallback(here), guard],
    )
    if rollbacks := len(past_rollbacks(here)):
        trainer.add_callback(LearningRate(params.lr * params.guards.rollback_lr**rollbacks))
    watch.trainer = trainer
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    return trainer, guard
