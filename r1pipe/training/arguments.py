"""From our fields to TRL's: what every training stage hands to its trainer's config."""

from __future__ import annotations

import json
from typing import Any

from r1pipe.errors import ConfigError
from r1pipe.here import Here
from r1pipe.schema import SFTParams, Training
from r1pipe.schema.batches import split_batch

__all__ = ["common_arguments", "half_base", "lora_config", "resume_from", "split_batch"]


def common_arguments(params: Training, here: Here, seed: int, steps: int | None) -> dict[str, Any]:
    """The transformers.TrainingArguments that do not depend on the kind of training."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(here.workdir / "trainer"),
        "seed": seed,
        "learning_rate": params.lr,
        "warmup_steps": round(params.warmup_ratio * steps) if steps else 0,
        "weight_decay": params.weight_decay,
        "adam_beta1": params.adam_betas[0],
        "adam_beta2": params.adam_betas[1],
        "max_grad_norm": params.max_grad_norm,
        "bf16": in_bf16(params),  # TRL's default is on, also on a CPU, where it is slower and coarser
        "use_cpu": not gpu
        and not here.distributed,  # with it, transformers would not start DeepSpeed, and each rank would train alone
        "ddp_backend": "gloo" if not gpu and here.distributed else None,
        "gradient_checkpointing": params.gradient_checkpointing is True,
        "save_strategy": "steps" if params.save_every else "no",
        "save_steps": params.save_every or 500,
        "save_total_limit": 2,
        "logging_steps": 1,
        # transformers would log another number in the place of one that is not finite, and stop the GPU after each pass to look for it
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        **params.trl,
    }


def lora_config(arguments: dict[str, Any] | None, where: str) -> Any:
    """The adapter that a `lora:` block asks for, a peft.LoraConfig; None without one.

    Raises:
        ConfigError: peft is not installed, or does not know an argument.
    """
    if arguments is None:
        return None
    try:
        from peft import LoraConfig
    except ImportError:
        raise ConfigError("lora needs peft, which is not installed", where, "pip install peft") from None
    known = set(LoraConfig.__dataclass_fields__)
    if unknown := sorted(set(arguments) - known):
        raise ConfigError(
            f"peft.LoraConfig has no argument {unknown[0]}",
            where,
            "among others: r, lora_alpha, lora_dropout, target_modules",
        )
    return LoraConfig(**{"task_type": "CAUSAL_LM", **arguments})


def in_bf16(params: Training) -> bool:
    """Whether passes are made in bf16, as the config says; auto = where the GPU can."""
    import torch

    return (
        torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        if params.bf16 == "auto"
        else params.bf16
    )


def half_base(params: SFTParams, here: Here) -> bool:
    """Whether nothing of the model itself is trained, so that it may lie in bf16 under its adapter; FSDP2 wants one type for both."""
    lora = params.lora
    if lora is None or lora.get("modules_to_save") or lora.get("bias", "none") != "none" or here.profile == "fsdp2":
        return False
    return params.trl.get("bf16", in_bf16(params))


def resume_from(here: Here) -> str | None:
    """The trainer checkpoint an earlier attempt left, if it left one whole.

    Weights and optimizer states are whole in the checkpoints of `process` and `ddp` and go on over any number of ranks. ZeRO's are cut by rank.

    Raises:
        ConfigError: the checkpoint was cut for other ranks, or by another way of sharding.
    """
    from transformers.trainer_utils import get_last_checkpoint

    folder = here.workdir / "trainer"
    note = here.workdir / "launched.json"
    now = {"profile": here.profile, "ranks": here.world_size}
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if last is not None and note.is_file():
        then = json.loads(note.read_text(encoding="utf8"))
        whole = {"process", "ddp"}
        if then != now and not {then["profile"], now["profile"]} <= whole:
            old, new = (f"{one['ranks']} ranks under {one['profile']}" for one in (then, now))
            what = f"the trainer's checkpoint is cut for {old}; {new} cannot go on from it"
            fix = f"launch: profile {then['profile']} with {then['ranks']} ranks in all; or start the stage anew: --rebuild {here.stage}"
            raise ConfigError(what, last, fix)
    if last is None and here.main:
        note.write_text(json.dumps(now), encoding="utf8")
    return last
