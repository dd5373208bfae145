"""configs/gsm8k.yaml from the command line: real problems, instructions, comparisons, labels; a tiny random base.

A few updates of random weights teach nothing. The point is that every stage takes real rows and writes what the next
one reads.
"""

from __future__ import annotations

import gzip
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from engine import ROOT, r1pipe

pytestmark = pytest.mark.slow

GSM8K = str(ROOT / "configs" / "gsm8k.yaml")
# A random base never ends a response by itself, so its responses are as long as they may be: keep them short.
SHORT = [
    "stages.reasoning-prompts.source.count=96",
    "stages.exam.source.count=200",
    "stages.cold-start-data.sampling.max_tokens=12",
    "stages.rejection-sampling.sampling.max_tokens=12",
    *(
        f"stages.evaluate-{name}.passes.0.sampling={{max_tokens: 6, batch_size: 64}}"
        for name in ("base", "zero", "dev1", "dev2", "dev3", "r1", "distill", "zero-student")
    ),
    *(
        f"stages.{name}.grpo.phases.0.max_tokens=12"
        for name in ("r1-zero", "reasoning-rl", "alignment-rl", "student-rl")
    ),
    "stages.alignment-rl.grpo.phases.1.max_tokens=12",
]


@pytest.fixture
def base(tmp_path: Path, shared_data: Path) -> Path:
    """A Qwen2 with random weights; its tokenizer is trained on GSM8K's text."""
    make = runpy.run_path(str(ROOT / "tests" / "conftest.py"))["make_tiny_checkpoint"]
    with gzip.open(shared_data / "gsm8k_train.jsonl.gz", "rt", encoding="utf8") as stream:
        rows = [json.loads(line) for line in stream]
    return make(
        tmp_path / "base", [f"{row['problem']}\n{row['solution']}" for row in rows[:2000]], vocab_size=2000
    )


def run(
    folder: Path, base: Path, data: Path, *arguments: str, command: tuple[str, ...] = ("run-all", GSM8K)
) -> Any:
    sets = [word for statement in SHORT for word in ("--set", statement)]
    return r1pipe(
        folder,
        *command,
        *sets,
        *arguments,
        timeout=900,
        R1_BASE=str(base),
        R1_DATA=str(data),
        R1PIPE_FORKSERVER="1",
    )


def test_every_stage_on_real_data(tmp_path: Path, base: Path, shared_data: Path) -> None:
    done = run(tmp_path, base, shared_data)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    summary = json.loads((tmp_path / "runs/gsm8k/summary.json").read_text())
    assert {stage["state"] for stage in summary["stages"]} == {"done"}
    for name in ("base", "zero", "dev1", "dev2", "dev3", "r1", "r1-distill-student", "zero-student"):
        suite = summary["scores"][name]["word-problems"]
        assert suite["n"] == 200 and 0 <= suite["pass@1"] < 0.1, (
            "a part of GSM8K's test problems, answered by chance"
        )
    chats = [
        json.loads(line)
        for line in (tmp_path / "runs/gsm8k/cold-start-data/out/chats/rows.jsonl").read_text().splitlines()
    ]
    assert {row["source"] for row in chats} == {"reuse"} and len(chats) > 48
    labels = [
        json.loads(line)
        for line in (tmp_path / "runs/gsm8k/preference-data/out/labels/rows.jsonl").read_text().splitlines()
    ]
    assert {row["safe"] for row in labels} == {0, 1}


def test_without_reuse_nothing_is_kept_and_the_run_says_why(
    tmp_path: Path, base: Path, shared_data: Path
) -> None:
    done = run(
        tmp_path,
        base,
        shared_data,
        "--set",
        "stages.cold-start-data.reuse=false",
        command=("run-stage", "cold-start", "--upstream", "-c", GSM8K),
    )
    assert done.returncode == 2, done.stderr[-4000:]
    assert "0 of 96 responses kept" in done.stderr and "cut off" in done.stderr and "reuse" in done.stderr
    assert not (tmp_path / "runs/gsm8k/cold-start/manifest.json").exists()
