"""What the trainer's checkpoints cost: the seconds of one, its bytes, and the share of a stage's time.

    python3 tests/bench/bench_checkpoints.py           Qwen2.5-0.5B's shape with random weights; one CUDA machine, 30 GB
    python3 tests/bench/bench_checkpoints.py --base    the base that ships; a CPU will do

SFT and GRPO with a checkpoint every second update. Each of GRPO's has a reference of its own, which is the dearest
case: by default a reference serves for hundreds of updates, and its file gets a second name. The first checkpoint of
a process is left out of the median, since it also pays for the file system's first gigabytes. The share is what a
checkpoint takes of the time between two of them, which is `save_minutes`, or more where that would be above 3 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from preloaded import exit_code  # noqa: E402
from random_models import EMBEDDED_BASE, make_base  # noqa: E402

UPDATES = 8


def train(kind: str, base: Path, folder: Path) -> None:
    """A small training whose checkpoints are measured; costs.json gets seconds, bytes and the next interval."""
    from r1pipe.here import Here
    from r1pipe.training import resumable

    workdir = folder / "workdir"
    workdir.mkdir(parents=True)
    out = folder / "out"
    out.mkdir()
    here = Here("test", workdir, folder / "metrics.jsonl", folder / "progress.jsonl")
    seconds: list[float] = []
    resumable.Saving.saved = lambda self, took: seconds.append(took)
    started = time.monotonic()
    if kind == "sft":
        _sft(base, out, here)
    else:
        _grpo(base, out, here)
    trained = time.monotonic() - started
    newest = max((workdir / "trainer").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    size = sum(path.stat().st_size for path in newest.iterdir())
    costs = {"seconds": seconds, "bytes": size, "stage": trained}
    (folder / "costs.json").write_text(json.dumps(costs))


def _sft(base: Path, out: Path, here: Any) -> None:
    from r1pipe.schema import SFTParams
    from r1pipe.training.sft.sft_training import train_sft

    answer = "<think>" + "1 + 2 = 3, " * 40 + "</think>3"
    turns = [{"role": "user", "content": "1 + 2"}, {"role": "assistant", "content": answer}]
    rows = [{"id": str(i), "domain": "math", "source": "sampled", "messages": turns} for i in range(64)]
    params = SFTParams(batch_size=16, max_steps=UPDATES, max_length=1024, save_every=2, compile=False)
    train_sft(base, rows, params, out=out, here=here, seed=0)


def _grpo(base: Path, out: Path, here: Any) -> None:
    from r1pipe.embedded.world import problems
    from r1pipe.schema import GRPOParams, Phase, RewardSpec
    from r1pipe.text.rendering import TEMPLATES
    from r1pipe.training.grpo.grpo_training import train_grpo

    params = GRPOParams(
        beta=0.001,
        num_generations=8,
        batch_size=32,
        minibatches_per_rollout=4,
        ref_replace_every=2,
        save_every=2,
        eval_prompts=0,
        compile=False,
        phases=[Phase(steps=UPDATES, max_tokens=128, rewards=[RewardSpec(name="random")])],
    )
    train_grpo(
        checkpoint=base,
        prompts={"prompts": problems("train", ["math"], 64, 0)},
        heldout=[],
        params=params,
        template=str(TEMPLATES / "embedded-zero.txt"),
        out=out,
        here=here,
        seed=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", action="store_true", help="the base that ships instead of the 0.5B shape")
    shipped = parser.parse_args().base
    from r1pipe.schema import SFTParams
    from r1pipe.training.saving import MOST_OF_THE_TIME

    save_seconds = SFTParams().save_minutes * 60
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        base = EMBEDDED_BASE if shipped else work / "base"
        if not shipped:
            assert exit_code(partial(make_base, "0.5B"), base) == 0
        for kind in ("sft", "grpo"):
            assert exit_code(train, kind, base, work / kind) == 0
            costs = json.loads((work / kind / "costs.json").read_text())
            median = statistics.median(costs["seconds"][1:])
            between = max(save_seconds, median / MOST_OF_THE_TIME)
            print(
                f"{kind}: a checkpoint of {costs['bytes'] / 1e9:.3f} GB takes {median:.2f} s"
                f" (all: {', '.join(f'{took:.2f}' for took in costs['seconds'])}), one each {between:.0f} s:"
                f" {median / between:.2%} of the time; the training here took {costs['stage']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
