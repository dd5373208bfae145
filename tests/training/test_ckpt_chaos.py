"""ckpt-chaos (pip install ckpt-chaos==0.1.8) against the trainer's checkpoints.

It kills a training of its own at files that this writes, cuts the file in half, sends SIGTERM, or takes back what no
fsync has brought to the disk; then it starts it again and compares. A resume must take the newest whole checkpoint.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from engine import environment

# A kill before a file, a file that is cut in half, SIGTERM, and what a crash of the machine may leave.
MODES = ("before", "torn", "term", "unsynced")
# Of about 150 files that a training of seven updates writes.
POINTS = int(os.environ.get("CHAOS_POINTS", "12"))
VERDICTS = ("HARD_FAIL", "SILENT_DIVERGENCE", "LOST_WORK")


@pytest.mark.slow
def test_every_kill_is_survived_with_the_newest_whole_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ckpt_chaos")
    options = {
        "--work": tmp_path / "work",
        "--modes": ",".join(MODES),
        "--max-points": POINTS,
        "--checkpoint-glob": "{out}/workdir/trainer/checkpoint-*",
        "--step-regex": r"begins at update (\d+)",
        "--result-file": "{out}/made.json",
        "--fail-on": ",".join(VERDICTS),
    }
    training = [
        sys.executable,
        Path(__file__).with_name("chaos_training.py"),
        "sft",
        tiny_checkpoint,
        "{out}",
    ]
    told = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "ckpt_chaos", "run", *told, "--", *map(str, training)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"\bPASS\b", done.stdout)) > POINTS, done.stdout
