"""Seconds that were measured, beside those that are planned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from r1pipe.run.planning.activations import Rollout, Training
from r1pipe.run.planning.cards import CARDS
from r1pipe.run.planning.known_models import named_shape
from r1pipe.run.planning.speed import (
    communication_seconds,
    drawing_seconds,
    forward_seconds,
    pass_seconds,
    published_rates,
    update_seconds,
)

CARD = CARDS["h200"]
HALF_B = named_shape("Qwen2.5-0.5B")
ONE_B = named_shape("Qwen2.5-1.5B")

# Seconds of an update of two passes, one H200, 2026-11-30 (docs/planning.md): (training, tokens of a row, seconds).
MEASURED = [
    (Training(shape=HALF_B, tokens=16_384), 2048, 0.427),
    (Training(shape=HALF_B, tokens=32_768, checkpointing=True), 16_384, 1.557),
    (Training(shape=ONE_B, tokens=8192), 1024, 0.497),
    (Training(shape=ONE_B, tokens=8192, checkpointing=True), 1024, 0.615),
    (Training(shape=ONE_B, tokens=8192, profile="zero2"), 1024, 0.564),
    (Training(shape=HALF_B, tokens=8192, profile="zero3"), 1024, 0.597),
    (Training(shape=ONE_B, tokens=16_384, compiled=True), 1024, 0.659),
]


@pytest.mark.parametrize(("training", "row", "seen"), MEASURED)
def test_updates_take_what_was_measured(training: Training, row: int, seen: float):
    planned = 2 * pass_seconds(training, CARD, mean_length=row) + update_seconds(training, CARD)
    assert planned == pytest.approx(seen, rel=0.2)


@pytest.mark.parametrize(
    ("shape", "rows", "steps", "seen"), [(HALF_B, 64, 256, 0.771), (ONE_B, 64, 256, 1.073)]
)
def test_drawing_takes_what_was_measured(shape, rows: int, steps: int, seen: float):
    planned = drawing_seconds(shape, CARD, rows=rows, prompt=128, mean=steps, longest=steps, graphs=True)
    assert planned == pytest.approx(seen, rel=0.2)


def test_a_forward_pass_is_a_part_of_both():
    training = Training(shape=ONE_B, tokens=8192)
    lighter = replace(training, checkpointing=True)
    both = pass_seconds(training, CARD)
    assert forward_seconds(training, CARD) == both / 3
    assert forward_seconds(lighter, CARD) == pytest.approx(both / 3, rel=0.1)


def test_ranks_that_shard_weights_send_more():
    plain = Training(shape=ONE_B, tokens=8192, profile="zero2", ranks=8)
    sharded = replace(plain, profile="zero3")
    assert communication_seconds(replace(plain, ranks=1), CARD, 8, 10, 1) == 0
    once = communication_seconds(plain, CARD, 8, 10, 1)
    assert communication_seconds(sharded, CARD, 8, 10, 1) > 5 * once
    # Over the network instead of NVLink.
    assert communication_seconds(replace(plain, ranks=16), CARD, 8, 10, 1) > 5 * once


def test_published_rates_are_for_one_model_on_one_card_over_many():
    shape = named_shape("DeepSeek-V3")
    many = Training(shape=shape, tokens=1, ranks=512, rollout=Rollout())
    assert published_rates(many, CARDS["h800"]) is not None
    assert published_rates(many, CARD) is None
    assert published_rates(replace(many, shape=ONE_B), CARDS["h800"]) is None
    assert published_rates(replace(many, ranks=8), CARDS["h800"]) is None
