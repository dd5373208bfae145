"""Speed and MFU by arithmetic that can be done by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from r1pipe.training import telemetry
from r1pipe.training.telemetry import Meter, flops_per_token, peak_flops


def tiny(kind: str, **more: Any) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **{**sizes, "max_position_embeddings": 64, **more})
    )


def test_six_operations_a_parameter() -> None:
    tied = tiny("qwen2", tie_word_embeddings=True)
    assert flops_per_token(tied) == 6 * sum(p.numel() for p in tied.parameters())
    untied = tiny("qwen2", tie_word_embeddings=False)
    assert flops_per_token(untied) == 6 * (sum(p.numel() for p in untied.parameters()) - 64 * 32)


def test_frozen_weights_cost_four() -> None:
    model = tiny("qwen2", tie_word_embeddings=True).requires_grad_(False)
    assert flops_per_token(model) == 4 * sum(p.numel() for p in model.parameters())


def test_a_token_visits_some_experts() -> None:
    model = tiny(
        "qwen3_moe",
        num_experts=4,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        head_dim=8,
        tie_word_embeddings=True,
    )
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert experts > 0
    assert flops_per_token(model) == 6 * (sum(p.numel() for p in model.parameters()) - experts * 3 / 4)


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("Tesla K80", None),
    ],
)
def test_known_devices(name: str, tera: float | None) -> None:
    assert peak_flops(name) == (None if tera is None else tera * 1e12)


def test_rates_are_of_the_last_stretch_and_of_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 102.0, 103.0])
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: next(clock))
    meter = Meter(flops_per_token=6e9, devices=2, peak=1e12)
    meter.begin()
    assert meter.read(400)["tokens_per_second"] == 100  # 400 tokens, 2 s, 2 devices
    second = meter.read(440)
    assert second["tokens_per_second"] == 20
    assert second["mfu"] == pytest.approx(20 * 6e9 / 1e12)


def test_an_unknown_device_has_no_mfu() -> None:
    if torch.cuda.is_available():
        pytest.skip("this device may be known")
    assert set(Meter(6e9).read(1)) == {"tokens_per_second"}
