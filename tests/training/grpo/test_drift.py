"""What is logged of the policy's drift, and the clamp of the KL."""

from __future__ import annotations

import json
import math

import pytest
import torch

from r1pipe.training.grpo.drift import drift_of, near
from tests.tiny_trainers import grpo_trainer
from tests.training.grpo.test_grpo_trainer import params


def test_the_largest_token_is_seen_and_padding_is_not():
    logps_BC = torch.tensor([[-1.0, -2.0, -50.0], [-13.0, -1.0, -1.0]])
    batch = {
        "completion_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "ref_per_token_logps": torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -1.0]]),
        "old_per_token_logps": torch.tensor([[-1.5, -2.0, 0.0], [-5.0, -1.0, -1.0]]),
    }
    drift = drift_of(logps_BC, batch)
    k3 = math.exp(12.0) - 12.0 - 1
    assert drift.kl_max.item() == pytest.approx(k3) and drift.kl.item() == pytest.approx(k3)
    assert drift.tokens.item() == 5 and drift.log_ratio_max.item() == 8.0
    # nothing to compare with, and nothing that counts
    bare = {"completion_mask": batch["completion_mask"]}
    assert [float(value) for value in drift_of(logps_BC, bare)] == [0, 5, 0, 0]
    assert [float(value) for value in drift_of(logps_BC, batch | {"completion_mask": torch.zeros(2, 3)})] == [
        0
    ] * 4


def test_the_clamp_bounds_the_force_and_changes_nothing_nearby():
    ref = torch.tensor([[-1.0, -1.0]])
    for limit in (None, 3.0):
        logps = torch.tensor([[-13.0, -1.5]], requires_grad=True)
        shown = ref if limit is None else near(logps.detach(), ref, limit)
        log_ratio = shown - logps
        (log_ratio.exp() - log_ratio - 1).sum().backward()
        assert logps.grad is not None
        far, close = logps.grad[0].tolist()
        assert far == pytest.approx(1 - math.exp(12.0 if limit is None else 3.0), rel=1e-5)
        assert close == pytest.approx(1 - math.exp(0.5), rel=1e-5)


@pytest.mark.parametrize("clamp", [None, 0.01])
def test_a_training_logs_the_kl_before_the_clamp(clamp, tiny_checkpoint, here):
    """At a high rate the policy leaves its reference; the clamp changes the loss, and never the number in the log."""
    trainer = grpo_trainer(
        params(lr=3e-3, ref_replace_every=None, beta=1.0, kl_clamp=clamp), tiny_checkpoint, here
    )
    trainer.train()
    lines = [entry for entry in trainer.state.log_history if "kl_max" in entry]
    assert len(lines) == 6
    assert all(0 <= line["kl"] <= line["kl_max"] for line in lines)
    assert lines[-1]["kl_max"] > 0.01**2, "more than the clamp would let through"
    # of the two updates of a rollout the second is of a policy that has moved since it drew, if the first had a signal
    assert max(line["log_ratio_max"] for line in lines[::2]) < 1e-4
    assert max(line["log_ratio_max"] for line in lines[1::2]) > 1e-4
    assert json.dumps(lines), "plain numbers"
