"""Compiled layers are compiled before the first rollout, which would take several times as long as the others.

torch.compile works at a layer's first call, once for each way in which it is called: by the policy without gradients,
by the reference, and by the policy with gradients, forwards and backwards.

The compiler writes other code for many tokens than for few, so the pass is about as long as one of training.

Shapes: B sequences, P prompt tokens, C completion tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from r1pipe.training.grpo.completion_packs import pack_completions
from r1pipe.training.grpo.pack_budget import PackBudget
from r1pipe.training.grpo.rollout import OldLogProbs
from r1pipe.training.stopwatch import Stopwatch
from r1pipe.training.trial_pass import go_backwards, trial_passes

# Tokens of a pass, at most: from some 9,000 on the compiler writes nothing else for a layer 576 wide, sooner for wider.
MOST_TOKENS = 16384
# Tokens of a prompt.
PROMPT = 11


class CompilesFirst(TrainerCallback):
    """Makes each kind of pass once when training begins.

    Args:
        trainer: an R1GRPOTrainer whose layers are compiled at their first call.
        budget: how many tokens fit.
        stopwatch: counts the seconds as `compile`.
    """

    def __init__(self, trainer: Any, *, budget: PackBudget, stopwatch: Stopwatch) -> None:
        self.trainer = trainer
        self.budget = budget
        self.stopwatch = stopwatch

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        with self.stopwatch.part("compile"):
            make_each_pass(self.trainer, self.budget)


def make_each_pass(trainer: Any, budget: PackBudget) -> None:
    """Call the policy and the reference once in each way that training does; nothing of it is kept."""
    # Without what spreads it over ranks: its hooks would wait for a backward pass that no optimizer step follows.
    policy: Any = trainer.accelerator.unwrap_model(trainer.model)
    reference: Any = trainer.ref_model and trainer.accelerator.unwrap_model(trainer.ref_model)
    device = trainer.accelerator.device
    ids, mask, width = rows_like_a_minibatch(trainer, min(MOST_TOKENS, budget.at_most()))
    pack = pack_completions(ids.to(device), mask.to(device), width, shared=budget.shared)

    def log_probs(model: Any) -> torch.Tensor:
        with trainer.accelerator.autocast():
            out = model(**pack.inputs, fused_lm_head=True)
        return out.log_probs.float().sum()

    with trial_passes(policy, device):
        # `autograd.grad` cannot go through reentrant checkpoints.
        if not (trainer.args.gradient_checkpointing_kwargs or {}).get("use_reentrant"):
            go_backwards(policy, log_probs(policy))
        with torch.no_grad():
            if trainer._plan_old_log_probs() is OldLogProbs.RECOMPUTE:
                log_probs(policy)
            if reference is not None:
                log_probs(reference)


def rows_like_a_minibatch(trainer: Any, tokens: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Rows as many and as long as a rank's share of a minibatch is likely to have.

    Args:
        tokens: of all rows together, at most, as long as there are three rows of two completion tokens.

    Returns:
        Ids and mask, (B, P + C), prompts padded left and completions padded right; and C.
    """
    width = max(2, min(trainer.max_completion_length // 2, tokens // 3 - PROMPT))
    count = max(3, min(trainer.args.per_device_train_batch_size, tokens // (PROMPT + width)))
    ids = torch.ones(count, PROMPT + width, dtype=torch.long)
    mask = torch.ones_like(ids)
    # Two groups, one with a shorter prompt, and responses that differ in length.
    mask[count // 2 :, :2] = 0
    mask[::2, -1] = 0
    return ids, mask, width
