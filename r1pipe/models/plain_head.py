"""Log-probs of the labelled tokens on a CPU, from logits that are held whole.

TRL's fused head never holds all logits, which a GPU needs at 152k words. On a CPU it scores every position, prompts and padding too, and makes the
logits a second time for the gradients: at the 2,000 words of the bases that ship that was 43 % of an update.

Shapes: B batch, T tokens less one, N tokens with a label, H hidden size, V words.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from r1pipe.models.linear_ce import linear_ce_obstacle

MOST_LOGITS = 2**27  # 512 MiB in float32, and some five times that at the peak of a pass; above, TRL's head


def set_head(
    model: PreTrainedModel, *, temperature: float, cast_lm_head_to_fp32: bool, outputs: tuple[str, ...], sharded: bool
) -> None:
    """TRL's fused head at this temperature, and on a CPU ours over it where this rank holds the whole weights.

    Args:
        outputs: of log_probs, entropy and is_top1.
        sharded: this rank holds only a part of the weights.
    """
    add_fused_lm_head(model, temperature=temperature, cast_lm_head_to_fp32=cast_lm_head_to_fp32, outputs=outputs)
    if not cast_lm_head_to_fp32 and not sharded:
        add_plain_head(model, temperature, outputs)


def add_plain_head(model: PreTrainedModel, temperature: float, outputs: tuple[str, ...]) -> None:
    """Let `model(..., fused_lm_head=True)` on a CPU return what TRL's head returns; nothing where the model does not allow it.

    Args:
        outputs: of log_probs, entropy and is_top1.
    """
    assert set(outputs) <= {"log_probs", "entropy", "is_top1"}, outputs
    if linear_ce_obstacle(model):
        return
    fused = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        shifted_BT, labels_BT = kwargs.get("shift_labels"), kwargs.get("labels")
        targets_BT = shifted_BT if shifted_BT is not None else labels_BT[:, 1:] if labels_BT is not None else None
        ours = (
            fused_lm_head and targets_BT is not None and targets_BT.device.type == "cpu"
        )  # under ZeRO, models move to the GPU after they were made
        if not ours or kwargs.get("output_router_logits") or kwargs.get("num_items_in_batch") is not None:
            return fused(*args, fused_lm_head=fused_lm_head, **kwargs)
        assert targets_BT is not None
        mask_BT = targets_BT != -100
        if int(mask_BT.sum()) * self.config.get_text_config().vocab_size > MOST_LOGITS:
            return fused(*args, fused_lm_head=True, **kwargs)
        inputs = {name: value for name, value in kwargs.items() if name not in ("labels", "shift_labels")} | {
            "use_cache": False
        }
        hidden_BTH = self.base_model(*args, **inputs).last_hidden_state
        hidden_NH = (hidden_BTH if shifted_BT is not None else hidden_BTH[:, :-1])[mask_BT]
        logits_NV = self.get_output_embeddings()(hidden_NH).float()
        every_NV = torch.log_softmax(logits_NV if temperature == 1 else logits_NV / temperature, -1)
        logps_N = every_NV.gather(-1, targets_BT[mask_BT][:, None]).squeeze(-1)
        zeros_BT = logps_N.new_zeros(mask_BT.shape)
        found = {"log_probs": zeros_BT.masked_scatter(mask_BT, logps_N)}
        if "entropy" in outputs:
            found["entropy"] = zeros_BT.masked_scatter(mask_BT, -(every_NV.exp() * every_NV).sum(-1))
        if "is_top1" in outputs:
            found["is_top1"] = torch.zeros_like(mask_BT).masked_scatter(
                mask_BT, every_NV.argmax(-1) == targets_BT[mask_BT]
            )
        return FusedCausalLMOutput(
            loss=-found["log_probs"].sum() / mask_BT.sum().clamp(min=1), label_mask=mask_BT, **found
        )

    model.forward = types.MethodType(forward, model)
