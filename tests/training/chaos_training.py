"""A small training as a command: python chaos_training.py KIND CHECKPOINT FOLDER

ckpt-chaos kills it at each file that it writes, and starts it again. It says at which update it begins, and writes what
it has made to FOLDER/made.json: a digest of the weights, and the lines of metrics.jsonl without times.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "training"), str(TESTS), str(TESTS.parent)]

# ckpt-chaos has a sitecustomize of its own in the place of that in faults/off.
with contextlib.suppress(ImportError):
    import switch_off  # noqa: F401

import torch  # noqa: E402
from stage_runs import KINDS, lines  # noqa: E402

from r1pipe.here import Here  # noqa: E402
from r1pipe.training.resumable import ResumableTrainer  # noqa: E402


def main(kind: str, checkpoint: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    plain = ResumableTrainer._take_up

    def telling(trainer: ResumableTrainer) -> None:
        print(f"begins at update {trainer.state.global_step}", flush=True)
        plain(trainer)

    ResumableTrainer._take_up = telling
    workdir = folder / "workdir"
    for made in (folder / "out", workdir):
        made.mkdir(parents=True, exist_ok=True)
    here = Here("test", workdir, folder / "metrics.jsonl", folder / "progress.jsonl")
    KINDS[kind](checkpoint, folder / "out", here, {"keep_checkpoints": 100})
    weights = hashlib.sha256((folder / "out/model.safetensors").read_bytes()).hexdigest()
    (folder / "made.json").write_text(json.dumps({"weights": weights, "metrics": lines(folder)}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
