"""Launch blocks that cannot work are mistakes of the config, each with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine import config

from r1pipe.config.loader import load
from r1pipe.errors import ConfigError

STAGE = (
    "stages:\n"
    "  r1-zero:\n"
    "    inputs: {model: 'embedded:base', prompts: ./p.jsonl}\n"
    "    outputs: {checkpoint: z}\n"
    "    grpo: GRPO\n"
    "    launch: LAUNCH\n"
)
RL = "{save_every: 5, phases: [{steps: 9, rewards: [{name: random}]}]ALSO}"


def said(folder: Path, launch: str, also: str = "") -> str:
    (folder / "p.jsonl").write_text('{"id": "0", "prompt": "1+1", "domain": "math", "answer": "2"}\n')
    with pytest.raises(ConfigError) as caught:
        load(config(folder, STAGE.replace("LAUNCH", launch).replace("GRPO", RL.replace("ALSO", also))))
    return str(caught.value)


@pytest.mark.parametrize(
    ("launch", "what", "fix"),
    [
        (
            "{profile: ddp, offload: optimizer}",
            "profile ddp cannot keep the optimizer alone in CPU memory",
            "zero1, zero2 or zero3; or offload: none",
        ),
        (
            "{profile: fsdp2, offload: optimizer}",
            "profile fsdp2 cannot keep the optimizer alone",
            "or offload: all",
        ),
        (
            "{profile: zero2, offload: all}",
            "profile zero2 holds the whole weights on every device",
            "zero3 or fsdp2; or offload: optimizer",
        ),
        ("{offload: all}", "profile process holds the whole weights", "or offload: none"),
        (
            "{profile: ddp, deepspeed: {zero_optimization: {}}}",
            "profile ddp does not read DeepSpeed's settings",
            "leave `deepspeed` out",
        ),
        (
            "{profile: zero2, deepspeed: {train_batch_size: 4}}",
            "`train_batch_size` follows from the stage's own config",
            "set batch_size",
        ),
        (
            "{profile: zero2, deepspeed: {zero_optimization: {stage: 3}}}",
            "zero_optimization.stage is set by the profile",
            "zero3",
        ),
        (
            "{profile: zero2, deepspeed: {zero_optimization: 3}}",
            "zero_optimization is a mapping",
            "reduce_bucket_size",
        ),
        ("{nodes: 2}", "profile process is for one machine", "nodes: 1"),
        ("{profile: ddp, hostfile: ./p.jsonl}", "a hostfile is for several machines", "nodes: 2 or more"),
        (
            "{profile: ddp, nodes: 2, hostfile: ./p.jsonl, slurm: {}}",
            "two ways to the same machines",
            "keep one",
        ),
        ("{profile: ddp, nodes: 2, hostfile: ./none}", "nothing is at './none'", "looked for"),
        ("{num_processes: 2}", "a training stage on several ranks needs a profile", "zero2"),
        (
            "{profile: fsdp2, num_processes: 2}",
            "profile fsdp2 cannot sample in the trainer",
            "zero2 or zero3; or rollout: vllm",
        ),
    ],
)
def test_refused(tmp_path: Path, launch: str, what: str, fix: str):
    message = said(tmp_path, launch)
    assert what in message and fix in message and "t.yaml:" in message


def test_refused_of_rl(tmp_path: Path):
    rolls = ", guards: {non_finite: {action: rollback, limit: 0}}"
    assert "non_finite rolls back, which works in one process so far" in said(
        tmp_path, "{profile: zero2, num_processes: 2}", rolls
    )
    adapter = ", rollout: vllm, lora: {r: 8}, beta: 0"
    assert "under fsdp2 an adapter cannot be merged" in said(
        tmp_path, "{profile: fsdp2, num_processes: 2}", adapter
    )
    assert "set ref_replace_every: null (KL to the base), or beta: 0" in said(
        tmp_path, "{}", ", lora: {r: 8}"
    )


@pytest.mark.parametrize(
    "launch",
    [
        "{profile: zero3, offload: all}",
        "{profile: zero1, offload: optimizer, deepspeed: {wall_clock_breakdown: true}}",
    ],
)
def test_taken(tmp_path: Path, launch: str):
    (tmp_path / "p.jsonl").write_text('{"id": "0", "prompt": "1+1", "domain": "math", "answer": "2"}\n')
    load(config(tmp_path, STAGE.replace("LAUNCH", launch).replace("GRPO", RL.replace("ALSO", ""))))


def test_a_hostfile_is_no_part_of_the_fingerprint(tmp_path: Path):
    from r1pipe.run.digests import Digests
    from r1pipe.run.fingerprints import Fingerprints
    from r1pipe.run.store import RunFolder

    (tmp_path / "hosts").write_text("a slots=1\nb slots=1\n")
    (tmp_path / "p.jsonl").write_text('{"id": "0", "prompt": "1+1", "domain": "math", "answer": "2"}\n')
    prints = []
    for launch in ("{}", "{profile: ddp, nodes: 2, hostfile: ./hosts}"):
        pipeline = load(
            config(tmp_path, STAGE.replace("LAUNCH", launch).replace("GRPO", RL.replace("ALSO", "")))
        )
        prints.append(Fingerprints(pipeline, Digests(RunFolder("t", tmp_path))).of("r1-zero"))
    assert prints[0] == prints[1]
