"""Memory by term: what grows with what, and where it must not grow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from r1pipe.run.planning.activations import Adapter, Rollout, Training, kept_per_token
from r1pipe.run.planning.cards import CARDS
from r1pipe.run.planning.footprint import footprint
from r1pipe.run.planning.known_models import named_shape
from r1pipe.run.planning.reach import reach

SHAPE = named_shape("Qwen2.5-1.5B")
SFT = Training(shape=SHAPE, tokens=8192)


def test_one_gpu_holds_sixteen_bytes_a_parameter_and_the_copies():
    terms = footprint(SFT).terms
    size = SHAPE.parameters
    assert terms["weights"] + terms["moments"] + terms["gradients"] == pytest.approx(16 * size)
    assert terms["half copies"] == 2 * SHAPE.matrices


@pytest.mark.parametrize(("stage", "whole"), [("zero1", 2), ("zero2", 2), ("zero3", 0)])
def test_zero_shards_what_its_stage_says(stage: str, whole: int):
    """With a thousand ranks what is left of the states is what a stage keeps whole."""
    many = footprint(replace(SFT, profile=stage, ranks=1000)).terms
    states = sum(many.get(name, 0.0) for name in ("weights", "master weights", "moments"))
    gathered = 2 * (SHAPE.layer_matrices + 1e8) if stage == "zero3" else 0
    shards = 14 * SHAPE.parameters / 1000
    assert states == pytest.approx(whole * SHAPE.parameters + gathered + shards, rel=0.01)


def test_offloading_takes_masters_and_moments_off_the_gpu():
    here = footprint(replace(SFT, profile="zero2")).terms
    away = footprint(replace(SFT, profile="zero2", offload="optimizer")).terms
    assert {"master weights", "moments"} <= here.keys()
    assert not {"master weights", "moments"} & away.keys()


def test_logits_do_not_grow_with_the_pass():
    """Of a pass of 65,536 tokens they would be 20 GB in bf16 alone."""
    short = replace(SFT, checkpointing=True, tokens=8192)
    longer = replace(short, tokens=65_536)
    grown = footprint(longer).moments["loss"] - footprint(short).moments["loss"]
    per_token = 4 * SHAPE.hidden * SHAPE.layers + (4 + 2 * 4 + 2 * 4) * SHAPE.hidden
    assert grown == pytest.approx(per_token * (65_536 - 8192))


def test_checkpointing_keeps_a_layers_input():
    plain = footprint(SFT)
    lighter = footprint(replace(SFT, checkpointing=True))
    assert lighter.terms["activations"] == 4 * SHAPE.hidden * SHAPE.layers * 8192
    assert lighter.peak < 0.6 * plain.peak


def test_an_adapter_has_hardly_any_states():
    adapted = footprint(replace(SFT, adapter=Adapter(16, 3, 1, 2, 1), frozen_half=True)).terms
    assert adapted["weights"] == pytest.approx(2 * SHAPE.parameters, rel=0.05)
    assert adapted["moments"] < 0.02 * footprint(SFT).terms["moments"]


def test_a_layer_is_counted_tensor_by_tensor():
    width, inner = SHAPE.hidden, SHAPE.inner
    heads = SHAPE.heads + SHAPE.key_heads
    attention = 2 * 2 * heads * SHAPE.key_width + 4 * SHAPE.heads
    assert kept_per_token(SFT) == 26 * width + 8 * inner + attention
    assert kept_per_token(replace(SFT, profile="zero2")) == 16 * width + 8 * inner + attention
    assert kept_per_token(replace(SFT, compiled=True)) == 10 * width + 6 * inner + attention


def test_rl_adds_reference_twin_and_cache():
    rollout = Rollout(rows=64, columns=1024, twin=True, reference=True)
    terms = footprint(replace(SFT, head="fused", rollout=rollout)).terms
    assert terms["reference"] == 4 * SHAPE.parameters
    assert terms["twin"] == 2 * SHAPE.parameters
    # Keys and values of two heads of 128 in bf16, and 12 bytes for a token's id and log-prob.
    assert terms["cache"] == 65 * 1024 * (2 * 28 * 2 * 2 * 128 + 12)


def test_cards_are_known_by_name():
    assert CARDS["h100"].memory < CARDS["h200"].memory


def test_what_a_24_gb_card_reaches():
    """16 bytes a parameter: 0.5B in full; 1.5B with its optimizer elsewhere or an adapter."""
    reached = reach(23.5 * 2**30)
    assert reached["SFT of all weights"] == "Qwen2.5-0.5B"
    assert reached["RL of all weights"] == "Qwen2.5-0.5B"
    sizes = {what: named_shape(model).parameters for what, model in reached.items()}
    assert sizes["the same with offload: optimizer"] >= named_shape("Qwen2.5-1.5B").parameters
    assert sizes["SFT with LoRA"] >= named_shape("Qwen2.5-7B").parameters
    assert reach(2**30)["SFT of all weights"] == ""


# GiB that PyTorch had allocated at most. 0.5B: the recorded run of docs/reference/, one H200, 2026-11-29, packs of one
# pass an update, not compiled. 1.5B: bench_sft.py, one H100, 2026-11-22, 286312d, compiled.
MEASURED = [
    ("Qwen2.5-0.5B", {"tokens": 7936, "passes": 1}, 20.08),
    ("Qwen2.5-0.5B", {"tokens": 9216, "passes": 1}, 22.00),
    ("Qwen2.5-0.5B", {"tokens": 15_616, "passes": 1}, 31.58),
    ("Qwen2.5-0.5B", {"tokens": 19_456, "passes": 1}, 37.34),
    ("Qwen2.5-1.5B", {"tokens": 14_592, "compiled": True}, 57.4),
]


@pytest.mark.parametrize(("model", "settings", "seen"), MEASURED)
def test_peaks_that_were_measured(model: str, settings: dict, seen: float):
    found = footprint(Training(shape=named_shape(model), **settings))
    assert found.peak / 2**30 == pytest.approx(seen, rel=0.02)


def test_vllm_in_the_same_process_takes_its_share():
    """bench_grpo.py, 0.5B, 512 responses in packs, compiled, one H100, 2026-11-22, 60622c9: 62.1 GiB."""
    rollout = Rollout(reference=True, vllm_bytes=0.3 * CARDS["h100"].memory)
    training = Training(
        shape=named_shape("Qwen2.5-0.5B"), tokens=29_312, head="fused", compiled=True, rollout=rollout
    )
    assert footprint(training).peak / 2**30 == pytest.approx(62.1, rel=0.03)
