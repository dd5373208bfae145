"""The two bases that ship: small, whole, and with the headroom that RL needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from r1pipe.training.pretraining import headroom

DATA = Path(__file__).parents[2] / "r1pipe" / "embedded" / "data"


def test_both_together_stay_under_8_mb():
    assert sum(file.stat().st_size for file in DATA.rglob("*") if file.is_file()) < 8e6


@pytest.mark.slow
def test_the_base_can_reason_but_rarely_does():
    """A base that is right whenever it thinks leaves RL nothing to do but switch a habit on."""
    found = headroom(DATA / "base", probes=320, seed=3)
    assert 0.20 <= found["base_accuracy"] <= 0.45
    assert 0.45 <= found["think_accuracy"] <= 0.70
    assert found["think_greedy_accuracy"] > 0.80, (
        "what it knows best is mostly right: that is what RL can bring out"
    )
    assert found["base_thinks"] < 0.4


@pytest.mark.parametrize("name", ["base", "student"])
def test_a_checkpoint_loads_and_its_tokenizer_round_trips(name):
    from r1pipe.embedded.documents import documents
    from r1pipe.models.loading import load_model, load_tokenizer

    tokenizer, model = load_tokenizer(DATA / name), load_model(DATA / name, training=False)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.use_cache
    for text in documents(50, seed=999):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
