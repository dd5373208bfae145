"""The output layer and its cross-entropy as one function that never holds the logits of all tokens.

Why it exists: with a vocabulary of 152k words the logits would be the largest tensor of a training step by far. TRL's
fused head avoids them as well, but computes the projection a second time in the backward pass: four products of hidden
size x vocabulary for each token. Here logits are computed for CHUNK tokens at a time and turned into gradients at once,
in the forward pass: three products. It also scores only the tokens that carry loss, and reads its counters once an
update.

What it gives: it is one part of packed supervised fine-tuning, which was measured as a whole: a 1.5B model on an H100
trains 24,458 tokens/s before compilation and 40,663 after, where TRL packed with Liger's fused loss trains 22,121
(LOG.md, 2026-11-22, the table of SFT). On a CPU it is as fast as plain_head.py.

The kernels for a tile of logits are TRL's: Triton on a GPU, torch elsewhere.

Shapes: N tokens that carry loss, C tokens of a chunk, D width of the hidden states, V words of the vocabulary,
B sequences, T tokens of a sequence less one.
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

# Triton's launch syntax has no types.
trl_kernels: Any = chunked_logprob

# Tokens whose logits exist at the same time: at 151,936 words they take 1.2 GiB in bf16.
CHUNK = 4096


class LinearCrossEntropy(torch.autograd.Function):
    """The summed negative log-likelihood of targets_N under softmax(hidden_ND @ weight_VD.T).

    It also returns the sum of the entropies in nats, and the number of targets that are the most likely word. Only the
    first result has a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        targets_N: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        device = hidden_ND.device
        count = hidden_ND.shape[0]
        words = weight_VD.shape[0]

        half = hidden_ND.dtype
        if torch.is_autocast_enabled(device.type):
            half = torch.get_autocast_dtype(device.type)
        weight_half_VD = weight_VD.to(half)

        # The output layer's gradient is summed over chunks, and sums in bf16 would bias training. Each row of the
        # hidden states' gradient is written once, so it keeps their type.
        hidden_grad_ND = None
        weight_grad_VD = None
        if ctx.needs_input_grad[0]:
            hidden_grad_ND = torch.zeros_like(hidden_ND)
        if ctx.needs_input_grad[1]:
            weight_grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)

        # Results are float32, whatever the types of the inputs.
        nll = torch.zeros((), device=device)
        entropy = torch.zeros((), device=device)
        right = torch.zeros((), device=device)
        # One buffer for all chunks: their logits, then their gradients.
        buffer_CV = torch.empty(min(count, CHUNK), words, device=device, dtype=half)

        # Types are chosen here, and sums stay in float32.
        with torch.autocast(device.type, enabled=False):
            for start in range(0, count, CHUNK):
                hidden_CD = hidden_ND[start : start + CHUNK].to(half)
                targets_C = targets_N[start : start + CHUNK]
                logits_CV = buffer_CV[: len(targets_C)]
                torch.mm(hidden_CD, weight_half_VD.t(), out=logits_CV)

                log_z_C, target_C, entropy_C, right_C = _statistics(logits_CV, targets_C)
                nll = nll + (log_z_C - target_C).sum()
                entropy = entropy + entropy_C.sum()
                right = right + right_C.sum()

                # Nothing is trained: the loss is only measured.
                if hidden_grad_ND is None and weight_grad_VD is None:
                    continue
                _overwrite_with_gradients(logits_CV, targets_C, log_z_C)
                if hidden_grad_ND is not None:
                    hidden_grad_ND[start : start + CHUNK] = torch.mm(logits_CV, weight_half_VD)
                if weight_grad_VD is not None:
                    trl_kernels._addmm_fp32(weight_grad_VD, logits_CV.t(), hidden_CD)

        ctx.grads = (hidden_grad_ND, weight_grad_VD)
        ctx.weight_dtype = weight_VD.dtype
        ctx.mark_non_differentiable(entropy, right)
        # Without this, autograd would make a tensor of zeros for each result that has no gradient.
        ctx.set_materialize_grads(False)
        return nll, entropy, right

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any,
        *grads: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        assert ctx.grads is not None, "the gradients of this loss were already handed over"
        hidden_grad_ND, weight_grad_VD = ctx.grads
        # Nothing else refers to these tensors from here on, so they are scaled in place and then belong to the caller.
        ctx.grads = None

        nll_grad = grads[0]
        if nll_grad is None:
            return None, None, None
        if hidden_grad_ND is not None:
            hidden_grad_ND.mul_(nll_grad)
        if weight_grad_VD is not None:
            weight_grad_VD = weight_grad_VD.mul_(nll_grad).to(ctx.weight_dtype)
        return hidden_grad_ND, weight_grad_VD, None


def _plain_logits() -> dict[str, Any]:
    """The arguments of TRL's kernels that say: no scale, no cap, temperature 1."""
    return {
        "logit_scale": 1.0,
        "softcap": 1.0,
        "inv_t": 1.0,
        "HAS_SOFTCAP": False,
        "BLOCK_SIZE": trl_kernels._BLOCK_SIZE,
    }


def _statistics(logits_CV: torch.Tensor, targets_C: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the loss needs of a chunk of logits.

    Returns:
        the log-normaliser, the target's logit, the entropy, and whether the target is the most likely word;
        each of shape (C,), the first three in float32.
    """
    count, words = logits_CV.shape
    # The running values of TRL's kernel, in the order of its parameters.
    names = ("highest", "total", "x_total", "sq_total", "z_total", "before", "target")
    running = {name: torch.zeros(count, device=logits_CV.device) for name in names}
    running["highest"].fill_(float("-inf"))
    running["before"].fill_(float("-inf"))

    # One program a token on a GPU; elsewhere the whole chunk in one call.
    if trl_kernels._use_triton(logits_CV.device):
        fold = trl_kernels._forward_kernel[(count,)]
    else:
        fold = trl_kernels._forward_tile
    fold(
        logits_CV,
        logits_CV.stride(0),
        targets_C,
        *(running[name] for name in names),
        0,
        words,
        HAS_ENTROPY=True,
        HAS_LOG_SUM_SQ_PROBS=False,
        HAS_MEAN_LOGITS=False,
        HAS_IS_TOP1=True,
        **_plain_logits(),
    )

    log_z_C = running["highest"] + running["total"].log()
    entropy_C = log_z_C - running["x_total"] / running["total"]
    # `before` is the highest logit at a smaller index: of equal logits, argmax names the first.
    right_C = (running["target"] >= running["highest"]) & (running["target"] > running["before"])
    return log_z_C, running["target"], entropy_C, right_C


def _overwrite_with_gradients(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, log_z_C: torch.Tensor
) -> None:
    """Overwrite the logits with the gradients of the summed negative log-likelihood."""
    count, words = logits_CV.shape
    blocks = -(-words // trl_kernels._BLOCK_SIZE)
    if trl_kernels._use_triton(logits_CV.device):
        fold = trl_kernels._backward_kernel[(count, blocks)]
    else:
        fold = trl_kernels._backward_tile
    # The kernel computes the gradient of log-probs; the negative log-likelihood has the opposite sign.
    minus_one_C = torch.full_like(log_z_C, -1.0)
    # Where a value of another gradient is expected, which HAS_... switches off, any tensor of the same shape will do.
    fold(
        logits_CV,
        logits_CV.stride(0),
        targets_C,
        log_z_C,
        log_z_C,
        minus_one_C,
        minus_one_C,
        0,
        words,
        HAS_LOGPROB_GRAD=True,
        HAS_ENTROPY_GRAD=False,
        **_plain_logits(),
    )


# --- the model's forward ----------------------------------------------------------------------------------------------


@dataclass
class LossOutput(ModelOutput):
    """Sums over the tokens that carry loss, and how many they are.

    Attributes:
        nll: negative log-likelihood, with a gradient.
        entropy: in nats.
        right: how often the target is the most likely word.
        tokens: the number of tokens that carry loss.
    """

    nll: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    right: torch.Tensor | None = None
    tokens: torch.Tensor | None = None


def linear_ce_obstacle(model: PreTrainedModel) -> str:
    """Why this model cannot have the loss of this module, so that TRL's fused head computes it; empty where it can."""
    from torch.distributed.tensor import DTensor

    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    scales = (
        "final_logit_softcapping",
        "logit_scale",
        "output_multiplier",
        "lm_head_multiplier",
        "logits_scaling",
    )

    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        return "it has no plain output layer"
    if any(getattr(config, name, None) is not None for name in scales):
        return "its logits are scaled or capped"
    if getattr(config, "output_router_logits", False):
        return "its router has a loss of its own"
    if isinstance(head.weight, DTensor):
        return "its weights are sharded by FSDP"
    return ""


def add_linear_ce(model: PreTrainedModel) -> None:
    """Let `model(..., labels=labels, linear_ce=True)` return a LossOutput; without `linear_ce`, nothing changes."""
    unchanged_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, linear_ce: bool = False, **kwargs: Any) -> Any:
        if not linear_ce:
            return unchanged_forward(*args, **kwargs)

        # The hidden state of a token predicts the next one, so labels are shifted by one.
        labels_BT = kwargs.pop("labels")[:, 1:]
        kwargs["use_cache"] = False
        hidden_BTD = self.base_model(*args, **kwargs).last_hidden_state[:, :-1]
        has_loss_BT = labels_BT != -100

        weight_VD = self.get_output_embeddings().weight
        # ZeRO-3 gathers the weights that a module's own forward pass reads, and here the output layer's is not called.
        with maybe_gather_lm_head_ctx(weight_VD):
            nll, entropy, right = LinearCrossEntropy.apply(
                hidden_BTD[has_loss_BT], weight_VD, labels_BT[has_loss_BT]
            )
        return LossOutput(nll=nll, entropy=entropy, right=right, tokens=has_loss_BT.sum())

    model.forward = types.MethodType(forward, model)
