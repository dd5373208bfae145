"""Log-probs on a CPU are those of TRL's fused head, and so are their gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.trainer.utils import add_fused_lm_head

from r1pipe.models import plain_head
from r1pipe.models.plain_head import add_plain_head, set_head

OUTPUTS = ("log_probs", "entropy", "is_top1")


def model() -> Any:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
    }
    return Qwen2ForCausalLM(Qwen2Config(**sizes)).double()


def batch() -> dict[str, torch.Tensor]:
    ids_BT = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    labels_BT = ids_BT.clone()
    labels_BT[:, :4], labels_BT[1, 7:] = -100, -100
    return {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": labels_BT}


def set_plain_head(net: Any, temperature: float, outputs: tuple[str, ...]) -> None:
    set_head(net, temperature=temperature, cast_lm_head_to_fp32=False, outputs=outputs, sharded=False)


def run(own: bool, temperature: float, inputs: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    net = model()
    add_fused_lm_head(net, temperature=temperature, outputs=OUTPUTS)
    if own:
        add_plain_head(net, temperature, OUTPUTS)
    out = net(**inputs, fused_lm_head=True)
    (
        (out.log_probs + out.entropy) * torch.arange(out.log_probs.numel()).view_as(out.log_probs)
    ).sum().backward()
    return out, torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shifted", [False, True])
def test_it_is_trl_s(temperature: float, shifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = batch()
    if shifted:
        inputs["shift_labels"] = torch.cat([inputs.pop("labels")[:, 1:], torch.full((3, 1), -100)], dim=1)
    wanted, direction = run(False, temperature, inputs)
    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", None)  # the other run does without it
    found, gradient = run(True, temperature, inputs)
    for name in (*OUTPUTS, "loss", "label_mask"):
        torch.testing.assert_close(
            getattr(found, name).float(), getattr(wanted, name).float(), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(gradient, direction, atol=1e-4, rtol=1e-4)  # TRL's are computed in float32


def test_a_later_head_counts() -> None:
    """A phase with another temperature puts a new one over the old one."""
    net = model()
    for temperature in (1.0, 0.7):
        set_plain_head(net, temperature, ("log_probs", "entropy"))
    torch.testing.assert_close(
        net(**batch(), fused_lm_head=True).log_probs.float(),
        run(False, 0.7, batch())[0].log_probs.float(),
        atol=1e-5,
        rtol=1e-5,
    )


def test_where_logits_are_too_many_and_where_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    set_plain_head(net, 1.0, ("log_probs",))
    assert net(**batch()).logits.shape == (3, 9, 50)
    assert net.generate(batch()["input_ids"], max_new_tokens=2, do_sample=False, pad_token_id=0).shape == (
        3,
        11,
    )
    monkeypatch.setattr(plain_head, "MOST_LOGITS", 10)
    monkeypatch.setattr("trl.trainer.utils._ChunkedLogProbFunction", None)
    with pytest.raises(AttributeError):  # TRL's head, which is not there now
        net(**batch(), fused_lm_head=True)


def test_nothing_is_computed_that_nobody_asked_for() -> None:
    net = model()
    set_plain_head(net, 1.0, ("log_probs",))
    out = net(**batch(), fused_lm_head=True)
    assert out.entropy is None
    assert out.is_top1 is None
