"""Measurements of a machine become the shares that explain them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from r1pipe.run.planning import calibration
from r1pipe.run.planning.activations import Training
from r1pipe.run.planning.cards import CARDS, Card
from r1pipe.run.planning.model_shape import shape_of
from r1pipe.run.planning.speed import drawing_seconds, pass_seconds

CONFIG = {
    "model_type": "qwen2",
    "vocab_size": 2000,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
MEASURED = {
    "date": "2026-11-30",
    "shape": CONFIG,
    "row": 64,
    "matrix_flops": 6e10,
    "passes": [{"tokens": 256, "seconds": 0.05}, {"tokens": 3072, "seconds": 0.4}],
    "draws": [{"rows": 8, "step": 0.004}, {"rows": 256, "step": 0.012}],
}
CPU = Card("cpu", 8e9, 1e11, 2e10)


def test_a_cpu_is_explained_by_what_was_measured():
    efficiency = calibration.efficiency_of(MEASURED, CPU, gpu=False)
    shape = shape_of(CONFIG)
    for measured in MEASURED["passes"]:
        training = Training(shape=shape, tokens=measured["tokens"], gpu=False)
        assert pass_seconds(training, CPU, efficiency, 64) == pytest.approx(measured["seconds"], rel=0.15)
    for measured in MEASURED["draws"]:
        taken = drawing_seconds(
            shape,
            CPU,
            rows=measured["rows"],
            prompt=1,
            mean=100,
            longest=100,
            graphs=False,
            efficiency=efficiency,
        )
        assert taken / 100 == pytest.approx(measured["step"], rel=0.25)


def test_a_gpu_is_explained_by_what_was_measured():
    card = CARDS["h100"]
    shape = replace(
        shape_of(CONFIG), hidden=1536, inner=8960, key_width=128, value_width=128, heads=12, key_heads=2
    )
    config = CONFIG | {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12}
    measured = MEASURED | {
        "shape": config,
        "matrix_flops": 7e14,
        "passes": [{"tokens": 256, "seconds": 0.008}, {"tokens": 12_288, "seconds": 0.06}],
    }
    efficiency = calibration.efficiency_of(measured, card, gpu=True)
    training = Training(shape=shape, tokens=12_288)
    assert pass_seconds(training, card, efficiency, 64) == pytest.approx(0.06, rel=0.05)
    assert efficiency.measured == "here, 2026-11-30"
    # A graph's step is a small part of the plain loop's, which is what was measured.
    assert 0 < efficiency.step_compiled < efficiency.step < 0.1 * efficiency.loop


def test_what_was_measured_is_kept_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.measured_efficiency() is None
    monkeypatch.setattr(calibration, "_measure", lambda: MEASURED)
    efficiency = calibration.measured_efficiency(again=True)
    assert efficiency is not None and efficiency == calibration.measured_efficiency()
    kept = json.loads(calibration.kept_file().read_text())
    assert len(kept) == 1

    # A file of another version, or a broken one, is as none.
    calibration.kept_file().write_text(json.dumps(dict.fromkeys(kept, {"date": "2026-01-01"})))
    assert calibration.measured_efficiency() is None
    calibration.kept_file().write_text("{")
    assert calibration.measured_efficiency() is None


@pytest.mark.slow
def test_this_machine_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    efficiency = calibration.measured_efficiency(again=True)
    assert efficiency is not None
    assert 0 < efficiency.matrices < 2
    assert efficiency.step >= 0
