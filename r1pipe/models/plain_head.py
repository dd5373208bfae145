"""Log-probs of the labelled tokens on a CPU, from logits that are all held at once.

Why it exists: TRL's fused head never holds all logits, which a GPU needs at 152k words. On a CPU that costs more than
it gives: the head scores every position, prompts and padding included, and computes the logits a second time for the
gradients. At the 2,000 words of the bases that ship, this was 43 % of an update of r1-zero.

What it gives: three updates of r1-zero took 1.28 s instead of 3.42 s (LOG.md, 2026-11-22).

Shapes: B sequences, T tokens of a sequence less one, N tokens with a label, D width of the hidden states, V words.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from r1pipe.models.linear_ce import linear_ce_obstacle

# The most logits that are held at once; above, TRL's head computes them. In float32 they take 512 MiB, and a pass needs
# about five times that at its peak.
MOST_LOGITS = 2**27


def set_head(
    model: PreTrainedModel,
    *,
    temperature: float,
    cast_lm_head_to_fp32: bool,
    outputs: tuple[str, ...],
    sharded: bool,
) -> None:
    """Give the model TRL's fused head at this temperature, and on a CPU the plain head over it where it applies.

    Args:
        cast_lm_head_to_fp32: TRL's option; the plain head would hide it, so it is left out then.
        outputs: of log_probs, entropy and is_top1.
        sharded: this rank holds only a part of the weights, so the plain head is left out.
    """
    add_fused_lm_head(
        model, temperature=temperature, cast_lm_head_to_fp32=cast_lm_head_to_fp32, outputs=outputs
    )
    if not cast_lm_head_to_fp32 and not sharded:
        add_plain_head(model, temperature, outputs)


def add_plain_head(model: PreTrainedModel, temperature: float, outputs: tuple[str, ...]) -> None:
    """Let `model(..., fused_lm_head=True)` return on a CPU what TRL's head returns.

    Where the model does not allow it, nothing changes. The weights must be whole on this rank.

    Args:
        outputs: of log_probs, entropy and is_top1.
    """
    assert set(outputs) <= {"log_probs", "entropy", "is_top1"}, outputs
    if linear_ce_obstacle(model):
        return
    trl_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        shifted_BT = kwargs.get("shift_labels")
        targets_BT = shifted_BT
        if shifted_BT is None and kwargs.get("labels") is not None:
            targets_BT = kwargs["labels"][:, 1:]

        # The device is looked at in each call: under ZeRO, a model moves to the GPU after it was made.
        on_cpu = targets_BT is not None and targets_BT.device.type == "cpu"
        more_losses = kwargs.get("output_router_logits") or kwargs.get("num_items_in_batch") is not None
        if not fused_lm_head or not on_cpu or more_losses:
            return trl_forward(*args, fused_lm_head=fused_lm_head, **kwargs)

        assert targets_BT is not None
        mask_BT = targets_BT != -100
        # On a CPU, reading the number of labels waits for nothing.
        if int(mask_BT.sum()) * self.config.get_text_config().vocab_size > MOST_LOGITS:
            return trl_forward(*args, fused_lm_head=True, **kwargs)

        # The base model computes no loss, so labels are not for it.
        inputs = {name: value for name, value in kwargs.items() if name not in ("labels", "shift_labels")}
        inputs["use_cache"] = False
        hidden_BTD = self.base_model(*args, **inputs).last_hidden_state
        if shifted_BT is None:
            hidden_BTD = hidden_BTD[:, :-1]
        logits_NV = self.get_output_embeddings()(hidden_BTD[mask_BT]).float()
        return _fused_output(logits_NV, targets_BT, mask_BT, temperature, outputs)

    model.forward = types.MethodType(forward, model)


def _fused_output(
    logits_NV: torch.Tensor,
    targets_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    temperature: float,
    outputs: tuple[str, ...],
) -> FusedCausalLMOutput:
    """What TRL's head returns, from the logits of the labelled tokens; zero where there is no label."""
    targets_N = targets_BT[mask_BT]
    # At temperature 1 the division is left out, which saves a copy of all logits.
    scaled_NV = logits_NV if temperature == 1 else logits_NV / temperature
    logps_NV = torch.log_softmax(scaled_NV, -1)
    target_logps_N = logps_NV.gather(-1, targets_N[:, None]).squeeze(-1)

    zeros_BT = target_logps_N.new_zeros(mask_BT.shape)
    results = {"log_probs": zeros_BT.masked_scatter(mask_BT, target_logps_N)}
    if "entropy" in outputs:
        entropies_N = -(logps_NV.exp() * logps_NV).sum(-1)
        results["entropy"] = zeros_BT.masked_scatter(mask_BT, entropies_N)
    if "is_top1" in outputs:
        is_top1_N = logps_NV.argmax(-1) == targets_N
        results["is_top1"] = torch.zeros_like(mask_BT).masked_scatter(mask_BT, is_top1_N)

    loss = -results["log_probs"].sum() / mask_BT.sum().clamp(min=1)
    return FusedCausalLMOutput(loss=loss, label_mask=mask_BT, **results)
