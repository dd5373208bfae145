"""Compiled layers are compiled before the first rollout, which would take several times as long as the others.

torch.compile works at a layer's first call, once for each way in which it is called: by the policy without gradients,
by the reference, and by the policy with gradients, forwards and backwards.

Shapes: B sequences, P prompt tokens, C completion tokens.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from transformers import TrainerCallback

from r1pipe.training.grpo.completion_packs import pack_completions
from r1pipe.training.grpo.rollout import OldLogProbs
from r1pipe.training.stopwatch import Stopwatch

# Prompt tokens and completion tokens of a group of two responses, and of a group of one.
PROMPTS = (11, 11, 6)
COMPLETIONS = (5, 9, 7)


class CompilesFirst(TrainerCallback):
    """Makes each kind of pass once, over a few short rows, when training begins.

    Args:
        trainer: an R1GRPOTrainer whose layers are compiled at their first call.
        shared: rows of a pack share a prompt that they have in common.
        stopwatch: counts the seconds as `compile`.
    """

    def __init__(self, trainer: Any, *, shared: bool, stopwatch: Stopwatch) -> None:
        self.trainer = trainer
        self.shared = shared
        self.stopwatch = stopwatch

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        with self.stopwatch.part("compile"):
            make_each_pass(self.trainer, shared=self.shared)


def make_each_pass(trainer: Any, *, shared: bool) -> None:
    """Call the policy and the reference once in each way that training does; nothing of it is kept.

    Args:
        shared: rows of a pack share a prompt that they have in common.
    """
    # Without what spreads it over ranks: its hooks would wait for a backward pass that no optimizer step follows.
    policy: Any = trainer.accelerator.unwrap_model(trainer.model)
    reference: Any = trainer.ref_model and trainer.accelerator.unwrap_model(trainer.ref_model)
    device = trainer.accelerator.device
    ids, mask = _short_rows(device)
    pack = pack_completions(ids, mask, max(COMPLETIONS), shared=shared)

    def log_probs(model: Any) -> torch.Tensor:
        with trainer.accelerator.autocast():
            out = model(**pack.inputs, fused_lm_head=True)
        return out.log_probs.float().sum()

    passes: list[tuple[Any, bool]] = [(policy, True)]
    if reference is not None:
        passes.append((reference, False))
    if trainer._plan_old_log_probs() is OldLogProbs.RECOMPUTE:
        passes.append((policy, False))

    # The mode is a part of what is compiled. Dropout must not shift the random numbers of training.
    was_training = policy.training
    policy.train()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for model, with_gradients in passes:
            with nullcontext() if with_gradients else torch.no_grad():
                total = log_probs(model)
            if with_gradients:
                # The first trained parameter is below all layers. Its gradient alone costs little memory, and unlike
                # `backward` this leaves nothing in the parameters and wakes no hook.
                first = next(parameter for parameter in policy.parameters() if parameter.requires_grad)
                torch.autograd.grad(total, first)
    policy.train(was_training)


def _short_rows(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (B, P + C): prompts padded left, completions padded right."""
    width = max(PROMPTS)
    ids = torch.ones(len(PROMPTS), width + max(COMPLETIONS), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        mask[row, width - prompt : width + completion] = 1
    return ids.to(device), mask.to(device)
