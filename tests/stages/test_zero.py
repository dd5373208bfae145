"""The real training stages under every profile that CPU ranks can run.

Each writes a plain checkpoint, the same as without sharding. Slow: the ranks import TRL, and the first use on a machine
builds DeepSpeed's CPU operator. `make ranks` runs just these.
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from engine import config, r1pipe, start, wait_for

pytestmark = pytest.mark.slow

SFT = """
stages:
  cold-start:
    inputs: {model: MODEL, chats: ./chats.jsonl}
    outputs: {checkpoint: dev1}
    sft: {lr: 1.0e-2, batch_size: 4, max_length: 128, max_steps: 3, packing: false}
"""
RL = """
stages:
  reasoning-rl:
    inputs: {model: MODEL, prompts: ./prompts.jsonl, heldout: ./prompts.jsonl}
    outputs: {checkpoint: dev2}
    grpo:
      lr: 1.0e-2
      num_generations: 4
      batch_size: 16
      minibatches_per_rollout: 1
      ref_replace_every: 2
      eval_every: 2
      eval_prompts: PROMPTS
      keep: KEEP
      phases:
        - {steps: 2, max_tokens: 12, rewards: &rewards [{name: random}]}
        - {steps: 2, max_tokens: 16, temperature: 0.7, rewards: *rewards}
"""
LORA = "{r: 4, target_modules: [q_proj, v_proj]}"


def weights(checkpoint: Path) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()


def assert_trained_checkpoint(out: Path, before: Path, trained: tuple[str, ...] = ("",)) -> None:
    """A plain Hugging Face folder, whole, that loads, differs from where it began in what was trained, and answers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, new, old = AutoTokenizer.from_pretrained(out), weights(out), weights(before)
    assert {name: weight.shape for name, weight in new.items()} == {
        name: weight.shape for name, weight in old.items()
    }
    assert all(torch.isfinite(weight).all() for weight in new.values())
    moved = {name for name, weight in old.items() if (weight != new[name]).any()}
    assert moved == {name for name in old if name.endswith(trained)}, (
        "what is trained, on whichever rank its shard lay"
    )
    ids = tokenizer("1 + 2", return_tensors="pt")
    assert (
        AutoModelForCausalLM.from_pretrained(out).generate(**ids, max_new_tokens=2, do_sample=False).shape[1]
        > ids["input_ids"].shape[1]
    )
    assert not list(out.glob("adapter*"))


def write_chats(folder: Path, count: int = 12) -> None:
    """Rows of different lengths, so that a rank's mean is not the batch's."""
    rows = []
    for i in range(count):
        answer = f"<think>{' + '.join('1' * (1 + i % 5))} = {1 + i % 5}</think>{1 + i % 5}"
        messages = [{"role": "user", "content": f"what is {i} ?"}, {"role": "assistant", "content": answer}]
        rows.append(
            json.dumps({"id": str(i), "messages": messages, "domain": "math", "source": "sampled"}) + "\n"
        )
    (folder / "chats.jsonl").write_text("".join(rows))


def write_prompts(folder: Path) -> None:
    lines = [
        json.dumps({"id": str(i), "prompt": f"what is {i} + 2 ?", "domain": "math", "answer": str(i + 2)})
        + "\n"
        for i in range(8)
    ]
    (folder / "prompts.jsonl").write_text("".join(lines))


def run(folder: Path, text: str, stage: str, profile: str, ranks: int = 2) -> dict[str, Any]:
    """The manifest of a run."""
    pytest.importorskip("deepspeed")
    config(folder, text)
    done = r1pipe(
        folder,
        "run-all",
        "t.yaml",
        "--set",
        f"stages.{stage}.launch={{profile: {profile}, num_processes: {ranks}, threads: 1}}",
        timeout=600,
    )
    log = folder / f"runs/t/{stage}/logs/attempt_1.log"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-4000:] if log.exists() else "")
    return json.loads((folder / f"runs/t/{stage}/manifest.json").read_text())


def losses(folder: Path, stage: str) -> list[float]:
    return [
        line["loss"]
        for line in map(json.loads, (folder / f"runs/t/{stage}/metrics.jsonl").read_text().splitlines())
        if "loss" in line
    ]


@pytest.fixture(scope="module")
def unsharded(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """cold-start in one process."""
    folder = tmp_path_factory.mktemp("unsharded")
    write_chats(folder)
    manifest = run(folder, SFT.replace("MODEL", str(tiny_checkpoint)), "cold-start", "process", 1)
    assert manifest["launched"] == {
        "profile": "process",
        "world_size": 1,
        "zero_stage": 0,
        "microbatch": 4,
        "accumulation": 1,
        "bf16": False,
        "device": "cpu",
    }
    return folder


@pytest.mark.parametrize("profile", ["ddp", "zero1", "zero2", "zero3"])
def test_cold_start_is_the_unsharded_one(
    tmp_path: Path, tiny_checkpoint: Path, unsharded: Path, profile: str
) -> None:
    """The same losses, and weights that moved to the same place: what differs is the order of sums."""
    write_chats(tmp_path)
    manifest = run(tmp_path, SFT.replace("MODEL", str(tiny_checkpoint)), "cold-start", profile)
    assert manifest["metrics"]["steps"] == 3 and manifest["metrics"]["rows"] == 12
    launched = manifest["launched"]
    stage = int(profile[-1]) if profile != "ddp" else 0
    assert (
        launched["world_size"],
        launched["microbatch"],
        launched["accumulation"],
        launched["zero_stage"],
    ) == (
        2,
        2,
        1,
        stage,
    )
    out = tmp_path / "runs/t/cold-start/out/checkpoint"
    assert_trained_checkpoint(out, tiny_checkpoint)
    assert losses(tmp_path, "cold-start") == pytest.approx(losses(unsharded, "cold-start"), abs=1e-4)
    start_, one, other = (
        weights(tiny_checkpoint),
        weights(unsharded / "runs/t/cold-start/out/checkpoint"),
        weights(out),
    )
    for name in (
        one
    ):  # Adam divides by the size of a gradient, so where that is rounding, it is rounding that is followed
        assert (one[name] - other[name]).norm() < 0.02 * (one[name] - start_[name]).norm(), name


def test_packed_cold_start_under_zero3_is_the_unsharded_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Packs balanced over the ranks, and an output layer that is gathered for a loss which never calls it."""
    text = SFT.replace("MODEL", str(tiny_checkpoint)).replace("packing: false", "pack_tokens: 96")
    for name, profile, ranks in (("one", "process", 1), ("two", "zero3", 2)):
        (tmp_path / name).mkdir()
        write_chats(tmp_path / name)
        run(tmp_path / name, text, "cold-start", profile, ranks)
    assert losses(tmp_path / "two", "cold-start") == pytest.approx(
        losses(tmp_path / "one", "cold-start"), abs=1e-4
    )
    start_, one, other = (
        weights(tiny_checkpoint),
        *(weights(tmp_path / name / "runs/t/cold-start/out/checkpoint") for name in ("one", "two")),
    )
    for name in one:
        assert (one[name] - other[name]).norm() < 0.02 * (one[name] - start_[name]).norm(), name


REWARD_MODEL = """
stages:
  STAGE:
    inputs: {model: MODEL, PORT: ./rows.jsonl}
    outputs: {reward_model: rm}
    rm: {lr: 1.0e-3, batch_size: 4, max_length: 128, epochs: 2, heldout: 0.2}
"""


@pytest.mark.parametrize(("stage", "port"), [("helpful-rm", "pairs"), ("safety-rm", "labels")])
def test_zero3_reward_models_are_the_unsharded_ones(
    tmp_path: Path, tiny_checkpoint: Path, stage: str, port: str
) -> None:
    """From one head: where the checkpoint has none, each way of loading draws another."""
    import torch
    from safetensors.torch import load_file, save_file

    with_head = tmp_path / "with-head"
    shutil.copytree(tiny_checkpoint, with_head)
    weights = load_file(with_head / "model.safetensors")
    head_1H = 0.02 * torch.randn(
        1, weights["model.norm.weight"].shape[0], generator=torch.Generator().manual_seed(0)
    )
    save_file(weights | {"score.weight": head_1H}, with_head / "model.safetensors", {"format": "pt"})
    found = []
    for profile, ranks in (("process", 1), ("zero3", 2)):
        folder = tmp_path / profile
        folder.mkdir()
        pairs = [
            {
                "id": str(i),
                "prompt": f"q{i}",
                "chosen": f"yes {i}",
                "rejected": "no " * (1 + i % 4),
                "domain": "general",
            }
            for i in range(20)
        ]
        labels = [
            {
                "id": str(i),
                "prompt": f"q{i}",
                "response": "no " * (1 + i % 4),
                "safe": i % 2,
                "domain": "harmful",
            }
            for i in range(20)
        ]
        (folder / "rows.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in (pairs if port == "pairs" else labels))
        )
        text = REWARD_MODEL.replace("MODEL", str(with_head)).replace("STAGE", stage).replace("PORT", port)
        assert run(folder, text, stage, profile, ranks)["launched"]["zero_stage"] == (
            3 if profile == "zero3" else 0
        )
        calibration = json.loads((folder / f"runs/t/{stage}/out/reward_model/calibration.json").read_text())
        found.append([*losses(folder, stage), calibration["m"], calibration["d"]])
    assert len(found[0]) == 8 + 2 and found[1] == pytest.approx(found[0], abs=1e-3)


DPO = """
stages:
  dpo:
    inputs: {model: MODEL, pairs: ./rows.jsonl}
    outputs: {checkpoint: better}
    dpo: {lr: 1.0e-3, batch_size: 4, max_length: 128, epochs: 2, heldout: 0.2}
"""


@pytest.mark.parametrize("profile", ["ddp", "zero3"])
def test_dpo_over_two_ranks_is_that_of_one(tmp_path: Path, tiny_checkpoint: Path, profile: str) -> None:
    """The reference is sharded, too."""
    found = []
    for name, ranks in (("process", 1), (profile, 2)):
        folder = tmp_path / name
        folder.mkdir()
        with (folder / "rows.jsonl").open("w") as stream:
            for i in range(20):
                row = {"id": str(i), "prompt": f"q{i}", "chosen": f"yes {i}", "rejected": "no " * (1 + i % 4)}
                stream.write(json.dumps({**row, "domain": "general"}) + "\n")
        run(folder, DPO.replace("MODEL", str(tiny_checkpoint)), "dpo", name, ranks)
        found.append(losses(folder, "dpo"))
    assert len(found[0]) == 8 and found[1] == pytest.approx(found[0], abs=1e-3)


@pytest.mark.parametrize(("keep", "prompts"), [("last", 5), ("best", 1)])
def test_zero3_reasoning_rl(tmp_path: Path, tiny_checkpoint: Path, keep: str, prompts: int) -> None:
    """Generation, the reference's replacement, both phases.

    One held-out prompt leaves a rank without any, so the ranks' responses differ in length.
    """
    write_prompts(tmp_path)
    text = RL.replace("MODEL", str(tiny_checkpoint)).replace("KEEP", keep).replace("PROMPTS", str(prompts))
    manifest = run(tmp_path, text, "reasoning-rl", "zero3")
    assert manifest["metrics"]["steps"] == 4 and manifest["metrics"]["heldout_tokens"] > 0
    assert (
        manifest["launched"]["world_size"],
        manifest["launched"]["microbatch"],
        manifest["launched"]["zero_stage"],
    ) == (2, 8, 3)
    kl = {
        line["step"]: line["kl"]
        for line in map(json.loads, (tmp_path / "runs/t/reasoning-rl/metrics.jsonl").read_text().splitlines())
        if "kl" in line
    }
    assert kl[2] > 0.001 and kl[2] > 10 * kl[3], "the reference becomes the policy after update 2"
    assert_trained_checkpoint(tmp_path / "runs/t/reasoning-rl/out/checkpoint", tiny_checkpoint)


def test_zero3_lora_reasoning_rl(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The adapter's shards are gathered, and the best policy's is merged into the base."""
    write_prompts(tmp_path)
    text = RL.replace("MODEL", str(tiny_checkpoint)).replace("KEEP", "best").replace("PROMPTS", "3")
    text = text.replace("ref_replace_every: 2", f"ref_replace_every: null\n      lora: {LORA}")
    run(tmp_path, text, "reasoning-rl", "zero3")
    assert_trained_checkpoint(
        tmp_path / "runs/t/reasoning-rl/out/checkpoint", tiny_checkpoint, ("q_proj.weight", "v_proj.weight")
    )


def test_zero2_lora_cold_start(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write_chats(tmp_path)
    run(
        tmp_path,
        SFT.replace("MODEL", str(tiny_checkpoint)).replace("max_steps: 3", f"max_steps: 3, lora: {LORA}"),
        "cold-start",
        "zero2",
    )
    assert_trained_checkpoint(
        tmp_path / "runs/t/cold-start/out/checkpoint", tiny_checkpoint, ("q_proj.weight", "v_proj.weight")
    )


def test_zero3_experts(tmp_path: Path) -> None:
    """A layer's experts lie on both ranks, and each rank's tokens ask for others of them."""
    from test_moe import assert_trained, make_moe

    base = make_moe("deepseek-v3", tmp_path / "base")
    write_chats(tmp_path)
    run(tmp_path, SFT.replace("MODEL", str(base)), "cold-start", "zero3")
    assert_trained(base, tmp_path / "runs/t/cold-start/out/checkpoint")


def test_a_checkpoint_goes_on_with_fewer_ranks_under_ddp_and_not_under_zero(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Killed with two ranks. ddp goes on with one from the trainer's checkpoint; ZeRO's is cut by rank, and says so."""
    write_chats(tmp_path)
    text = SFT.replace("MODEL", str(tiny_checkpoint)).replace("max_steps: 3", "max_steps: 60, save_every: 2")
    for profile in ("ddp", "zero2"):
        folder = tmp_path / profile
        folder.mkdir()
        write_chats(folder)
        config(folder, text)
        launched = f"stages.cold-start.launch={{profile: {profile}, num_processes: RANKS, threads: 1}}"
        driver = start(folder, "run-all", "t.yaml", "--set", launched.replace("RANKS", "2"))
        saved = folder / "runs/t/cold-start/workdir/trainer"
        wait_for(lambda saved=saved: [p for p in saved.glob("checkpoint-*/trainer_state.json")], 300)
        driver.send_signal(signal.SIGINT)
        driver.communicate(timeout=60)
        done = r1pipe(folder, "run-all", "t.yaml", "--set", launched.replace("RANKS", "1"), timeout=600)
        if profile == "ddp":
            assert done.returncode == 0, done.stderr
            lines = [
                json.loads(line)
                for line in (folder / "runs/t/cold-start/metrics.jsonl").read_text().splitlines()
            ]
            resumed = [line for line in lines if "launched" in line][-1]
            assert resumed["step"] >= 2 and resumed["launched"]["world_size"] == 1
            assert [line["step"] for line in lines if "loss" in line][-1] == 60
        else:
            assert (
                done.returncode == 2
                and "sharded for 2 ranks under zero2; 1 ranks under zero2" in done.stderr.replace("\n", " ")
            ), done.stderr
            assert list(saved.glob("checkpoint-*")), "nothing is lost: two ranks can still go on"


def test_zero3_reasoning_rl_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    """Killed with SIGKILL on two ranks, with a checkpoint in the middle of a rollout behind it.

    The same samples (token counts and rewards are those of the same responses), and losses and weights within 1e-5.
    """
    import torch

    text = RL.replace("MODEL", str(tiny_checkpoint)).replace("KEEP", "last").replace("PROMPTS", "3")
    text = text.replace("minibatches_per_rollout: 1", "minibatches_per_rollout: 2\n      save_every: 1")
    text = text.replace("steps: 2,", "steps: 4,").replace("ref_replace_every: 2", "ref_replace_every: 3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_prompts(folder)
    run(whole, text, "reasoning-rl", "zero3")

    config(killed, text)
    launched = "stages.reasoning-rl.launch={profile: zero3, num_processes: 2, threads: 1}"
    driver = start(killed, "run-all", "t.yaml", "--set", launched)
    saved = killed / "runs/t/reasoning-rl/workdir/trainer"
    wait_for(lambda: list(saved.glob("checkpoint-[35]/whole.json")), 400)
    driver.kill()
    driver.communicate(timeout=60)
    done = r1pipe(killed, "run-all", "t.yaml", "--set", launched, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((killed / "runs/t/reasoning-rl/manifest.json").read_text())["attempts"] == 2

    found, wanted = updates(killed), updates(whole)
    assert [line["step"] for line in found] == [line["step"] for line in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    one, other = (weights(folder / "runs/t/reasoning-rl/out/checkpoint") for folder in (killed, whole))
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in other)


def updates(folder: Path) -> list[dict[str, float]]:
    """The numbers of each update of RL: losses, rewards, lengths, the place in the schedule. No seconds."""
    lines = map(json.loads, (folder / "runs/t/reasoning-rl/metrics.jsonl").read_text().splitlines())
    timed = ("time", "tokens_per_second", "step_time", "mfu", "peak_memory_gib")
    return [
        {
            name: value
            for name, value in line.items()
            if isinstance(value, int | float) and name not in timed and not name.startswith("seconds/")
        }
        for line in lines
        if "loss" in line
    ]
