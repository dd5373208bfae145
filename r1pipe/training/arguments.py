"""From our fields to TRL's: what every training stage hands to its trainer's config."""

from __future__ import annotations

import os
from typing import Any

from r1pipe.errors import ConfigError
from r1pipe.here import Here
from r1pipe.schema import Training


def split_batch(batch_size: int, world_size: int, microbatch: int | None, default: int) -> tuple[int, int]:
    """Global batch -> (sequences a forward pass and rank, accumulation steps).

    Raises:
        ConfigError: the batch does not divide over the ranks, or a rank's share over the microbatch.
    """
    if batch_size % world_size:
        down = max(world_size, batch_size // world_size * world_size)
        raise ConfigError(f"batch_size {batch_size} does not divide over {world_size} ranks", fix=f"nearest sizes: {down} and {down + world_size}")
    share = batch_size // world_size
    if microbatch is None:
        microbatch = next(m for m in range(min(default, share), 0, -1) if share % m == 0)
    if share % microbatch:
        near = [m for m in range(1, share + 1) if share % m == 0]
        below = max((m for m in near if m <= microbatch), default=1)
        raise ConfigError(
            f"a rank's share of the batch, {share}, is not a multiple of microbatch {microbatch}", fix=f"nearest: {below}, or leave microbatch out"
        )
    return microbatch, share // microbatch


def common_arguments(params: Training, here: Here, seed: int, steps: int | None) -> dict[str, Any]:
    """The transformers.TrainingArguments that do not depend on the kind of training."""
    import torch

    gpu = torch.cuda.is_available()
    ranks = "RANK" in os.environ  # the launcher's; one process on its own has none
    bf16 = gpu and torch.cuda.is_bf16_supported() if params.bf16 == "auto" else params.bf16
    return {
        "output_dir": str(here.workdir / "trainer"),
        "seed": seed,
        "learning_rate": params.lr,
        "warmup_steps": round(params.warmup_ratio * steps) if steps else 0,
        "weight_decay": params.weight_decay,
        "adam_beta1": params.adam_betas[0],
        "adam_beta2": params.adam_betas[1],
        "max_grad_norm": params.max_grad_norm,
        "bf16": bf16,  # TRL's default is on, also on a CPU, where it is slower and coarser
        "use_cpu": not gpu and not ranks,  # with it, transformers would not start DeepSpeed, and each rank would train alone
        "ddp_backend": "gloo" if not gpu and ranks else None,
        "gradient_checkpointing": params.gradient_checkpointing is True,
        "save_strategy": "steps" if params.save_every else "no",
        "save_steps": params.save_every or 500,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        **params.trl,
    }


def resume_from(here: Here) -> str | None:
    """The trainer checkpoint an earlier attempt left, if it left one whole."""
    from transformers.trainer_utils import get_last_checkpoint

    folder = here.workdir / "trainer"
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
