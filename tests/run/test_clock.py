"""The system's clock steps while a driver works; and a driver that was away finds another in its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from r1pipe.errors import BusyError
from r1pipe.here import Here
from r1pipe.launch.launcher import Launcher
from r1pipe.run import store
from r1pipe.run.store import RunFolder

DAY_S = 86_400.0


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder("t", tmp_path / "runs")
    folder.check_writable()
    return folder


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch):
    """step(seconds): from now on time.time() is so much later, and time.monotonic() as ever."""
    real = time.time

    def by(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    return by


def test_a_step_back_of_the_clock_does_not_let_the_lock_grow_old(
    folder: RunFolder, step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "HEARTBEAT_S", 0.0)
    with folder:
        folder.beat()
        step(-DAY_S)
        os.utime(folder.path / ".lock", (0, 0))
        time.sleep(0.01)
        folder.beat()
        assert (folder.path / ".lock").stat().st_mtime > 0


def test_a_machine_whose_clock_is_ahead_does_not_take_a_living_lock(folder: RunFolder, step) -> None:
    """The lock of another machine, touched just now."""
    lock = folder.path / ".lock"
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": 0}))
    step(DAY_S)
    with pytest.raises(BusyError, match="elsewhere"), folder:
        pass


def test_an_old_job_that_goes_on_beside_its_requeued_copy_leaves(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped for longer than a lock lives, and a copy on another machine took the run over."""
    monkeypatch.setattr(store, "HEARTBEAT_S", 0.0)
    with folder:
        (folder.path / ".lock").write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": 0}))
        time.sleep(0.01)
        with pytest.raises(BusyError, match="pid 7 on elsewhere has taken over the run 't'"):
            folder.beat()


def test_progress_is_shown_after_a_step_back_of_the_clock(tmp_path: Path, step) -> None:
    here = Here("a", tmp_path, tmp_path / "metrics.jsonl", tmp_path / "progress.jsonl")
    here.progress(1, 9)
    step(-DAY_S)
    time.sleep(0.15)
    here.progress(2, 9)
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) == 2


def test_a_step_back_does_not_delay_the_end_of_processes(tmp_path: Path, step, monkeypatch) -> None:
    """By the time of day the driver would wait a day before it ends a process that does not leave by SIGTERM."""
    monkeypatch.setattr("r1pipe.launch.launcher.GRACE_S", 0.2)
    stubborn = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; exec sleep 5"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert stubborn.stdout is not None and stubborn.stdout.readline()
    plain = time.sleep

    def stepping(seconds: float) -> None:
        step(-DAY_S)
        plain(seconds)

    monkeypatch.setattr(time, "sleep", stepping)
    launcher = Launcher(tmp_path / "log")
    launcher._running = [stubborn]
    launcher.stop()
    assert stubborn.returncode == -signal.SIGKILL, "it was not waited for to the end"


def test_a_checkpoint_is_due_by_a_clock_that_nobody_sets(tmp_path: Path, step) -> None:
    from transformers import TrainerControl, TrainerState

    from r1pipe.schema import SFTParams
    from r1pipe.training.saving import Saving

    here = Here("a", tmp_path, tmp_path / "metrics.jsonl", tmp_path / "progress.jsonl")
    trainer = type("Trainer", (), {"here": here, "stop_signal": None})()
    saving = Saving(trainer, SFTParams(save_minutes=60))  # pyright: ignore[reportArgumentType]
    step(DAY_S)
    control = TrainerControl()
    saving.on_step_end(None, TrainerState(global_step=1), control)  # pyright: ignore[reportArgumentType]
    assert not control.should_save
