"""Trainings whose numbers are no numbers any more are stopped, and nothing of them is published."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from stage_runs import KINDS

from r1pipe.errors import GuardError, InputError
from r1pipe.here import Here
from r1pipe.training import checkpoints

# A config refuses so large an `lr`, and this option of TRL's beside it.
TOO_FAST = {"learning_rate": 1e30}


@pytest.fixture
def nan_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("sft", {"trl": TOO_FAST}),
        ("sft", {"trl": TOO_FAST, "packing": False, "pack_tokens": None}),
        ("pairwise", {"trl": TOO_FAST}),
        ("pointwise", {"trl": TOO_FAST}),
        ("dpo", {"trl": TOO_FAST}),
        ("pretrain", {"trl": TOO_FAST | {"logging_steps": 4}}),
    ],
)
def test_a_training_that_diverges_is_stopped(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """It ended as done, with NaN in every tensor."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(GuardError, match="not finite at update") as caught:
        KINDS[kind](tiny_checkpoint, out, here, changes)
    assert caught.value.exit_code == 1 and "a lower lr" in caught.value.fix
    assert not list(out.glob("*.safetensors"))


def test_a_base_that_is_not_finite_is_not_trained_on(
    nan_checkpoint: Path, here: Here, tmp_path: Path
) -> None:
    with pytest.raises(GuardError, match="loss and grad_norm not finite at update 1"):
        KINDS["sft"](nan_checkpoint, tmp_path, here, {})


def test_weights_that_the_last_update_has_broken_are_not_published(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No loss comes after it."""
    import torch

    plain = torch.optim.AdamW.step

    def broken(self: Any, *given: Any) -> Any:
        done = plain(self, *given)
        with torch.no_grad():
            self.param_groups[0]["params"][0].mul_(float("inf"))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(GuardError, match="the trained weights are not finite"):
        KINDS["sft"](tiny_checkpoint, tmp_path, here, {"max_steps": 1})


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_that_is_full_while_a_checkpoint_is_written_ends_nothing_for_good(
    tiny_checkpoint: Path, small_disk: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    disk = small_disk("8m")
    plain = checkpoints.clear
    calls = 0

    def filling(folder: Path) -> None:
        nonlocal calls
        plain(folder)
        calls += 1
        if calls == 2:
            free = shutil.disk_usage(disk).free
            (disk / "filler").write_bytes(bytes(free - 100_000))

    def train(workdir: Path, name: str) -> dict[str, Any]:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        workdir.mkdir(exist_ok=True)
        here = Here("test", workdir, out / "metrics.jsonl", out / "progress.jsonl")
        KINDS["sft"](tiny_checkpoint, out, here, {})
        return load_file(out / "model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "clear", filling)
        with pytest.raises(InputError, match="no disk space is left .* update 4") as caught:
            train(disk / "workdir", "killed")
    assert "goes on from its checkpoint-2" in caught.value.fix
    (disk / "filler").unlink()
    found, wanted = train(disk / "workdir", "killed"), train(tmp_path / "workdir2", "whole")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
