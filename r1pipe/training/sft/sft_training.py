"""Supervised fine-tuning with TRL (v2 B.4.2, B.4.3)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.schema import SFTParams

if TYPE_CHECKING:
    from r1pipe.training.sft.packed_setup import PackingPlan

MICROBATCH = 32  # sequences a forward pass where the config does not say


def train_sft(
    checkpoint: Path, rows: list[dict[str, Any]], params: SFTParams, out: Path, here: Here, seed: int
) -> dict[str, float]:
    """Train on the last assistant turn of every row and write a checkpoint.

    Args:
        rows: chats (r1pipe/text/rows.py). A row longer than `max_length` is left out and counted: cut thinking teaches not to stop.

    Returns:
        rows, dropped_too_long, tokens (that carry loss, an epoch), steps, loss (mean over the last tenth).

    Raises:
        InputError: no row is left.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig

    from r1pipe.models.loading import load_model, load_tokenizer, save_trained
    from r1pipe.text.rendering import chat_ids
    from r1pipe.training.arguments import half_base, lora_config, resume_from
    from r1pipe.training.callbacks import MetricsCallback
    from r1pipe.training.sft.pack_sampler import PaddedSampler
    from r1pipe.training.sft.packed_setup import plan_packing
    from r1pipe.training.sft.sft_trainer import PaddedSFTTrainer
    from r1pipe.training.telemetry import Meter, flops_per_token

    tokenizer = load_tokenizer(checkpoint)
    pairs = [chat_ids(row["messages"], tokenizer) for row in rows]
    kept = [{"input_ids": ids, "completion_mask": mask} for ids, mask in pairs if len(ids) <= params.max_length]
    dropped = len(rows) - len(kept)
    if not kept:
        raise InputError(
            f"none of {len(rows)} rows fits max_length {params.max_length}",
            "sft.max_length",
            "raise max_length, or bring shorter rows",
        )
    if dropped:
        warnings.warn(
            f"{dropped} of {len(rows)} rows are longer than max_length {params.max_length} tokens and were left out",
            stacklevel=2,
        )

    steps = params.max_steps or max(1, round(len(kept) * params.epochs / params.batch_size))
    lengths = [len(row["input_ids"]) for row in kept]
    plan = plan_packing(checkpoint, lengths, params, steps, here, seed)
    args = SFTConfig(**sft_arguments(params, here, seed, steps, plan))
    report = MetricsCallback(here)
    given: dict[str, Any] = {
        "model": load_model(checkpoint, training=True, frozen=half_base(params, here)),
        "args": args,
        "train_dataset": Dataset.from_list(kept),
        "processing_class": tokenizer,
        "peft_config": lora_config(params.lora, "sft.lora"),
        "callbacks": [report],
    }
    if plan:
        trainer = plan.trainer(**given)
    else:
        asked = "train_sampling_strategy" in params.trl
        sampler = (
            None
            if asked
            else PaddedSampler(
                lengths, params.batch_size, steps, here.world_size, here.rank, args.gradient_accumulation_steps, seed
            )
        )
        trainer = PaddedSFTTrainer(sampler, **given)
    report.meter = Meter(flops_per_token(trainer.model), here.world_size)
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl has it all
    trainer.train(resume_from_checkpoint=resume_from(here))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    save_trained(trainer, tokenizer, out, here)
    tokens = sum(sum(row["completion_mask"]) for row in kept)
    return {
        "rows": len(kept),
        "dropped_too_long": dropped,
        "tokens": tokens,
        "steps": steps,
        "loss": round(sum(tail) / len(tail), 4),
    }


def sft_arguments(params: SFTParams, here: Here, seed: int, steps: int, plan: PackingPlan | None) -> dict[str, Any]:
    """SFTConfig's arguments, for packed passes where there is a plan."""
    import torch

    from r1pipe.training.arguments import common_arguments, split_batch

    if plan:
        microbatch, accumulate = 1, plan.sampler.accumulation  # of packs
        passes: dict[str, Any] = {"padding_free": True, "gradient_checkpointing": plan.checkpointing}
        if torch.cuda.is_available():
            passes["dataloader_num_workers"] = 1  # gathers the next update's passes while the GPU works
    else:
        microbatch, accumulate = split_batch(params.batch_size, here.world_size, params.microbatch, MICROBATCH)
        passes = {}
    return {
        **common_arguments(params, here, seed, steps),
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": accumulate,
        "max_steps": steps,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": params.lr_end_ratio},
        "max_length": None,
        "packing": False,
        "completion_only_loss": True,
        "loss_type": "nll",
        **passes,
        **params.trl,
    }
