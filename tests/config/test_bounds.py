"""Numbers that no stage could work with, and options that no library has, are refused when the config is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from engine import environment

from r1pipe.config.loader import load
from r1pipe.errors import ConfigError
from r1pipe.schema import GRPOParams

CONFIG = """
stages:
  exam: {kind: prompts, source: [{world: math, count: 8}], outputs: {prompts: exam}}
  rl:
    kind: reasoning-rl
    inputs: {model: embedded:base, prompts: exam}
    outputs: {checkpoint: dev2}
    grpo:
      phases: [{steps: 1, rewards: [{name: format}]}]
  helpful: {kind: helpful-rm, inputs: {model: dev2, pairs: none}, outputs: {reward_model: rm}}
  safe: {kind: safety-rm, inputs: {model: dev2, labels: none}, outputs: {reward_model: rm2}}
  sft: {kind: cold-start, inputs: {model: dev2, chats: none}, outputs: {checkpoint: dev3}}
"""


def mistakes(folder: Path, *sets: str) -> str:
    (folder / "c.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError) as refused:
        load(folder / "c.yaml", [f"stages.{statement}" for statement in sets])
    return str(refused.value)


@pytest.mark.parametrize(
    "statement",
    [
        "exam.source.0.count=10000000000",
        "exam.source.0.count=-1",
        "exam.seed=-1",
        "exam.seed=2147483648",
        "sft.sft.lr=1e30",
        "sft.sft.lr=.inf",
        "sft.sft.lr=0",
        "sft.sft.adam_betas=[1.0, 0.9]",
        "sft.sft.adam_betas=[0.9, -0.1]",
        "sft.sft.weight_decay=2",
        "sft.sft.trl.adam_epsilon=0",
        "sft.sft.max_grad_norm=.inf",
        "sft.sft.epochs=1e9",
        "sft.sft.batch_size=1000000000000",
        "sft.sft.save_minutes=.inf",
        "rl.grpo.epsilon=1e9",
        "rl.grpo.phases.0.temperature=1000",
        "rl.grpo.phases.0.temperature=.inf",
        "rl.grpo.phases.0.steps=1000000000000",
        "rl.grpo.num_generations=1000000",
        "rl.launch.num_processes=100000",
    ],
)
def test_a_number_out_of_bounds_is_refused_where_it_stands(tmp_path: Path, statement: str) -> None:
    field = statement.partition("=")[0].rpartition(".")[2]
    line = next(part for part in mistakes(tmp_path, statement).split("\n") if statement in part)
    assert field in line.replace(statement, "")


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("sft.sft.trl={neftune_noise_alhpa: 5}", "sft.sft.trl has no option 'neftune_noise_alhpa'; did you mean"),
        ("sft.sft.trl={num_generations: 5}", "sft.sft.trl has no option 'num_generations'"),
        ("rl.grpo.trl={padding_free: true}", "rl.grpo.trl has no option 'padding_free'"),
        ("helpful.rm.trl={top_k: 5}", "helpful.rm.trl has no option 'top_k'"),
        ("safe.rm.trl={center_rewards_coefficient: 5}", "safe.rm.trl has no option 'center_rewards_coefficient'"),
        ("sft.sft.lora={rank: 5}", "sft.sft.lora has no option 'rank'"),
        ("sft.sft.trl={_n_gpu: 5}", "sft.sft.trl has no option '_n_gpu'"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_refused_when_the_config_is_read(
    tmp_path: Path, statement: str, what: str
) -> None:
    assert what in mistakes(tmp_path, statement)


def test_what_a_library_has_is_taken_and_what_a_field_sets_is_said_once(tmp_path: Path) -> None:
    said = mistakes(
        tmp_path,
        "sft.sft.trl={neftune_noise_alpha: 5, lr_scheduler_type: linear}",
        "sft.sft.lora={r: 5, target_modules: all-linear}",
        "rl.grpo.trl={learning_rate: 1, delta: 5}",
        "helpful.rm.trl={center_rewards_coefficient: 5}",
    )
    assert "has no option" not in said and said.count("learning_rate shadows") == 1


def test_reading_options_imports_no_torch() -> None:
    code = "import sys; from r1pipe.config.library_options import options; assert options(sys.argv[1])"
    code += "; assert not {'torch', 'trl', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code, GRPOParams.trl_config], check=True, env=environment())
