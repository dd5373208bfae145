"""The change from one phase of RL to the next, while optimizer, scheduler, reference and step count go on."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer

from r1pipe.models.loading import without_adapter
from r1pipe.models.plain_head import set_head
from r1pipe.schema import Phase


def enter_phase(
    trainer: GRPOTrainer,
    phase: Phase,
    *,
    sharded: bool,
) -> None:
    """Make the trainer, its models and what draws use the phase's temperature and length.

    Args:
        sharded: this rank holds only a part of the weights.
    """
    if phase.temperature != trainer.temperature:
        trainer.temperature = phase.temperature
        _set_heads(trainer, phase.temperature, sharded)

    # TRL has copied both numbers into whatever draws
    trainer.max_completion_length = phase.max_tokens
    if trainer.use_vllm:
        trainer.vllm_generation.temperature = phase.temperature
        trainer.vllm_generation.max_completion_length = phase.max_tokens
    else:
        trainer.generation_config.temperature = phase.temperature
        trainer.generation_config.max_new_tokens = phase.max_tokens


def _set_heads(
    trainer: GRPOTrainer,
    temperature: float,
    sharded: bool,
) -> None:
    """Log-probs are those of the temperature that draws: the models' heads divide by it."""
    # TRL sets the heads once, when the trainer is made
    args: Any = trainer.args
    head: dict[str, Any] = {
        "temperature": temperature,
        "cast_lm_head_to_fp32": args.cast_lm_head_to_fp32,
        "sharded": sharded,
    }
    policy = without_adapter(trainer.accelerator.unwrap_model(trainer.model))
    set_head(
        policy,
        outputs=("log_probs", "entropy"),
        **head,
    )
    if trainer.ref_model is not None:
        reference: Any = trainer.accelerator.unwrap_model(trainer.ref_model)
        set_head(
            reference,
            outputs=("log_probs",),
            **head,
        )
