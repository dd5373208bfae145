"""From our fields to TRL's: the part of the trainer's arguments that every training stage shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1pipe.errors import ConfigError
from r1pipe.here import Here
from r1pipe.schema import DPOParams, RewardModelParams, SFTParams, Training, batches
from r1pipe.training.checkpoints import facts_of, newest_whole
from r1pipe.training.smaller_passes import smaller

__all__ = ["common_arguments", "epoch_arguments", "half_base", "lora_config", "resume_from", "split_batch"]

# Profiles whose checkpoints are whole: a training can be resumed from them over any number of ranks.
WHOLE = {"process", "ddp"}


# Minutes that ranks wait for each other where the config says that a stage never hangs: a week.
NEVER_MINUTES = 10_080
# How much longer than the watchdog, so that it comes first.
WATCHDOG_FIRST_S = 300


def common_arguments(params: Training, here: Here, seed: int, updates: int | None) -> dict[str, Any]:
    """The transformers.TrainingArguments that do not depend on the kind of training.

    Args:
        updates: of the whole training; none = the trainer counts them, and there is no warmup.
    """
    import torch

    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(here.workdir / "trainer"),
        "seed": seed,
        "learning_rate": params.lr,
        "warmup_steps": round(params.warmup_ratio * updates) if updates else 0,
        "weight_decay": params.weight_decay,
        "adam_beta1": params.adam_betas[0],
        "adam_beta2": params.adam_betas[1],
        "max_grad_norm": params.max_grad_norm,
        # TRL's default is on, also on a CPU, where it is slower and coarser.
        "bf16": in_bf16(params),
        # With use_cpu, transformers would not start DeepSpeed, and each rank would train alone.
        "use_cpu": not gpu and not here.distributed,
        "ddp_backend": "gloo" if not gpu and here.distributed else None,
        "ddp_timeout": collective_timeout_s(here),
        "gradient_checkpointing": params.gradient_checkpointing is True,
        # ResumableTrainer says when a checkpoint is due.
        "save_strategy": "no",
        "save_total_limit": params.keep_checkpoints,
        "logging_steps": 1,
        # With the filter, transformers would log another number in place of one that is not finite, and would stop the
        # GPU after each pass to look for it.
        "logging_nan_inf_filter": False,
        # MetricsCallback writes the metrics, so no other reporter and no progress bar.
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        # Last, so that the config's own arguments win.
        **params.trl,
    }


def collective_timeout_s(here: Here) -> int:
    """How long ranks wait for each other: longer than the watchdog, which shows where each of them is."""
    return round(60 * (here.hang_minutes or NEVER_MINUTES)) + WATCHDOG_FIRST_S


def split_batch(
    batch_size: int, here: Here, microbatch: int | None, default: int, group: int = 1
) -> tuple[int, int]:
    """schema.batches.split_batch over the ranks of this stage; smaller where memory has run out."""
    rows, passes = batches.split_batch(batch_size, here.world_size, microbatch, default, group)
    return smaller(rows, passes, here)


def epoch_arguments(
    params: RewardModelParams | DPOParams, examples: int, here: Here, seed: int, *, microbatch: int
) -> dict[str, Any]:
    """The arguments of a training that passes over its rows `epochs` times: those of every stage, passes and updates.

    Args:
        examples: the rows that fit; epochs are of these, not of all rows.
        microbatch: rows of a forward pass where the config does not say.
    """
    rows, accumulation = split_batch(params.batch_size, here, params.microbatch, microbatch)
    updates = max(1, round(examples * params.epochs / params.batch_size))
    return {
        **common_arguments(params, here, seed, updates),
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "max_steps": updates,
    }


def lora_config(arguments: dict[str, Any] | None, where: str) -> Any:
    """The adapter of a `lora:` block, a peft.LoraConfig; None without such a block.

    Args:
        where: the block's place in the config, for errors.

    Raises:
        ConfigError: peft is not installed, or does not know an argument.
    """
    if arguments is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise ConfigError("lora needs peft, which is not installed", where, "pip install peft") from None

    unknown = sorted(set(arguments) - set(LoraConfig.__dataclass_fields__))
    if unknown:
        raise ConfigError(
            f"peft.LoraConfig has no argument '{unknown[0]}'",
            where,
            "among others: r, lora_alpha, lora_dropout, target_modules",
        )
    return LoraConfig(**{"task_type": "CAUSAL_LM", **arguments})


def in_bf16(params: Training) -> bool:
    """Whether passes are made in bf16: as the config says; `auto` = where the GPU can."""
    import torch

    if params.bf16 != "auto":
        return params.bf16
    # Older GPUs emulate bf16, which is slower than float32.
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def half_base(params: SFTParams, here: Here) -> bool:
    """Whether the model under an adapter may be in bf16, since none of its own weights is trained."""
    if params.lora is None:
        return False
    trains_own_weights = params.lora.get("modules_to_save") or params.lora.get("bias", "none") != "none"
    # FSDP2 wants one type for the adapter and the model.
    if trains_own_weights or here.profile == "fsdp2":
        return False
    return params.trl.get("bf16", in_bf16(params))


def resume_from(here: Here) -> str | None:
    """The newest whole checkpoint that an earlier attempt left; None where there is none.

    Those that are not whole are passed over, and a note names them. In the checkpoints of `process` and `ddp`, weights
    and optimizer states are whole, so training can be resumed over any number of ranks. Those of the other profiles are
    sharded by rank, and those that were made within a rollout hold each rank's share of it.

    Raises:
        ConfigError: the checkpoint is sharded for another profile or another number of ranks.
    """
    # Rank 0 alone reads gigabytes to check them.
    found: Any = _of_rank_0(_choose(here) if here.main else None)
    if found is None:
        return None
    checkpoint, before = found
    now = {"profile": here.profile, "ranks": here.world_size}
    both_whole = {before["profile"], now["profile"]} <= WHOLE
    if before == now:
        return checkpoint
    in_rollout = facts_of(Path(checkpoint)).get("in_rollout", False)
    if not both_whole or (in_rollout and before["ranks"] != now["ranks"]):
        how = "was made within a rollout over" if both_whole else "is sharded for"
        raise ConfigError(
            f"the trainer's checkpoint {how} {before['ranks']} ranks under {before['profile']}; "
            f"{now['ranks']} ranks under {now['profile']} cannot resume from it",
            checkpoint,
            f"launch: profile {before['profile']} with {before['ranks']} ranks in all; "
            f"or start the stage from its beginning: --rebuild {here.stage}",
        )
    here.note(
        f"{Path(checkpoint).name} was made by {before['ranks']} ranks under {before['profile']}; {now['ranks']} under "
        f"{now['profile']} go on from it with the same rows, and with other random numbers"
    )
    return checkpoint


def _choose(here: Here) -> tuple[str, dict[str, Any]] | None:
    """The newest whole checkpoint, and which ranks made it."""
    checkpoint, passed_over = newest_whole(here.workdir / "trainer")
    for name, why in passed_over.items():
        here.note(f"{name} is not whole, so it is passed over: {why}")
    if checkpoint is None:
        return None
    facts = facts_of(checkpoint)
    return str(checkpoint), {"profile": facts["profile"], "ranks": facts["ranks"]}


def _of_rank_0(value: Any) -> Any:
    """Rank 0's value on every rank; a collective where there are several."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
