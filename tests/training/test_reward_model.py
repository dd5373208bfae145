"""Reward models: how long they are trained, where they score, and that ZeRO-3 is known before a model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.models import loading as models
from r1pipe.schema import RewardModelParams
from r1pipe.training import reward_model
from r1pipe.training.reward_model import train_pairwise, train_pointwise

LONG = "so " * 200
PAIRS = [
    {"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": LONG if i % 2 else f"no {i}"} for i in range(40)
]
LABELS = [
    {"prompt": f"q{i}", "response": LONG if i % 4 > 1 else f"answer {i}", "safe": i % 2} for i in range(40)
]
KINDS: dict[str, Any] = {"pairwise": (train_pairwise, PAIRS), "pointwise": (train_pointwise, LABELS)}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_of_the_rows_that_fit(kind: str, tiny_checkpoint: Path, here: Here) -> None:
    """Half of the rows are too long: two epochs of 18 or 20 of 36, not of all of them."""
    train, rows = KINDS[kind]
    params = RewardModelParams(lr=1e-3, epochs=2, batch_size=4, max_length=64)
    metrics = train(tiny_checkpoint, rows, params, out=here.workdir / "out", here=here, seed=0)
    fits = metrics["pairs" if kind == "pairwise" else "labels"]
    assert metrics["dropped_too_long"] == 36 - fits > 10
    steps = [line for line in here.metrics_path.read_text().splitlines() if '"loss"' in line]
    assert len(steps) == round(fits * 2 / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_all_too_long_are_refused(kind: str, tiny_checkpoint: Path, here: Here) -> None:
    train, rows = KINDS[kind]
    with pytest.raises(InputError, match="fits max_length 2"):
        train(
            tiny_checkpoint,
            rows,
            RewardModelParams(max_length=2),
            out=here.workdir / "out",
            here=here,
            seed=0,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_arguments_are_events_before_the_model(
    kind: str, tiny_checkpoint: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers learns of ZeRO-3 from them, and only then shards a model while it loads it."""
    import transformers

    events: list[str] = []
    plain_args, plain_model = transformers.TrainingArguments.__post_init__, reward_model._classifier
    monkeypatch.setattr(
        transformers.TrainingArguments,
        "__post_init__",
        lambda self: (events.append("arguments"), plain_args(self))[1],
    )
    monkeypatch.setattr(
        reward_model,
        "_classifier",
        lambda *args, **kwargs: (events.append("model"), plain_model(*args, **kwargs))[1],
    )
    train, rows = KINDS[kind]
    train(
        tiny_checkpoint,
        rows,
        RewardModelParams(batch_size=32, max_length=64),
        out=here.workdir / "out",
        here=here,
        seed=0,
    )
    assert events[:2] == ["arguments", "model"]


@pytest.mark.parametrize(
    ("rank", "seen", "wanted"), [("3", 8, "cuda:3"), ("3", 1, "cuda:0"), (None, 8, "cuda:0")]
)
def test_each_rank_scores_on_its_own_gpu(
    rank: str | None,
    seen: int,
    wanted: str,
    tiny_checkpoint: Path,
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, all ranks put it on GPU 0."""
    from transformers import AutoModelForSequenceClassification

    with_head = here.workdir / "with-head"
    AutoModelForSequenceClassification.from_pretrained(tiny_checkpoint, num_labels=1).save_pretrained(
        with_head
    )
    devices: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(
        torch.nn.Module, "to", lambda self, device: (devices.append(torch.device(device)), self)[1]
    )
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    reward_model._classifier(with_head, training=False)
    models.load_model(tiny_checkpoint, training=False)
    assert [str(device) for device in devices[-2:]] == [wanted, wanted] and len(set(devices)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_model(kind: str, tiny_checkpoint: Path, here: Here) -> None:
    """The head is drawn when the model is loaded, before the trainer seeds anything: no two runs had the same one."""
    train, rows = KINDS[kind]
    heads = []
    for attempt, seed in enumerate((3, 3, 4)):
        torch.manual_seed(100 + attempt)  # what a process happens to have drawn before
        out = here.workdir / f"out{attempt}"
        train(
            tiny_checkpoint,
            rows,
            RewardModelParams(lr=1e-3, batch_size=4, max_length=64),
            out=out,
            here=here,
            seed=seed,
        )
        heads.append(load_file(out / "model.safetensors")["score.weight"])
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"m": 0}', '{"m": 0, "d": 0}', '{"m": "NaN", "d": 1}'])
def test_a_broken_calibration_is_named(tmp_path: Path, text: str) -> None:
    from r1pipe.training.reward_model import _read_calibration

    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(InputError, match="calibration") as caught:
        _read_calibration(path)
    assert caught.value.where == str(path)
