"""How far the policy has moved: from the reference (KL), and from the policy that drew.

TRL logs the mean KL alone, and from what enters its loss. A single token that has moved by 12 nats makes k3 e^12 there
and nothing visible in a mean of entropies, so the largest token is logged, too.

Shapes: B sequences of this rank or of a pack, C completion tokens (padded right).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from trl import GRPOTrainer

from r1pipe.training.grpo.ranks import gathered


class Drift(NamedTuple):
    """Of some rows of a minibatch; the fields are tensors without dimensions.

    Attributes:
        kl: the sum over the tokens that count of k3, the estimate of the KL to the reference (v2 eq. 2), in nats.
        tokens: how many these are.
        kl_max: k3 of the token where it is largest.
        log_ratio_max: the greatest distance, in nats, of a token's log-prob from the one it was drawn with.
    """

    kl: torch.Tensor
    tokens: torch.Tensor
    kl_max: torch.Tensor
    log_ratio_max: torch.Tensor


def drift_of(logps_BC: torch.Tensor, inputs: dict[str, Any]) -> Drift:
    """The drift of these rows.

    Args:
        logps_BC: the policy's, without gradient.
        inputs: TRL's batch. Without a reference, or where the rollout is one update, the numbers are 0.
    """
    counted_BC = inputs["completion_mask"].bool()
    tokens = counted_BC.sum().float()
    zero = torch.zeros((), device=logps_BC.device)
    kl = kl_max = log_ratio_max = zero
    if counted_BC.any() and "ref_per_token_logps" in inputs:
        log_ratio = (inputs["ref_per_token_logps"] - logps_BC)[counted_BC]
        k3 = log_ratio.exp() - log_ratio - 1
        kl = k3.sum()
        kl_max = k3.max()
    old_logps_BC = inputs.get("old_per_token_logps")
    if counted_BC.any() and old_logps_BC is not None:
        # NaN stands for log-probs that are not needed
        log_ratio_max = (logps_BC - old_logps_BC)[counted_BC].abs().nan_to_num(nan=0.0).max()
    return Drift(kl, tokens, kl_max, log_ratio_max)


def near(
    logps_BC: torch.Tensor,
    ref_logps_BC: torch.Tensor,
    limit: float,
) -> torch.Tensor:
    """The reference's log-probs, moved to within `limit` nats of the policy's.

    k3 then pulls a token back that is further away with the force that it has at the limit, and not with e to the
    power of the distance.
    """
    return logps_BC + (ref_logps_BC - logps_BC).clamp(-limit, limit)


def log_drifts(trainer: GRPOTrainer, drifts: Sequence[Drift]) -> None:
    """Log the drift of a training step: the KL before any clamp in the place of TRL's, and the largest tokens."""
    metrics = trainer._metrics["train" if trainer.model.training else "eval"]  # type: ignore[union-attr]
    all_ranks = gathered(torch.stack([torch.stack(drift) for drift in drifts]))
    kl, tokens, kl_max, log_ratio_max = all_ranks.unbind(1)
    if trainer.beta:
        metrics["kl"][-1] = (kl.sum() / tokens.sum().clamp(min=1)).item()
        metrics["kl_max"].append(kl_max.max().item())
    metrics["log_ratio_max"].append(log_ratio_max.max().item())
