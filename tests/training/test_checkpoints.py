"""Which of the trainer's checkpoints are whole, and what is made of those that are not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from r1pipe.here import Here
from r1pipe.schema import SFTParams
from r1pipe.training.arguments import resume_from
from r1pipe.training.checkpoints import (
    checkpoints,
    clear,
    fault,
    is_disk_full,
    newest_whole,
    publish,
    remove,
    seal,
)
from r1pipe.training.saving import Saving


def written(folder: Path, step: int) -> Path:
    clear(folder)
    partial = folder / ".partial" / f"checkpoint-{step}"
    (partial / "shards").mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"weights" * step)
    (partial / "shards" / "rank_0.pt").write_bytes(b"moments")
    seal(partial, profile="process", ranks=1)
    publish(partial, folder / partial.name)
    return folder / partial.name


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: (path / "whole.json").unlink(), "its whole.json is missing or damaged"),
        (lambda path: (path / "whole.json").write_text('{"files":'), "its whole.json is missing or damaged"),
        (lambda path: (path / "whole.json").write_text("[]"), "its whole.json is missing or damaged"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: os.truncate(path / "model.safetensors", 3), "model.safetensors has 3 of 63 bytes"),
        (lambda path: (path / "shards/rank_0.pt").write_bytes(b"MOMENTS"), "shards/rank_0.pt is damaged"),
        (lambda path: shutil.rmtree(path / "shards"), "shards/rank_0.pt is missing"),
    ],
)
def test_the_newest_whole_one_is_taken_and_the_others_are_named(
    here: Here, damage: Callable[[Path], None], why: str
) -> None:
    """A half one ended the stage for good, although an older one lay beside it."""
    folder = here.workdir / "trainer"
    older, newer = written(folder, 4), written(folder, 9)
    assert newest_whole(folder) == (newer, {})
    damage(newer)
    assert newest_whole(folder) == (older, {"checkpoint-9": why})
    assert resume_from(here) == str(older)
    (note,) = here.metrics_path.with_name("notes.jsonl").read_text().splitlines()
    assert json.loads(note)["note"] == f"checkpoint-9 is not whole, so it is passed over: {why}"


def test_what_a_writer_has_left_half_done_is_not_seen(tmp_path: Path) -> None:
    written(tmp_path, 4)
    half = tmp_path / ".partial" / "checkpoint-9"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"w")
    assert list(checkpoints(tmp_path)) == [4]
    clear(tmp_path)
    assert not half.exists()


def test_one_of_the_same_name_makes_room(tmp_path: Path) -> None:
    damaged = written(tmp_path, 4)
    (damaged / "model.safetensors").unlink()
    assert fault(written(tmp_path, 4)) == ""


def test_a_removed_one_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while files are deleted left a folder that looked like a checkpoint."""
    path = written(tmp_path, 4)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    remove(path)
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize("library", ["python", "torch", "safetensors"])
def test_a_full_disk_is_known_by_all_its_names(small_disk: Callable[[str], Path], library: str) -> None:
    """Each library has an error of its own for it."""
    import torch
    from safetensors.torch import save_file

    path, large = small_disk("64k") / "file", torch.ones(100_000)
    write = {
        "python": lambda: path.write_bytes(bytes(100_000)),
        "torch": lambda: torch.save(large, path),
        "safetensors": lambda: save_file({"a": large}, path),
    }[library]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        write()
    assert is_disk_full(caught.value), repr(caught.value)


def test_another_error_is_no_full_disk() -> None:
    assert not is_disk_full(ValueError("x"))


# --- when one is due --------------------------------------------------------------------------------------------------


def due(saving: Saving, step: int = 1) -> bool:
    control = TrainerControl()
    saving.on_step_end(None, TrainerState(global_step=step), control)  # pyright: ignore[reportArgumentType]
    return control.should_save


def each_minute(here: Here, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], Saving]:
    """A clock that stands still, and what saves by it."""
    now = [1000.0]
    monkeypatch.setattr("r1pipe.training.resumable.time.monotonic", lambda: now[0])
    trainer: Any = SimpleNamespace(here=here, stop_signal=None)
    return now, Saving(trainer, SFTParams(save_minutes=1))


def test_without_save_every_the_clock_decides_and_takes_at_most_3_percent(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, saving = each_minute(here, monkeypatch)
    now[0] += 59
    assert not due(saving)
    now[0] += 1
    assert due(saving)
    # A small one changes nothing.
    now[0] += 0.5
    saving.saved(0.5)
    now[0] += 60
    assert due(saving)


def test_dear_checkpoints_take_3_percent_of_the_whole_attempt(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an interval that follows from the last one alone they took 4.4 %, since the first came early."""
    now, saving = each_minute(here, monkeypatch)
    shares = []
    for _ in range(1000):
        now[0] += 1
        if due(saving):
            now[0] += 6
            saving.saved(6.0)
            shares.append(6 * (len(shares) + 1) / (now[0] - 1000))
    assert len(shares) == 5, shares
    assert max(shares[1:]) <= 0.03


def test_with_save_every_updates_are_counted_and_a_signal_makes_one_more(here: Here) -> None:
    trainer: Any = SimpleNamespace(here=here, stop_signal=None)
    saving = Saving(trainer, SFTParams(save_every=3, save_minutes=0.0001))
    assert [step for step in range(1, 8) if due(saving, step)] == [3, 6]
    trainer.stop_signal = 15
    assert due(saving, 7)
