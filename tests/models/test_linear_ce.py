"""The fused output layer and loss equal the plain ones, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from r1pipe.models import linear_ce
from r1pipe.models.linear_ce import LinearCrossEntropy, add_linear_ce, linear_ce_obstacle


def tensors(n: int = 37, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(n, 16, generator=draw), torch.randn(53, 16, generator=draw)
    return (
        hidden.to(device).requires_grad_(),
        weight.to(device).requires_grad_(),
        torch.randint(53, (n,), generator=draw).to(device),
    )


@pytest.mark.parametrize("chunk", [8, 37, 4096])
def test_equals_cross_entropy_in_any_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_ce, "CHUNK", chunk)
    hidden, weight, targets = tensors()
    logits = hidden @ weight.t()
    wanted = cross_entropy(logits, targets, reduction="sum") * 0.25
    nll, entropy, right = LinearCrossEntropy.apply(hidden, weight, targets)
    torch.testing.assert_close(nll * 0.25, wanted)
    p = logits.softmax(-1)
    torch.testing.assert_close(entropy, -(p * p.log()).sum())
    assert right == (logits.argmax(-1) == targets).sum()
    for found, plain in zip(
        torch.autograd.grad(nll * 0.25, (hidden, weight)),
        torch.autograd.grad(wanted, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    hidden, weight, targets = tensors()
    nll, _, _ = LinearCrossEntropy.apply(hidden, weight.detach(), targets)
    nll.backward()
    assert hidden.grad is not None and weight.grad is None


def test_no_loss_carrying_token_is_zero_with_a_gradient_of_zero() -> None:
    hidden, weight, targets = tensors()
    nll, _, _ = LinearCrossEntropy.apply(hidden[:0], weight, targets[:0])
    nll.backward()
    assert nll == 0 and weight.grad.abs().sum() == 0


def test_a_models_loss_and_tied_gradients(tiny_checkpoint: Any) -> None:
    from r1pipe.models.loading import load_model

    model = load_model(tiny_checkpoint, training=True)
    assert model.config.tie_word_embeddings and linear_ce_obstacle(model) == ""
    ids = torch.randint(4, 200, (2, 11), generator=torch.Generator().manual_seed(1))
    labels = ids.masked_fill(torch.arange(11) < 4, -100)
    model(input_ids=ids, labels=labels).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    add_linear_ce(model)
    out = model(input_ids=ids, labels=labels, linear_ce=True)
    (out.nll / out.tokens).backward()
    assert out.tokens == 14
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], atol=1e-6, rtol=1e-4)
    assert model(input_ids=ids).logits.shape == (2, 11, model.config.vocab_size)


def test_scaled_logits_are_left_to_trl() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", head_dim=16, **sizes))
    assert "capped" in linear_ce_obstacle(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_tiles_equal_torch() -> None:
    hidden, weight, targets = tensors(500, "cuda")
    wanted = cross_entropy(hidden @ weight.t(), targets, reduction="sum")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        nll, _, _ = LinearCrossEntropy.apply(hidden, weight, targets)
    assert abs(nll / wanted - 1) < 1e-3
    for found, plain in zip(
        torch.autograd.grad(nll, (hidden, weight)), torch.autograd.grad(wanted, (hidden, weight)), strict=True
    ):
        assert torch.nn.functional.cosine_similarity(found.flatten(), plain.flatten(), dim=0) > 0.9999
