"""An update that does not fit: once more in passes of half the size, with the same batch, as exactly as any resume."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_runs import differences, lines, run, weights

from r1pipe.training.checkpoints import checkpoints
from r1pipe.training.smaller_passes import EXIT_CODE

UPDATE = "method:transformers.trainer/Trainer._maybe_log_save_evaluate"

# (kind, where in the pass and in which update memory runs out for how many tokens, changes, updates)
KINDS = {
    "sft": ("sft", "memory:forward:3:32", {}, 7),
    "sft-padded": ("sft", "memory:backward:3:44", {"packing": False, "pack_tokens": None}, 7),
    "distill": ("distill", "memory:backward:1:30", {}, 7),
    "pairwise": ("pairwise", "memory:backward:4:36", {}, 9),
    "pointwise": ("pointwise", "memory:forward:4:20", {}, 9),
    "pretrain": ("pretrain", "memory:backward:4:32", {}, 11),
    "grpo": ("grpo", "memory:forward:4:60", {}, 8),
    "grpo-packs": ("grpo", "memory:backward:4:62", {"microbatch": None, "microbatch_tokens": 120}, 8),
}


def log(folder: Path) -> str:
    return (folder / "log").read_text()[-3000:]


def launched(folder: Path) -> dict[str, Any]:
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["launched"] for line in told if "launched" in line][-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_update_is_made_again_in_smaller_passes(tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    name, memory, changes, updates = KINDS[kind]
    scarce, whole = tmp_path / "scarce", tmp_path / "whole"
    update = int(memory.split(":")[2])
    assert run(name, tiny_checkpoint, scarce, memory, **changes) == EXIT_CODE, log(scarce)
    assert list(checkpoints(scarce / "workdir/trainer"))[-1:] == [update - 1], "nothing is lost"
    assert f"memory ran out in update {update}" in (scarce / "workdir/starts-again").read_text()
    assert run(name, tiny_checkpoint, scarce, memory, **changes) == 0, log(scarce)
    assert launched(scarce)["passes_halved_at"] == [update]

    # the same batches: the same training but for the order of sums
    assert run(name, tiny_checkpoint, whole, **changes) == 0, log(whole)
    losses = {line["step"]: line["loss"] for line in lines(scarce) if "loss" in line}
    wanted = {line["step"]: line["loss"] for line in lines(whole) if "loss" in line}
    assert losses.keys() == wanted.keys()
    assert max(wanted) in (updates, updates // 4 * 4)
    if name != "grpo":
        # transformers weighs a short pass of a pass over the rows' last update as a whole one, so reward models differ
        assert losses == pytest.approx(wanted, rel=5e-3)
        found, other = weights(scarce), weights(whole)
        assert all(torch.allclose(found[key], other[key], atol=2e-3) for key in other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_after_it_the_result_is_the_same(tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    name, memory, changes, _ = KINDS[kind]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        assert run(name, tiny_checkpoint, folder, memory, **changes) == EXIT_CODE, log(folder)
    assert run(name, tiny_checkpoint, whole, memory, **changes) == 0, log(whole)
    place = f"{memory}; {UPDATE}:2"
    assert run(name, tiny_checkpoint, killed, place, **changes) == -signal.SIGKILL
    assert run(name, tiny_checkpoint, killed, memory, **changes) == 0, log(killed)
    assert differences(killed, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("sft", {}, "in passes of half the size, too"),
        ("pairwise", {"microbatch": 1}, "where a pass is a single row"),
        ("grpo", {}, "in passes of half the size, too"),
    ],
)
def test_what_does_not_fit_either_is_an_error_with_the_ways_out(
    tiny_checkpoint: Path, tmp_path: Path, kind: str, changes: dict[str, Any], says: str
) -> None:
    memory = "memory:forward:2:1"
    if "single" not in says:
        assert run(kind, tiny_checkpoint, tmp_path, memory, **changes) == EXIT_CODE
    assert run(kind, tiny_checkpoint, tmp_path, memory, **changes) == 1, log(tmp_path)
    assert f"StageError: memory ran out in update 2, {says}" in log(tmp_path)
    assert "fix: shorter rows" in log(tmp_path)
    # With more memory, what was saved goes on.
    assert run(kind, tiny_checkpoint, tmp_path, **changes) == 0, log(tmp_path)
