"""The reference model in a checkpoint, once it is no longer the stage's input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from trl import GRPOTrainer

from r1pipe.models.sharding import copy_whole_parameters, whole_parameters
from r1pipe.training.checkpoints import link_or_copy


def replaced_at(trainer: GRPOTrainer) -> int:
    """The update after which the reference became the policy; 0 = it is the stage's input."""
    args: Any = trainer.args
    if trainer.ref_model is None or not args.sync_ref_model:
        return 0
    return trainer.state.global_step // args.ref_model_sync_steps * args.ref_model_sync_steps


def save(
    trainer: GRPOTrainer,
    checkpoint: Path,
    previous: Path | None,
) -> None:
    """Write the reference into a checkpoint; every rank calls it.

    Args:
        previous: a whole checkpoint. Where it has the same reference, that file gets a second name.
    """
    step = replaced_at(trainer)
    if not step:
        return
    path = _file(checkpoint, step)
    same = _file(previous, step) if previous is not None else path
    if same.is_file():
        if trainer.accelerator.is_main_process:
            link_or_copy(same, path)
        return
    weights = {}
    for name, weight in whole_parameters(trainer.accelerator.unwrap_model(trainer.ref_model)):
        if trainer.accelerator.is_main_process:
            weights[name] = weight
    if trainer.accelerator.is_main_process:
        save_file(weights, path)


def load(trainer: GRPOTrainer, checkpoint: Path) -> None:
    """Give the reference the weights that `save` has written; every rank calls it."""
    step = replaced_at(trainer)
    if not step:
        return
    weights = load_file(_file(checkpoint, step))
    copy_whole_parameters(trainer.accelerator.unwrap_model(trainer.ref_model), weights)


def _file(checkpoint: Path, step: int) -> Path:
    return checkpoint / f"reference-{step}.safetensors"
