"""How busy the GPUs are, as nvidia-smi says each second."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from r1pipe.run import gpu_watch
from r1pipe.run.gpu_watch import GpuWatch


def test_a_mean_over_seconds_and_gpus_and_the_most_memory():
    watch = GpuWatch()
    for line in ("0, 512\n", "50, 1024\n", "100, 2048\n", "[N/A], [N/A]\n", "\n"):
        watch.note(line)
    assert watch.seen() == {"busy": 0.5, "memory_gib": 2.0}


def test_what_nvidia_smi_prints_is_read_until_the_stage_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # No GPU here: a program of this name stands for NVIDIA's, and prints what it was asked for and then each line.
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nwhile :; do echo "40, 1024"; sleep 0.05; done\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(gpu_watch, "gpus", lambda: ("0", "1"))
    with GpuWatch() as watch:
        deadline = time.monotonic() + 20
        while not watch.seen() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert watch.seen() == {"busy": 0.4, "memory_gib": 1.0}
    assert watch._process is not None and watch._process.returncode is not None
    assert (tmp_path / "asked").read_text().split()[-2:] == ["-i", "0,1"]


@pytest.mark.parametrize("ids", [(), ("0",)])
def test_without_a_gpu_or_without_nvidia_smi_nothing_is_seen(
    ids: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_watch, "gpus", lambda: ids)
    with GpuWatch() as watch:
        pass
    assert watch.seen() == {}
