"""GRPO in packs of so many tokens on two CPU ranks: the numbers of the run in rows, whatever shards the model.

Slow, as test_zero.py is.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine import config, r1pipe

pytestmark = pytest.mark.slow

RL = """
stages:
  reasoning-rl:
    inputs: {model: MODEL, prompts: ./prompts.jsonl}
    outputs: {checkpoint: dev2}
    grpo:
      lr: 1.0e-2
      num_generations: 4
      batch_size: 16
      minibatches_per_rollout: 2
      eval_prompts: 0
      phases: [{steps: 4, max_tokens: 12, rewards: [{name: random}]}]
"""


def logged(folder: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (folder / "runs/t/reasoning-rl/metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("profile", ["ddp", "zero1", "zero2", "zero3"])
def test_packs_on_two_ranks(tmp_path: Path, tiny_checkpoint: Path, profile: str) -> None:
    if profile != "ddp":
        pytest.importorskip("deepspeed")
    found = []
    for tokens in ("rows", 50):
        folder = tmp_path / str(tokens)
        folder.mkdir()
        rows = [
            {"id": str(i), "prompt": f"what is {i} + {'1' * (i % 5)}2 ?", "domain": "math", "answer": str(i)}
            for i in range(8)
        ]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config(folder, RL.replace("MODEL", str(tiny_checkpoint)))
        launch = f"stages.reasoning-rl.launch={{profile: {profile}, num_processes: 2, threads: 1}}"
        done = r1pipe(
            folder,
            "run-all",
            "t.yaml",
            "--set",
            launch,
            "--set",
            f"stages.reasoning-rl.grpo.microbatch_tokens={tokens}",
            # packs alone would have it so: the same minibatches on both sides
            "--set",
            "stages.reasoning-rl.grpo.whole_groups=true",
            timeout=600,
        )
        log = folder / "runs/t/reasoning-rl/logs/attempt_1.log"
        assert done.returncode == 0, (
            done.stdout + done.stderr + (log.read_text()[-4000:] if log.exists() else "")
        )
        found.append(logged(folder))
    rows, packs = found
    assert len(rows) == len(packs) == 4
    assert ["completions/mean_length" in line for line in packs] == [True, False, True, False], (
        "one rollout for two minibatches"
    )
    for name in ("loss", "grad_norm", "kl", "entropy", "completions/mean_length"):
        found_in_rows, found_in_packs = (
            [line[name] for line in run if name in line] for run in (rows, packs)
        )
        assert found_in_packs == pytest.approx(found_in_rows, rel=2e-3, abs=2e-5), name
