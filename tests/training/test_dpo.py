"""DPO: what it learns, which pairs it reads, and that its first loss is that of two equal models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.models.loading import load_model, load_tokenizer
from r1pipe.schema import DPOParams
from r1pipe.text.rendering import chat_ids
from r1pipe.training.dpo_training import train_dpo

LONG = "so " * 200
PAIRS = [
    {"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": LONG if i % 4 == 1 else f"no {i}"}
    for i in range(40)
]


def log_prob(checkpoint: Path, prompt: str, response: str) -> float:
    """Of a response, summed over its tokens: by hand, without TRL."""
    tokenizer = load_tokenizer(checkpoint)
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    ids, mask = next(iter(chat_ids([chat], tokenizer)))
    with torch.no_grad():
        logits_TV = load_model(checkpoint, training=False)(torch.tensor([ids])).logits[0]
    logps_TV = logits_TV.float().log_softmax(-1)
    places = [t for t in range(1, len(ids)) if mask[t]]
    return sum(logps_TV[t - 1, ids[t]].item() for t in places)


def test_what_is_chosen_gains_against_the_model_of_before(tiny_checkpoint: Path, here: Here) -> None:
    out = here.workdir / "out"
    params = DPOParams(lr=1e-3, epochs=4, batch_size=4, max_length=64, microbatch=2)
    metrics = train_dpo(tiny_checkpoint, PAIRS, params, out=out, here=here, seed=0)

    logged = [json.loads(line) for line in here.metrics_path.read_text().splitlines()]
    losses = [line["loss"] for line in logged if "loss" in line]
    # Policy and reference are one model before the first update.
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[-1] < 0.5
    assert metrics["pairs"] + metrics["heldout_pairs"] + metrics["dropped_too_long"] == 40
    assert metrics["dropped_too_long"] == 10
    assert metrics["heldout_accuracy"] == 1.0

    gained = {}
    for response in ("yes 3", "no 3"):
        gained[response] = log_prob(out, "q3", response) - log_prob(tiny_checkpoint, "q3", response)
    assert gained["yes 3"] > gained["no 3"] + 1


def test_the_margin_is_the_policy_s_against_the_reference(tiny_checkpoint: Path, here: Here) -> None:
    """heldout_margin, computed once more from the two folders."""
    out = here.workdir / "out"
    rows = [row for row in PAIRS if row["rejected"] != LONG]
    params = DPOParams(lr=1e-3, batch_size=8, microbatch=8, beta=0.5, heldout=0.02)
    metrics = train_dpo(tiny_checkpoint, rows, params, out=out, here=here, seed=0)
    assert metrics["heldout_pairs"] == 1

    from r1pipe.training.reward_model import split_heldout

    (row,) = split_heldout(rows, 0.02, 0)[1]
    margin = 0.0
    for side, sign in (("chosen", 1), ("rejected", -1)):
        change = log_prob(out, row["prompt"], row[side]) - log_prob(tiny_checkpoint, row["prompt"], row[side])
        margin += sign * change
    assert metrics["heldout_margin"] == pytest.approx(0.5 * margin, abs=2e-3)
    assert margin > 0.1


@pytest.mark.parametrize(
    ("rows", "params", "what"),
    [
        (PAIRS, {"max_length": 2}, "no pair that is held out fits max_length 2"),
        (PAIRS[:1], {}, "1 different prompts leave nothing to train on"),
    ],
)
def test_too_little_to_train_on_is_told(
    tiny_checkpoint: Path, here: Here, rows: list[Any], params: dict[str, Any], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        train_dpo(tiny_checkpoint, rows, DPOParams(**params), out=here.workdir / "out", here=here, seed=0)
