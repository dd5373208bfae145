"""Supervised fine-tuning with TRL (v2 B.4.2, B.4.3).

Reads     a checkpoint, and chats whose last turn is the assistant's
Writes    a checkpoint
Departs   from the paper in one point: rows are packed where the model allows it, which changes no gradient. See
          r1pipe/training/sft/packed_setup.py
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.schema import SFTParams

if TYPE_CHECKING:
    from datasets import Dataset

    from r1pipe.training.sft.pack_sampler import PaddedSampler
    from r1pipe.training.sft.packed_setup import PackingPlan

# Sequences of a forward pass where the config does not say.
MICROBATCH = 32


def train_sft(
    checkpoint: Path,
    rows: list[dict[str, Any]],
    params: SFTParams,
    *,
    out: Path,
    here: Here,
    seed: int,
) -> dict[str, float]:
    """Train on the last assistant turn of every row and save a checkpoint.

    Args:
        checkpoint: the model that training begins with.
        rows: chats (r1pipe/text/rows.py).
        out: the folder for the trained checkpoint.

    Returns:
        rows, dropped_too_long, tokens (with loss, in one epoch), steps, loss (mean over the last tenth of the updates).

    Raises:
        InputError: no row is left.
    """
    from transformers import PrinterCallback
    from trl import SFTConfig

    from r1pipe.models.loading import load_model, load_tokenizer, save_trained, with_positions
    from r1pipe.training.arguments import half_base, lora_config, resume_from
    from r1pipe.training.callbacks import FiniteLoss, MetricsCallback
    from r1pipe.training.sft.packed_setup import plan_packing
    from r1pipe.training.sft.sft_trainer import PackedSFTTrainer, PaddedSFTTrainer
    from r1pipe.training.telemetry import Meter, flops_per_token

    # 1. The rows as tokens, and how they share passes.
    tokenizer = load_tokenizer(checkpoint)
    examples = _examples(rows, tokenizer, params.max_length)
    lengths = [len(example["input_ids"]) for example in examples]
    updates = params.max_steps or max(1, round(len(examples) * params.epochs / params.batch_size))
    plan = plan_packing(checkpoint, lengths, params, updates=updates, here=here, seed=seed)

    # 2. The trainer. Its arguments come before the model: under ZeRO-3, the model is then loaded in shards.
    args = SFTConfig(**sft_arguments(params, here, seed, updates, plan))
    metrics = MetricsCallback(here)
    arguments: dict[str, Any] = {
        "model": load_model(
            checkpoint,
            training=True,
            frozen=half_base(params, here),
            config=with_positions(checkpoint, params.positions, params.rope_theta),
        ),
        "args": args,
        "train_dataset": _with_labels(examples, completion_only=bool(args.completion_only_loss)),
        "processing_class": tokenizer,
        "peft_config": lora_config(params.lora, "sft.lora"),
        "callbacks": [metrics, FiniteLoss()],
        "here": here,
        "training": params,
    }
    if plan:
        trainer = plan.trainer(**arguments)
    else:
        accumulation = args.gradient_accumulation_steps
        sampler = _padded_sampler(params, lengths, accumulation, updates=updates, here=here, seed=seed)
        trainer = PaddedSFTTrainer(sampler, **arguments)
    metrics.meter = Meter(flops_per_token(trainer.model), here.world_size)
    # metrics.jsonl has all that it would print.
    trainer.remove_callback(PrinterCallback)

    # 3. Train, save, and say how it went.
    compiled = plan is not None and plan.compile and not plan.checkpointing
    if compiled and isinstance(trainer, PackedSFTTrainer) and not here.distributed:
        trainer.compile_first()
    here.wait_for_turn()
    trainer.train(resume_from_checkpoint=resume_from(here))
    save_trained(trainer, tokenizer, out, here)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    last_losses = losses[-max(1, len(losses) // 10) :]
    return {
        "rows": len(examples),
        "dropped_too_long": len(rows) - len(examples),
        "tokens": sum(sum(example["completion_mask"]) for example in examples),
        "steps": updates,
        "loss": round(sum(last_losses) / len(last_losses), 4),
    }


def _examples(rows: list[dict[str, Any]], tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Token ids and loss masks of the rows that fit.

    Rows that are too long are left out, not cut: a row whose end is cut off teaches the model not to stop.

    Raises:
        InputError: no row fits, or the chat template has no place for a row's system turn.
    """
    from r1pipe.text.rendering import chat_ids, check_system_turns

    check_system_turns((row["messages"] for row in rows), tokenizer)
    examples = []
    for ids, mask in chat_ids([row["messages"] for row in rows], tokenizer):
        if len(ids) <= max_length:
            examples.append({"input_ids": ids, "completion_mask": mask})
    if not examples:
        raise InputError(
            f"none of {len(rows)} rows fits max_length {max_length}",
            "sft.max_length",
            "raise max_length, or bring shorter rows",
        )

    dropped = len(rows) - len(examples)
    if dropped:
        warnings.warn(
            f"{dropped} of {len(rows)} rows are longer than max_length {max_length} tokens and were left out",
            stacklevel=3,
        )
    return examples


def _with_labels(examples: list[dict[str, Any]], *, completion_only: bool) -> Dataset:
    """The examples as TRL's collator takes them: a label is a token's id, or -100 where it has no loss.

    TRL would make them itself, row by row, which takes 3 s for 17,000 rows.
    """
    from datasets import Dataset

    ids = [example["input_ids"] for example in examples]
    labels = ids
    if completion_only:
        masks = [example["completion_mask"] for example in examples]
        labels = [
            [token if counts else -100 for token, counts in zip(tokens, mask, strict=True)]
            for tokens, mask in zip(ids, masks, strict=True)
        ]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def _padded_sampler(
    params: SFTParams,
    lengths: list[int],
    accumulation: int,
    *,
    updates: int,
    here: Here,
    seed: int,
) -> PaddedSampler | None:
    """Padded passes of rows of similar length; None where the config asks transformers for its own order."""
    from r1pipe.training.sft.pack_sampler import PaddedSampler

    if "train_sampling_strategy" in params.trl:
        return None
    return PaddedSampler(
        lengths,
        batch_size=params.batch_size,
        updates=updates,
        ranks=here.world_size,
        rank=here.rank,
        accumulation=accumulation,
        seed=seed,
    )


def sft_arguments(
    params: SFTParams, here: Here, seed: int, updates: int, plan: PackingPlan | None
) -> dict[str, Any]:
    """SFTConfig's arguments: for packed passes where there is a plan, else for padded ones."""
    import torch

    from r1pipe.training.arguments import common_arguments, split_batch

    packed: dict[str, Any] = {}
    if plan:
        # A microbatch is one pack.
        microbatch = 1
        accumulation = plan.sampler.accumulation
        packed = {"padding_free": True, "gradient_checkpointing": plan.checkpointing}
        if torch.cuda.is_available():
            # A worker gathers the next update's passes while the GPU works.
            packed["dataloader_num_workers"] = 1
    else:
        microbatch, accumulation = split_batch(params.batch_size, here, params.microbatch, MICROBATCH)
    return {
        **common_arguments(params, here, seed, updates),
        "per_device_train_batch_size": microbatch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": updates,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": params.lr_end_ratio},
        # Rows that are too long were left out already, and packs are made by the sampler, not by TRL.
        "max_length": None,
        "packing": False,
        "completion_only_loss": True,
        "loss_type": "nll",
        **packed,
        **params.trl,
    }
