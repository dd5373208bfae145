"""Two ranks of a real training, one of which runs out of memory or hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from engine import alive, config, manifest, r1pipe, start, wait_for

SFT = """
stages:
  a:
    kind: r1pipe_fakes.scarce_memory
    inputs: {model: MODEL, chats: ./chats.jsonl}
    outputs: {checkpoint: dev1}
    launch: {profile: PROFILE, num_processes: 2, threads: 1}
    sft: {lr: 1.0e-3, batch_size: 4, max_length: 128, max_steps: 4, packing: false, save_every: 2}
    MORE
"""


def write(folder: Path, checkpoint: Path, more: str, profile: str = "ddp") -> None:
    rows = []
    for i in range(12):
        turns = [
            {"role": "user", "content": f"what is {i} ?"},
            {"role": "assistant", "content": f"<think>{i}</think>{i}"},
        ]
        rows.append(
            json.dumps({"id": str(i), "messages": turns, "domain": "math", "source": "sampled"}) + "\n"
        )
    (folder / "chats.jsonl").write_text("".join(rows))
    text = SFT.replace("MODEL", str(checkpoint)).replace("PROFILE", profile)
    config(folder, text.replace("MORE", more))


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("profile", ["ddp", "zero2", "zero3"])
def test_one_rank_alone_runs_out_of_memory(
    tmp_path: Path, tiny_checkpoint: Path, profile: str, phase: str
) -> None:
    """The other one waits in a collective; both go on from the last checkpoint in smaller passes."""
    if profile != "ddp":
        pytest.importorskip("deepspeed")
    more = f"tokens: 20\n    update: 3\n    rank: 1\n    phase: {phase}"
    write(tmp_path, tiny_checkpoint, more, profile)
    done = r1pipe(tmp_path, "run-all", "t.yaml", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "note: a: memory ran out in update 3" in done.stdout
    launched = manifest(tmp_path, "a")["launched"]
    assert launched["passes_halved_at"] == [3]
    assert (launched["microbatch"], launched["accumulation"]) == (1, 2)
    metrics = (tmp_path / "runs/t/a/metrics.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, metrics) if "loss" in line] == [1, 2, 3, 4]


def hang(
    folder: Path, checkpoint: Path, more: str, how: Callable[[list[int]], None]
) -> tuple[str, list[str]]:
    """What the driver says of two ranks that hang, and what their logs have."""
    write(folder, checkpoint, more)
    text = (folder / "t.yaml").read_text().replace("threads: 1}", "threads: 1, hang_minutes: 0.5}")
    (folder / "t.yaml").write_text(text.replace("max_steps: 4", "max_steps: 100000"))
    driver = start(folder, "run-all", "t.yaml")
    try:
        metrics = folder / "runs/t/a/metrics.jsonl"
        wait_for(lambda: metrics.is_file() and '"loss"' in metrics.read_text())
        workers = subprocess.run(["pgrep", "-P", str(driver.pid)], capture_output=True, text=True, check=True)
        pids = [int(pid) for pid in workers.stdout.split()]
        how(pids)
        _, errors = driver.communicate(timeout=120)
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == 3, errors
    assert not any(alive(pid) for pid in pids)
    names = ("attempt_1.log", "attempt_1.rank1.log")
    return errors, [(folder / "runs/t/a/logs" / name).read_text() for name in names]


@pytest.mark.slow
def test_a_rank_that_is_stopped_ends_the_stage_with_the_stacks_of_all(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    errors, logs = hang(tmp_path, tiny_checkpoint, "", lambda pids: os.kill(max(pids), signal.SIGSTOP))
    assert "stage a gave no sign of life for 0.5 minutes" in errors and "was stopped (SIGSTOP)" in errors
    assert "larger launch.hang_minutes" in errors
    for log in logs:
        assert "most recent call first" in log and "_run_epoch" in log


@pytest.mark.slow
def test_a_rank_that_waits_in_a_collective_alone_ends_the_stage_with_the_stacks_of_all(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Rank 1 is in a sum that rank 0, which waits for its gradients, never enters."""
    errors, logs = hang(tmp_path, tiny_checkpoint, "hangs_at: 3\n    rank: 1", lambda pids: None)
    assert "gave no sign of life" in errors and "SIGSTOP" not in errors
    for log in logs:
        assert "most recent call first" in log and "_run_epoch" in log
