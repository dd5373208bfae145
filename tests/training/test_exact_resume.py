"""A training that was killed with SIGKILL, whose result equals the undisturbed one's bit for bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from stage_runs import attempt, differences, file_events, lines, processes, run

from r1pipe.training.checkpoints import checkpoints

UPDATE = "method:transformers.trainer/Trainer._maybe_log_save_evaluate"
BACKWARD = "method:accelerate.accelerator/Accelerator.backward"
SEAL = "method:r1pipe.training.checkpoints/seal"
PUBLISH = "method:r1pipe.training.checkpoints/publish"
GRPO = "method:r1pipe.training.grpo.grpo_trainer"

PLACES = {
    "sft": {
        "before the first checkpoint": f"{BACKWARD}:2",
        "in the backward pass": f"{BACKWARD}:7",
        "after an update": f"{UPDATE}:5",
        "before it is sealed": f"{SEAL}:2",
        "before it is renamed": f"{PUBLISH}:2",
        "before the last update": f"{UPDATE}:6",
    },
    "grpo": {
        "in a rollout": "method:r1pipe.training.grpo.sampling/Sampler.draw:7",
        "between two minibatches": f"{BACKWARD}:9",
        "after a reference replacement": f"{UPDATE}:3",
        "after an update that was saved": f"{UPDATE}:4",
        "between two phases": f"{GRPO}/enter_phase:1",
        "in a held-out look": f"{GRPO}/R1GRPOTrainer.score_heldout:4",
        "before it is sealed": f"{SEAL}:2",
        "before it is renamed": f"{PUBLISH}:2",
    },
    "pairwise": {"in the backward pass": f"{BACKWARD}:11", "before it is renamed": f"{PUBLISH}:3"},
    "pointwise": {"in the backward pass": f"{BACKWARD}:11", "before it is renamed": f"{PUBLISH}:3"},
    # Its log has a line for four updates, and its checkpoints come after three.
    "pretrain": {"in the backward pass": f"{BACKWARD}:6", "after an update": f"{UPDATE}:7"},
}
QUICK = {("grpo", "between two minibatches")}


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
    cases = []
    for kind, of_kind in PLACES.items():
        for name, place in of_kind.items():
            marks = [] if (kind, name) in QUICK else [pytest.mark.slow]
            cases.append(pytest.param(kind, place, id=f"{kind}-{name}", marks=marks))
    return cases


@pytest.mark.parametrize(("kind", "place"), places())
def test_killed_anywhere_it_ends_the_same(
    tiny_checkpoint: Path, tmp_path: Path, whole, kind: str, place: str
) -> None:
    assert run(kind, tiny_checkpoint, tmp_path, place) == -signal.SIGKILL
    assert run(kind, tiny_checkpoint, tmp_path) == 0, (tmp_path / "log").read_text()[-2000:]
    assert differences(tmp_path, whole(kind)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [("sft", 4), ("grpo", 6)])
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


@pytest.mark.parametrize("kind", ["sft", "grpo"])
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


def _lines(folder: Path) -> list[dict]:
    try:
        return lines(folder)
    except (OSError, ValueError):
        return []
