"""The held-out curve and the best policy outlive a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.models.loading import load_model
from r1pipe.schema import GRPOParams, Phase, RewardSpec
from r1pipe.training.checkpoints import checkpoints
from r1pipe.training.grpo.grpo_trainer import R1GRPOTrainer
from r1pipe.training.grpo.grpo_training import train_grpo
from tests.tiny_trainers import ROWS, grpo_trainer

BEST = 2  # the update after which the policy answers best


def params(**changes: Any) -> GRPOParams:
    fields: dict[str, Any] = {
        "lr": 1e-3,
        "num_generations": 4,
        "batch_size": 8,
        "minibatches_per_rollout": 1,
        "eval_every": 1,
        "save_every": 3,
    }
    fields |= {
        "keep": "best",
        "guards": {"length": {"action": "off", "limit": 1}},
    }  # a random model does not end
    return GRPOParams(
        **{**fields, "phases": [Phase(steps=5, max_tokens=8, rewards=[RewardSpec(name="random")])], **changes}
    )


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Scores that are best after update BEST.

    `halt` is the update after which the process dies, `weights` are the best policy's.
    """
    state: dict[str, Any] = {"halt": None}

    def score(self: Any, rows: Any, prompt_ids: Any) -> dict[str, float]:
        step = self.state.global_step
        if step == state["halt"]:
            raise KeyboardInterrupt
        if step == BEST:
            state["weights"] = {name: p.detach().cpu().clone() for name, p in self.model.named_parameters()}
        return {"heldout/accuracy": 0.9 if step == BEST else step / 10, "heldout/tokens": 4.0 + step}

    monkeypatch.setattr(R1GRPOTrainer, "score_heldout", score)
    return state


def train(checkpoint: Path, here: Here, out: Path, chosen: GRPOParams) -> dict[str, float]:
    out.mkdir(exist_ok=True)
    return train_grpo(
        checkpoint=checkpoint,
        prompts={"prompts": ROWS},
        heldout=ROWS[:2],
        params=chosen,
        template="chat",
        out=out,
        here=here,
        seed=0,
    )


@pytest.mark.slow
def test_a_resumed_stage_keeps_the_best_policy_of_before(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, scored: dict[str, Any]
) -> None:
    """Killed after update 4, it went on from checkpoint 3 and kept the best of the rest."""
    scored["halt"] = 4
    with pytest.raises(KeyboardInterrupt):
        train(tiny_checkpoint, here, tmp_path / "out", params())
    assert json.loads((here.workdir / "heldout.json").read_text())["best"] == BEST
    scored["halt"] = None
    metrics = train(tiny_checkpoint, here, tmp_path / "out", params())
    assert (
        metrics["kept_step"],
        metrics["heldout_accuracy"],
        metrics["heldout_accuracy_start"],
        metrics["heldout_tokens_start"],
    ) == (BEST, 0.9, 0.0, 4.0)
    kept = dict(load_model(tmp_path / "out", training=True).named_parameters())
    for name, wanted in scored["weights"].items():
        assert torch.equal(kept[name], wanted), name


@pytest.mark.slow
def test_a_stage_that_is_killed_before_it_is_published_has_its_best_policy_still(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, scored: dict[str, Any]
) -> None:
    for attempt in ("first", "second"):  # nothing is left to train in the second
        assert train(tiny_checkpoint, here, tmp_path / attempt, params(save_every=1))["kept_step"] == BEST
        kept = dict(load_model(tmp_path / attempt, training=True).named_parameters())
        assert all(torch.equal(kept[name], wanted) for name, wanted in scored["weights"].items()), attempt


@pytest.mark.slow
def test_what_came_after_the_checkpoint_is_forgotten(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, scored: dict[str, Any]
) -> None:
    """The best policy was of an update that the resumed training has not made yet."""
    scored["halt"] = 3
    with pytest.raises(KeyboardInterrupt):
        train(tiny_checkpoint, here, tmp_path / "out", params(save_every=1))
    for later in (here.workdir / "trainer").glob("checkpoint-2"):
        for file in later.iterdir():
            file.unlink()
        later.rmdir()
    scored["halt"] = None
    metrics = train(tiny_checkpoint, here, tmp_path / "out", params(save_every=1, eval_every=4))
    assert metrics["kept_step"] == 5 and metrics["heldout_accuracy"] == 0.5, "updates 4 and 5 were looked at"
    assert sorted(json.loads((here.workdir / "heldout.json").read_text())["curve"]) == ["0", "1", "4", "5"]


def test_looking_leaves_the_training_draws_alone(tiny_checkpoint: Path, here: Here) -> None:
    trainer = grpo_trainer(params(), tiny_checkpoint, here)
    ids = [[5, 6, 7], [8, 9]]
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    first = trainer.score_heldout(ROWS[:2], ids)
    assert torch.equal(torch.rand(4), wanted)
    assert trainer.score_heldout(ROWS[:2], ids) == first, "and is itself the same each time"


def test_of_the_checkpoints_to_resume_from_the_last_and_the_best_stay(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, scored: dict[str, Any]
) -> None:
    train(tiny_checkpoint, here, tmp_path / "out", params(save_every=1, keep_checkpoints=1))
    assert list(checkpoints(here.workdir / "trainer")) == [BEST, 5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_looking_leaves_the_training_draws_of_a_gpu_alone(tiny_checkpoint: Path, here: Here) -> None:
    """Only the CPU's state was put back: each look set the GPU's draws back to the same place."""
    trainer = grpo_trainer(params(), tiny_checkpoint, here)
    torch.manual_seed(3)
    wanted = torch.rand(4, device=trainer.accelerator.device)
    torch.manual_seed(3)
    trainer.score_heldout(ROWS[:2], [[5, 6, 7], [8, 9]])
    assert torch.equal(torch.rand(4, device=trainer.accelerator.device), wanted)


@pytest.mark.slow
def test_a_record_of_another_shape_is_named(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, scored: dict[str, Any]
) -> None:
    """It ended the stage with a traceback, at each start."""
    out = tmp_path / "out"
    out.mkdir()
    scored["halt"] = 4
    with pytest.raises(KeyboardInterrupt):
        train(tiny_checkpoint, here, out, params())
    scored["halt"] = None
    for content in ("{", "[]", '{"curve": 3}'):
        (here.workdir / "heldout.json").write_text(content)
        with pytest.raises(InputError, match=r"heldout\.json is damaged") as refused:
            train(tiny_checkpoint, here, out, params())
        assert "--rebuild test" in refused.value.fix
