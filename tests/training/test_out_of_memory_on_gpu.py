"""On a GPU that really has no room: one update more in smaller passes.

python -m pytest -n 0 tests/training/test_out_of_memory_on_gpu.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

TRAIN = """
import json, sys
from pathlib import Path
import torch
import stage_runs
from r1pipe.here import Here

kind, checkpoint, folder, share, changes = sys.argv[1:]
if float(share) < 1:
    torch.cuda.set_per_process_memory_fraction(float(share))
folder = Path(folder)
(folder / "out").mkdir(parents=True, exist_ok=True)
(folder / "workdir").mkdir(exist_ok=True)
here = Here("test", folder / "workdir", folder / "metrics.jsonl", folder / "progress.jsonl")
changes = json.loads(changes)
times = changes.pop("times")
twelve, rows = stage_runs.SUMS, changes["batch_size"] * 11 // 10
stage_runs.SUMS = [twelve[n % 12] | {"id": str(n), "prompt": f"what is {n} + 1 ? " * times} for n in range(rows)]
stage_runs.KINDS[kind](Path(checkpoint), folder / "out", here, changes)
print("PEAK", torch.cuda.max_memory_reserved())
"""
# So many tokens that what a pass takes is far more than what stays of it. Those of SFT are in long rows, by repeating
# the prompt: cuDNN's attention ended in an error at 65,536 rows.
KINDS = {
    "sft": {
        "packing": False,
        "pack_tokens": None,
        "batch_size": 8192,
        "microbatch": 8192,
        "max_steps": 2,
        "max_length": 512,
        "times": 16,
    },
    "pairwise": {"batch_size": 8192, "microbatch": 8192, "epochs": 2, "times": 1},
}


def train(kind: str, checkpoint: Path, folder: Path, share: float, **changes: Any) -> tuple[int, str]:
    folders = [str(Path(__file__).parents[n]) for n in range(3)]
    path = os.pathsep.join([*folders, *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    given = [kind, str(checkpoint), str(folder), str(share), json.dumps(KINDS[kind] | changes)]
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, *given], env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def peak(kind: str, checkpoint: Path, folder: Path, **changes: Any) -> int:
    code, output = train(kind, checkpoint, folder, 1, **changes)
    assert code == 0, output[-2000:]
    return int(output.rpartition("PEAK ")[2].split()[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_update_is_made_again_in_smaller_passes(tiny_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    rows = KINDS[kind]["microbatch"] // 2
    whole = peak(kind, tiny_checkpoint, tmp_path / "whole")
    half = peak(kind, tiny_checkpoint, tmp_path / "half", microbatch=rows)
    assert half < 0.8 * whole, "this training shows nothing on this card"
    share = (whole + half) / 2 / torch.cuda.get_device_properties(0).total_memory
    scarce = tmp_path / "scarce"
    code, output = train(kind, tiny_checkpoint, scarce, share)
    assert code == 75 and "memory ran out in update 1" in output, output[-2000:]
    code, output = train(kind, tiny_checkpoint, scarce, share)
    assert code == 0, output[-2000:]
    told = [json.loads(line) for line in (scarce / "metrics.jsonl").read_text().splitlines()]
    launched = [line["launched"] for line in told if "launched" in line][-1]
    assert launched["passes_halved_at"] == [1] and launched["microbatch"] == rows
    assert (scarce / "out/model.safetensors").is_file()
