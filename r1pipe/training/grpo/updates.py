"""The loss of one training step, pack by pack.

TRL makes one forward pass of a fixed number of rows a training step. Here a training step is a rank's share of a
minibatch, whose rows are dealt to packs; the gradients of all packs but the last are computed at once, the last one's
by the trainer.

Shapes: B sequences on this rank, P prompt tokens (padded left), C completion tokens (padded right), N packs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import DistributedType
from trl import GRPOTrainer

from r1pipe.training.grpo.completion_packs import loss_weights
from r1pipe.training.grpo.drift import Drift, drift_of, log_drifts, near
from r1pipe.training.grpo.log_probs import TokenLogProbs
from r1pipe.training.grpo.pack_budget import PackBudget
from r1pipe.training.grpo.ranks import gathered
from r1pipe.training.grpo.vllm_rollouts import Gap, correct_for_vllm, log_gaps

TRLLoss = Callable[[Any, dict[str, Any]], torch.Tensor]


class Updates:
    """Computes the loss of a training step.

    Args:
        trainer: TRL's trainer.
        budget: which rows share a pack; without a number of tokens, a step's rows are one pass as TRL has it.
        kl_clamp: GRPOParams.kl_clamp.

    Attributes:
        known: log-probs of the rows whose loss TRL computes right now; see `_knowing`.
    """

    def __init__(
        self,
        trainer: GRPOTrainer,
        *,
        budget: PackBudget,
        kl_clamp: float | None = None,
    ) -> None:
        self.trainer = trainer
        self.budget = budget
        self.kl_clamp = kl_clamp
        self.known: TokenLogProbs | None = None

    def loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        trl_loss: TRLLoss,
    ) -> torch.Tensor:
        """TRL's loss of the rows of one training step.

        Returns:
            The loss of the last pack for the trainer to differentiate, with the values of the others added for the
            log.
        """
        policy: Any = self.trainer.model
        if self.budget.tokens is None or not policy.training:
            loss, drift, gap = self._loss_of_rows(model, inputs, trl_loss)
            log_drifts(self.trainer, [drift])
            log_gaps(self.trainer, [gap])
            return loss

        # deal the rows to packs
        mask_BC = inputs["completion_mask"]
        packs = self.budget.packs(inputs["prompt_ids"], inputs["prompt_mask"], mask_BC)
        rows_N = [len(pack) for pack in packs]
        tokens_N = [int(count) for count in torch.stack([mask_BC[pack].sum() for pack in packs])]
        weights_N = loss_weights(self.trainer.loss_type, rows_N, tokens_N)

        # the losses of the packs that are differentiated here, and what the log has before them
        others = torch.zeros((), device=mask_BC.device)
        logged_before = {name: len(values) for name, values in self.trainer._metrics["train"].items()}
        aux_coef = self.trainer.router_aux_loss_coef
        entropy_coef = self.trainer.entropy_coef
        drifts = []
        gaps = []
        for n, (pack, weight) in enumerate(zip(packs, weights_N, strict=True)):
            # TRL adds two means over the pack to its loss. They shall weigh as the pack's rows and tokens do, whatever
            # the loss is normalised by, so the coefficients undo `weight`.
            self.trainer.router_aux_loss_coef = aux_coef * rows_N[n] / sum(rows_N) / (weight or 1.0)
            self.trainer.entropy_coef = entropy_coef * tokens_N[n] / max(1, sum(tokens_N)) / (weight or 1.0)

            rows = _rows_of(inputs, pack, mask_BC.device)
            last = n + 1 == len(packs)
            with nullcontext() if last else self._accumulating(model):
                loss, drift, gap = self._loss_of_rows(model, rows, trl_loss)
                loss = weight * loss
                if not last:
                    self._backward(loss)
                    others += loss.detach()
            drifts.append(drift)
            gaps.append(gap)
        self.trainer.router_aux_loss_coef = aux_coef
        self.trainer.entropy_coef = entropy_coef

        # TRL has logged once for each pack; the log shall have one number for the minibatch
        self._join_metrics(logged_before, torch.tensor(tokens_N, device=mask_BC.device))
        log_drifts(self.trainer, drifts)
        log_gaps(self.trainer, gaps)
        return loss + others

    def _loss_of_rows(
        self,
        model: Any,
        inputs: dict[str, Any],
        trl_loss: TRLLoss,
    ) -> tuple[torch.Tensor, Drift, Gap | None]:
        """TRL's loss of these rows.

        The pass that TRL's loss would make is made before it: what is logged of the log-probs, the clamp of the KL
        and vLLM's correction need them.

        Returns:
            The loss, how far the policy has moved, and how far vLLM's log-probs were from the trainer's where that was
            computed here.
        """
        trainer = self.trainer
        args: Any = trainer.args
        mask_BC = inputs["completion_mask"]
        log_probs = trainer._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], mask_BC], 1),
            mask_BC.shape[1],
            compute_entropy=True,
            compute_aux_loss=trainer.aux_loss_enabled,
        )
        known = TokenLogProbs(*log_probs)
        logps_BC = known.logps_BC.detach()
        drift = drift_of(logps_BC, inputs)
        if self.kl_clamp is not None and "ref_per_token_logps" in inputs:
            inputs = {
                **inputs,
                "ref_per_token_logps": near(logps_BC, inputs["ref_per_token_logps"], self.kl_clamp),
            }

        gap = None
        corrected = trainer.use_vllm and trainer.vllm_importance_sampling_correction
        if corrected and "importance_sampling_ratio" not in inputs:
            # where the rollout has no old log-probs, the update's own stand for them
            ratio, gap = correct_for_vllm(logps_BC, inputs["sampling_per_token_logps"], mask_BC, args)
            inputs = {**inputs, "importance_sampling_ratio": ratio}
        with self._knowing(known):
            return trl_loss(model, inputs), drift, gap

    @contextmanager
    def _knowing(self, log_probs: TokenLogProbs) -> Iterator[None]:
        """Within this, TRL's loss gets these log-probs, with their gradients, when it asks the trainer for them."""
        self.known = log_probs
        try:
            yield
        finally:
            self.known = None

    def _backward(self, loss: torch.Tensor) -> None:
        """As transformers' training step has it: DeepSpeed must not divide by the steps of an accumulation."""
        accelerator = self.trainer.accelerator
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            accelerator.backward(loss, scale_wrt_gas=False)
        else:
            accelerator.backward(loss)

    @contextmanager
    def _accumulating(self, model: Any) -> Iterator[None]:
        """Gradients stay on this rank, and DeepSpeed makes no step, as between the microbatches of an accumulation."""
        # no_sync keeps DDP from reducing gradients; DeepSpeed and the optimizer's wrapper look at sync_gradients
        accelerator = self.trainer.accelerator
        with accelerator.no_sync(model):
            synced = accelerator.sync_gradients
            accelerator.sync_gradients = False
            try:
                yield
            finally:
                accelerator.sync_gradients = synced

    def _join_metrics(self, logged_before: dict[str, int], tokens_N: torch.Tensor) -> None:
        """Make one number a minibatch of what TRL has logged for each pack.

        Means over a pack weigh as its tokens on all ranks do.

        Args:
            logged_before: how many numbers each metric had before the minibatch.
            tokens_N: counted tokens of each pack on this rank.
        """
        weights_N = gathered(tokens_N).view(-1, len(tokens_N)).sum(0).tolist()
        for name, values in self.trainer._metrics["train"].items():
            first = logged_before.get(name, 0)
            # a metric that was not logged once for each pack is not a pack's
            if len(values) - first == len(weights_N):
                values[first:] = [_joined(name, values[first:], weights_N)]


def _rows_of(
    inputs: dict[str, Any],
    rows: list[int],
    device: torch.device,
) -> dict[str, Any]:
    """These rows of a batch; scalars are of the whole batch."""
    row_N = torch.tensor(rows, device=device)
    return {
        key: value[row_N] if isinstance(value, torch.Tensor) and value.dim() else value
        for key, value in inputs.items()
    }


def _joined(
    name: str,
    values: list[float],
    weights: list[float],
) -> float:
    """A metric of several packs as one number: their least, greatest or weighted mean, by its name. NaN is left out."""
    # NaN is TRL's for a pack without a token of the kind that the metric is about
    numbers = [
        (value, weight) for value, weight in zip(values, weights, strict=True) if not math.isnan(value)
    ]
    if not numbers:
        return math.nan
    if name.endswith("_min"):
        return min(value for value, _ in numbers)
    if name.endswith("_max"):
        return max(value for value, _ in numbers)
    total = sum(value * weight for value, weight in numbers)
    return total / max(1, sum(weight for _, weight in numbers))
