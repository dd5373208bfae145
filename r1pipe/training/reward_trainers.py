"""The trainers of the reward models: pairwise is TRL's, pointwise has one logit and binary cross-entropy.

They stand in a module of their own so that r1pipe/training/reward_model.py can be imported without transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import RewardTrainer

from r1pipe.training.resumable import ResumableTrainer


class PairwiseTrainer(ResumableTrainer, RewardTrainer):
    """TRL's RewardTrainer on top of ResumableTrainer."""


class PointwiseTrainer(ResumableTrainer):
    """transformers' Trainer with the loss of the labels `safe` (1) and `unsafe` (0).

    Shapes: B sequences.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # The loss is a mean over the microbatch, so the trainer must divide it by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        safe_B = inputs.pop("labels").float()
        outputs = model(**inputs)
        logits_B = outputs.logits.squeeze(-1).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_B, safe_B)
        return (loss, outputs) if return_outputs else loss
