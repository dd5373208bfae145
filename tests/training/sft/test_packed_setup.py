"""What is decided before packed training: recomputing activations where they would not fit, compiling where it pays."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.here import Here
from r1pipe.models import packed_attention as varlen
from r1pipe.models.memory import StateShares, first_update_bytes, state_shares, training_need
from r1pipe.schema import Launch, SFTParams
from r1pipe.training.sft import packed_setup as packed
from r1pipe.training.sft.packed_setup import plan_packing

# Bytes of memory, as torch reports them.
H100 = 85.0e9
H200 = 150.1e9


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shape of Qwen2.5-1.5B, without weights."""
    from transformers import Qwen2Config

    folder = tmp_path_factory.mktemp("qwen")
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True}
    Qwen2Config(
        vocab_size=151936, hidden_size=1536, num_hidden_layers=28, intermediate_size=8960, **heads
    ).save_pretrained(folder)
    return folder


def plan(folder: Path, here: Here, lengths: list[int], **stated: Any) -> Any:
    params = SFTParams(**{"batch_size": 4, **stated})
    return plan_packing(folder, lengths, params, updates=2, here=here, seed=0)


@pytest.mark.parametrize(
    ("memory", "tokens", "stated", "checkpointing"),
    [
        (H100, 8192, {}, False),
        (H100, 32768, {}, True),
        (H200, 16384, {}, False),
        (H100, 8192, {"gradient_checkpointing": True}, True),
        (H100, 32768, {"gradient_checkpointing": "never"}, False),
        (None, 32768, {}, False),
    ],
)
def test_activations_are_recomputed_where_they_do_not_fit(
    memory: float | None,
    tokens: int,
    stated: dict[str, Any],
    checkpointing: bool,
    qwen: Path,
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed, "device_memory", lambda: memory)
    assert plan(qwen, here, [tokens] * 8, **stated).checkpointing is checkpointing


@pytest.mark.parametrize(
    ("memory", "capacity"), [(H100, 10240), (H200, 24576), (400e9, 32768), (None, 16384), (30e9, 16384)]
)
def test_a_pass_is_as_large_as_fits(
    memory: float | None, capacity: int, qwen: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "device_memory", lambda: memory)
    planned = plan(qwen, here, [1024] * 512, batch_size=256)
    assert planned.sampler.capacity == capacity
    assert planned.checkpointing is (memory == 30e9)


def test_states_are_sixteen_bytes_a_parameter_and_the_copies_two(qwen: Path) -> None:
    skeleton = packed.skeleton_of(qwen)
    size = sum(p.numel() for p in skeleton.parameters())
    assert size == pytest.approx(1.54e9, rel=0.01)
    assert training_need(skeleton, 1).states == 18 * size
    assert training_need(skeleton, 1, on=StateShares(0.25, 0.25, 0.25)).states == 16 * size / 4 + 2 * size
    assert training_need(skeleton, 1, trained=0.0).states == 6 * size
    assert training_need(skeleton, 1, trained=0.0, in_float32=0.0).states == 2 * size, (
        "an adapter's base lies in half precision only"
    )
    need = training_need(skeleton, 8192)
    assert need.checkpointed < need.activations / 10


def test_compiling_is_for_long_training(qwen: Path, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # it would be set
    monkeypatch.setattr(varlen, "gpu_capability", lambda: (9, 0))
    monkeypatch.setattr(packed, "device_memory", lambda: H100)
    monkeypatch.setattr(packed, "peak_flops", lambda: 989e12)
    assert not plan(qwen, here, [4096] * 8).compile
    assert plan(qwen, here, [4096] * 8, compile=True).compile
    # Much arithmetic; then little of it in many passes, each of which starts the kernels of 28 layers.
    for tokens, rows, updates in ((4096, 128, 8), (64, 2, 600)):
        params = SFTParams(batch_size=rows)
        long = plan_packing(qwen, [tokens] * 8, params, updates=updates, here=here, seed=0)
        assert long is not None and long.compile
        short = plan_packing(qwen, [tokens] * 8, params, updates=updates // 3, here=here, seed=0)
        assert short is not None and not short.compile
    here.profile = "zero3"
    with pytest.warns(UserWarning, match="compile is ignored"):
        assert not plan(qwen, here, [4096] * 8, compile=True).compile


@pytest.mark.parametrize(
    ("profile", "offload", "wanted"),
    [
        ("process", "none", StateShares()),
        ("ddp", "none", StateShares()),
        ("zero1", "none", StateShares(0.25, 1.0, 0.25)),
        ("zero2", "none", StateShares(0.25, 0.25, 0.25)),
        ("zero3", "none", StateShares(0.25, 0.25, 0.25)),
        ("fsdp2", "none", StateShares(0.25, 0.25, 0.25)),
        ("zero1", "optimizer", StateShares(0.0, 1.0, 0.0)),
        ("zero2", "optimizer", StateShares(0.0, 0.25, 0.0)),
        ("zero3", "all", StateShares(0.0, 0.25, 0.0)),
        ("fsdp2", "all", StateShares(0.0, 0.25, 0.0)),
    ],
)
def test_the_profile_spreads_the_states(profile: Any, offload: Any, wanted: StateShares, here: Here) -> None:
    """ZeRO-1 and -2 were planned as if each rank held everything."""
    from r1pipe.config.profiles import optimizer_on_cpu

    here.profile = profile
    here.world_size = 4
    here.optimizer_on_cpu = optimizer_on_cpu(Launch(profile=profile, offload=offload))
    assert state_shares(here) == wanted


def test_what_the_first_update_allocates() -> None:
    assert first_update_bytes(100, 100, StateShares()) == 1200, "gradients and two moments in float32"
    assert first_update_bytes(100, 0, StateShares()) == 400, "a run that goes on has its moments"
    assert first_update_bytes(100, 100, StateShares(0.25, 1.0, 0.25)) == 600
    assert first_update_bytes(100, 100, StateShares(0.0, 0.25, 0.0)) == 100


def test_a_pass_is_larger_where_the_states_are_spread(
    qwen: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 GB of float32 masters and moments on one GPU, 2.5 on each of eight."""
    monkeypatch.setattr(packed, "device_memory", lambda: H100)
    here.world_size = 8
    here.profile = "ddp"
    whole = plan(qwen, here, [1024] * 512, batch_size=256).sampler.capacity
    here.profile = "zero2"
    assert plan(qwen, here, [1024] * 512, batch_size=256).sampler.capacity > whole


@pytest.mark.parametrize(
    ("stated", "warning"),
    [
        ({"pack_tokens": 512}, "sft.pack_tokens is ignored"),
        ({"compile": True}, "sft.compile: true is ignored"),
    ],
)
def test_a_warning_says_what_is_ignored_where_rows_are_padded(
    stated: dict[str, Any], warning: str, qwen: Path, here: Here
) -> None:
    with pytest.warns(UserWarning, match=warning):
        assert plan(qwen, here, [64] * 8, packing=False, **stated) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan(qwen, here, [64] * 8, packing=False) is None


def test_a_gpu_before_ampere_gets_padded_rows(
    qwen: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T4 and V100: torch's kernel of variable length does not run there, and bf16 is emulated."""
    from r1pipe.training.arguments import common_arguments

    calls: list[dict[str, Any]] = []

    def is_bf16_supported(**arguments: Any) -> bool:
        calls.append(arguments)
        return arguments.get("including_emulation", True)

    monkeypatch.setattr(varlen, "gpu_capability", lambda: (7, 5))
    with pytest.warns(UserWarning, match=r"compute capability 8\.0"):
        assert plan(qwen, here, [64] * 8) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert common_arguments(SFTParams(), here, 0, 1)["bf16"] is False
    assert calls == [{"including_emulation": False}]


def test_the_plan_is_recorded(qwen: Path, here: Here) -> None:
    import json

    plan(qwen, here, [100, 200, 300, 400, 500, 600, 700, 800], pack_tokens=1200)
    record = json.loads(here.metrics_path.read_text())["packing"]
    assert record["largest_pass_tokens"] <= 1200
    assert record["passes"] >= 2
    assert record["estimated_gib"] > 24
