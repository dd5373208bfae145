"""The output layer and its cross-entropy in one, without the logits of all tokens: at 152k words they would be the largest tensor by far.

Logits are made for CHUNK tokens at a time, and their gradients at once in the same forward pass, so the projection is not
computed a second time in the backward pass (TRL's fused head does that: four products of hidden size x vocabulary a token instead of three).
The tile kernels are TRL's: Triton on a GPU, torch elsewhere.

Shapes: N tokens that carry loss, H hidden size, V words.
"""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput
from trl.kernels import chunked_logprob
from trl.trainer.utils import maybe_gather_lm_head_ctx

trl_kernels: Any = chunked_logprob  # Triton's launch syntax has no types
CHUNK = 4096  # tokens; at 151,936 words 1.2 GiB of logits in bf16


class LinearCrossEntropy(torch.autograd.Function):
    """Sum of the negative log-likelihoods of targets_N under softmax(hidden_NH @ weight_VH.T), with entropy and accuracy beside it."""

    @staticmethod
    def forward(
        ctx: Any, hidden_NH: torch.Tensor, weight_VH: torch.Tensor, targets_N: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device, n_all, words = hidden_NH.device, hidden_NH.shape[0], weight_VH.shape[0]
        half = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else hidden_NH.dtype
        weight_half_VH = weight_VH.to(half)
        hidden_grad_NH = torch.zeros_like(hidden_NH) if ctx.needs_input_grad[0] else None
        weight_grad_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        nll, entropy, right = (torch.zeros((), device=device) for _ in range(3))
        tile_CV = torch.empty(min(n_all, CHUNK), words, device=device, dtype=half)
        with torch.autocast(device.type, enabled=False):  # types are chosen here, and sums stay float32
            for start in range(0, n_all, CHUNK):
                hidden_CH, targets_C = hidden_NH[start : start + CHUNK].to(half), targets_N[start : start + CHUNK]
                logits_CV = tile_CV[: len(targets_C)]
                torch.mm(hidden_CH, weight_half_VH.t(), out=logits_CV)
                log_z_C, target_C, entropy_C, right_C = _statistics(logits_CV, targets_C)
                nll, entropy, right = nll + (log_z_C - target_C).sum(), entropy + entropy_C.sum(), right + right_C.sum()
                if hidden_grad_NH is None and weight_grad_VH is None:
                    continue
                _to_gradients(logits_CV, targets_C, log_z_C)
                if hidden_grad_NH is not None:
                    hidden_grad_NH[start : start + CHUNK] = torch.mm(logits_CV, weight_half_VH)
                if weight_grad_VH is not None:
                    trl_kernels._addmm_fp32(weight_grad_VH, logits_CV.t(), hidden_CH)
        ctx.grads, ctx.weight_dtype = (hidden_grad_NH, weight_grad_VH), weight_VH.dtype
        ctx.mark_non_differentiable(entropy, right)
        ctx.set_materialize_grads(False)
        return nll, entropy, right

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:  # type: ignore[override]
        assert ctx.grads is not None, "the gradients of this loss were already handed over"
        (hidden_grad_NH, weight_grad_VH), ctx.grads = ctx.grads, None
        grad = grads[0]
        if grad is None:
            return None, None, None
        if hidden_grad_NH is not None:
            hidden_grad_NH.mul_(grad)
        if weight_grad_VH is not None:
            weight_grad_VH = weight_grad_VH.mul_(grad).to(ctx.weight_dtype)
        return hidden_grad_NH, weight_grad_VH, None


def _plain() -> dict[str, Any]:
    return {
        "logit_scale": 1.0,
        "softcap": 1.0,
        "inv_t": 1.0,
        "HAS_SOFTCAP": False,
        "BLOCK_SIZE": trl_kernels._BLOCK_SIZE,
    }


def _statistics(logits_CV: torch.Tensor, targets_C: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Log-normaliser, the target's logit, entropy, and whether the target is the most likely word; each float32 of shape (C,)."""
    count, words = logits_CV.shape
    named = ("highest", "total", "x_total", "sq_total", "z_total", "before", "target")
    s = {name: torch.zeros(count, device=logits_CV.device) for name in named}
    s["highest"].fill_(float("-inf"))
    s["before"].fill_(float("-inf"))
    flags = {"HAS_ENTROPY": True, "HAS_LOG_SUM_SQ_PROBS": False, "HAS_MEAN_LOGITS": False, "HAS_IS_TOP1": True}
    fold = (
        trl_kernels._forward_kernel[(count,)]
        if trl_kernels._use_triton(logits_CV.device)
        else trl_kernels._forward_tile
    )
    fold(logits_CV, logits_CV.stride(0), targets_C, *(s[name] for name in named), 0, words, **flags, **_plain())
    log_z_C = s["highest"] + s["total"].log()
    right_C = (s["target"] >= s["highest"]) & (s["target"] > s["before"])
    return log_z_C, s["target"], log_z_C - s["x_total"] / s["total"], right_C


def _to_gradients(logits_CV: torch.Tensor, targets_C: torch.Tensor, log_z_C: torch.Tensor) -> None:
    """Overwrite logits with the gradients of the summed negative log-likelihood."""
    count, words = logits_CV.shape
    blocks = -(-words // trl_kernels._BLOCK_SIZE)
    fold = (
        trl_kernels._backward_kernel[(count, blocks)]
        if trl_kernels._use_triton(logits_CV.device)
        else trl_kernels._backward_tile
    )
    minus_C = torch.full_like(log_z_C, -1.0)
    flags = {"HAS_LOGPROB_GRAD": True, "HAS_ENTROPY_GRAD": False}
    fold(logits_CV, logits_CV.stride(0), targets_C, log_z_C, log_z_C, minus_C, minus_C, 0, words, **flags, **_plain())


# --- the model's forward ----------------------------------------------------------------------------------------------


@dataclass
class LossOutput(ModelOutput):
    """Sums over the tokens that carry loss: nll (with gradient), entropy in nats, right = how often the target is the likeliest word; and their number."""

    nll: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    right: torch.Tensor | None = None
    tokens: torch.Tensor | None = None


def linear_ce_obstacle(model: PreTrainedModel) -> str:
    """Why this model's loss is TRL's fused head instead; empty where it is ours."""
    from torch.distributed.tensor import DTensor

    text = model.config.get_text_config()
    head = model.get_output_embeddings()
    scales = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    reasons = {
        "it has no plain output layer": not isinstance(head, torch.nn.Linear) or head.bias is not None,
        "its logits are scaled or capped": any(getattr(text, name, None) is not None for name in scales),
        "its router has a loss of its own": getattr(text, "output_router_logits", False),
        "its weights are sharded by FSDP": isinstance(getattr(head, "weight", None), DTensor),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def add_linear_ce(model: PreTrainedModel) -> None:
    """Let `model(..., labels=labels_BT, linear_ce=True)` return a LossOutput; without it the forward is the one it was."""
    plain = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, linear_ce: bool = False, **kwargs: Any) -> Any:
        if not linear_ce:
            return plain(*args, **kwargs)
        labels_BT = kwargs.pop("labels")[:, 1:]
        kwargs["use_cache"] = False
        hidden_BTH = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        counts_BT = labels_BT != -100
        weight_VH = self.get_output_embeddings().weight
        with maybe_gather_lm_head_ctx(
            weight_VH
        ):  # ZeRO-3 gathers what a module's own forward reads, and this is not the output layer's
            nll, entropy, right = LinearCrossEntropy.apply(hidden_BTH[counts_BT], weight_VH, labels_BT[counts_BT])
        return LossOutput(nll=nll, entropy=entropy, right=right, tokens=counts_BT.sum())

    model.forward = types.MethodType(forward, model)
