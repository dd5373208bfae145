"""A training that was killed with SIGKILL, whose result equals the undisturbed one's bit for bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from preloaded import processes
from stage_runs import attempt, differences, file_events, lines, run

from r1pipe.training.checkpoints import PREFIX, checkpoints, newest_whole

UPDATE = "method:transformers.trainer/Trainer._maybe_log_save_evaluate"
BACKWARD = "method:accelerate.accelerator/Accelerator.backward"
SEAL = "method:r1pipe.training.checkpoints/seal"
PUBLISH = "method:r1pipe.training.checkpoints/publish"
GRPO = "method:r1pipe.training.grpo.grpo_trainer"

STEP = "method:accelerate.optimizer/AcceleratedOptimizer.step"
OPTIMIZER = "method:transformers.trainer/Trainer._save_optimizer_and_scheduler"
REMOVE = "method:r1pipe.training.checkpoints/remove"
FINALIZE = "method:transformers.trainer/Trainer._finalize_training:1"
SAVED = "method:r1pipe.models.loading/save_trained"
SCORES = "method:r1pipe.training.reward_model/raw_scores"

# A reward model's eight updates, of which every second is saved.
REWARD_MODEL = {
    "before the first checkpoint": f"{BACKWARD}:3",
    "in the backward pass": f"{BACKWARD}:11",
    "in the optimizer's step": f"{STEP}:5",
    "after an update": f"{UPDATE}:7",
    "while the optimizer is saved": f"{OPTIMIZER}:2",
    "before it is sealed": f"{SEAL}:2",
    "before it is renamed": f"{PUBLISH}:3",
    "while an old one is removed": f"{REMOVE}:1",
    "in the held-out look": f"{SCORES}:1",
}
PLACES = {
    "sft": {
        # the second update: the first one's line is in the log
        "before the first checkpoint": f"{BACKWARD}:3",
        "in the backward pass": f"{BACKWARD}:7",
        "in the optimizer's step": f"{STEP}:5",
        "after an update": f"{UPDATE}:5",
        "while the optimizer is saved": f"{OPTIMIZER}:2",
        "before it is sealed": f"{SEAL}:2",
        "before it is renamed": f"{PUBLISH}:2",
        "while an old one is removed": f"{REMOVE}:1",
        "before the last update": f"{UPDATE}:6",
        "while the weights are written": f"{SAVED}:1",
    },
    "grpo": {
        "in a rollout": "method:r1pipe.training.grpo.sampling/Sampler.draw:7",
        "in the rewards": "method:r1pipe.training.grpo.rollout_rewards/RolloutRewards.judge:4",
        "between two minibatches": f"{BACKWARD}:9",
        "in the optimizer's step": f"{STEP}:6",
        "after a reference replacement": f"{UPDATE}:5",
        "after an update that was saved": f"{UPDATE}:4",
        "between two phases": f"{GRPO}/enter_phase:1",
        "in a held-out look": f"{GRPO}/R1GRPOTrainer.score_heldout:4",
        "while the optimizer is saved": f"{OPTIMIZER}:2",
        "before it is sealed": f"{SEAL}:2",
        "before it is renamed": f"{PUBLISH}:2",
        "while the best policy is written": "method:r1pipe.training.callbacks/save_trained:1",
    },
    "pairwise": REWARD_MODEL,
    "pointwise": REWARD_MODEL,
    "dpo": {
        **REWARD_MODEL,
        "in the held-out look": "method:r1pipe.training.dpo_trainer/PreferenceTrainer.evaluate:1",
    },
    # Its log has a line for four updates, and its checkpoints come after three.
    "pretrain": {
        "in the backward pass": f"{BACKWARD}:6",
        "in the optimizer's step": f"{STEP}:5",
        "after an update": f"{UPDATE}:7",
        "after an update that was saved": f"{UPDATE}:4",
        "while the optimizer is saved": f"{OPTIMIZER}:2",
        "before it is sealed": f"{SEAL}:2",
        "before it is renamed": f"{PUBLISH}:2",
        "between two passes over the rows": f"{BACKWARD}:8",
    },
    # The stage itself, from its rows on disk; what trains is that of `sft`.
    "distill": {"in the backward pass": f"{BACKWARD}:7", "before it is renamed": f"{PUBLISH}:2"},
}

# Updates between checkpoints (tests/training/stage_runs.py).
INTERVALS = {"sft": 2, "distill": 2, "grpo": 3, "pairwise": 2, "pointwise": 2, "dpo": 2, "pretrain": 3}


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory):
    """whole(kind) -> the folder of an undisturbed training."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            assert run(kind, tiny_checkpoint, made[kind], "file:0") == 0, (made[kind] / "log").read_text()[
                -2000:
            ]
        return made[kind]

    return get


def places() -> list:
    return [
        pytest.param(kind, place, id=f"{kind}-{name}")
        for kind, of_kind in PLACES.items()
        for name, place in of_kind.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "place"), places())
def test_killed_anywhere_it_ends_the_same(
    tiny_checkpoint: Path, tmp_path: Path, whole, kind: str, place: str
) -> None:
    assert run(kind, tiny_checkpoint, tmp_path, place) == -signal.SIGKILL
    lost = max([line.get("step", 0) for line in _lines(tmp_path)], default=0) - _newest(tmp_path)
    assert lost <= INTERVALS[kind], "at most what was made since the last checkpoint"
    assert run(kind, tiny_checkpoint, tmp_path) == 0, (tmp_path / "log").read_text()[-2000:]
    assert differences(tmp_path, whole(kind)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "updates"),
    [("sft", 7), ("grpo", 8), ("pairwise", 8), ("pointwise", 8), ("dpo", 8), ("pretrain", 10)],
)
def test_killed_when_the_last_update_was_saved_it_makes_no_further_one(
    tiny_checkpoint: Path, tmp_path: Path, whole, kind: str, updates: int
) -> None:
    """transformers asks whether it is done after an update, and never before one; in the middle of a pass that matters.

    The reward models' last update is in the middle of their third pass.
    """
    assert run(kind, tiny_checkpoint, tmp_path, FINALIZE, save_every=updates) == -signal.SIGKILL
    assert list(checkpoints(tmp_path / "workdir/trainer")) == [updates]
    assert run(kind, tiny_checkpoint, tmp_path, save_every=updates) == 0, (tmp_path / "log").read_text()[
        -2000:
    ]
    assert differences(tmp_path, whole(kind)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "step"),
    [("sft", 4), ("grpo", 6), ("pairwise", 4), ("pointwise", 4), ("dpo", 4), ("pretrain", 6)],
)
def test_killed_at_each_file_border_of_a_checkpoint_it_ends_the_same(
    tiny_checkpoint: Path, tmp_path: Path, whole, kind: str, step: int
) -> None:
    """Each file that is written, renamed or removed is a border."""
    borders = file_events(whole(kind), f"checkpoint-{step}")
    assert len(borders) >= 6, borders
    for number in borders:
        folder = tmp_path / str(number)
        assert run(kind, tiny_checkpoint, folder, f"file:{number}") == -signal.SIGKILL, number
        assert run(kind, tiny_checkpoint, folder) == 0, (folder / "log").read_text()[-2000:]
        assert differences(folder, whole(kind)) == [], number


@pytest.mark.slow
def test_distillation_is_supervised_fine_tuning(whole) -> None:
    """One code, so what holds for the one holds for the other."""
    assert differences(whole("distill"), whole("sft")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"packing": False, "pack_tokens": None},
        {"lora": {"r": 2, "lora_dropout": 0.1, "target_modules": "all-linear"}},
    ],
    ids=["padded", "lora"],
)
def test_other_kinds_of_sft_end_the_same(tiny_checkpoint: Path, tmp_path: Path, changes: dict) -> None:
    assert run("sft", tiny_checkpoint, tmp_path / "whole", **changes) == 0
    assert run("sft", tiny_checkpoint, tmp_path / "killed", f"{UPDATE}:5", **changes) == -signal.SIGKILL
    assert run("sft", tiny_checkpoint, tmp_path / "killed", **changes) == 0
    assert differences(tmp_path / "killed", tmp_path / "whole") == []


@pytest.mark.parametrize("kind", ["sft", pytest.param("grpo", marks=pytest.mark.slow)])
def test_a_signal_makes_a_checkpoint_of_the_last_update(
    tiny_checkpoint: Path, tmp_path: Path, whole, kind: str
) -> None:
    """Without save_every; in RL it comes while a rollout is drawn."""
    changes = {"save_every": None}
    process = processes().Process(target=attempt, args=(kind, tiny_checkpoint, tmp_path, "", changes))
    process.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(line.get("loss") for line in _lines(tmp_path)):
        time.sleep(0.002)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-2000:]
    (step,) = checkpoints(tmp_path / "workdir/trainer")
    assert step == max(line["step"] for line in lines(tmp_path)), "nothing is lost"
    assert not list((tmp_path / "workdir").glob("saves-when-stopped"))
    assert run(kind, tiny_checkpoint, tmp_path, **changes) == 0
    assert differences(tmp_path, whole(kind)) == []


def _newest(folder: Path) -> int:
    """The update of the newest whole checkpoint; 0 where there is none."""
    path, _ = newest_whole(folder / "workdir/trainer")
    return int(path.name.removeprefix(PREFIX)) if path else 0


def _lines(folder: Path) -> list[dict]:
    try:
        return lines(folder)
    except (OSError, ValueError):
        return []
