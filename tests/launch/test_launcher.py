"""Processes: ranks, environments, the fork server's rules, DeepSpeed on CPU ranks."""

import json
import os
from pathlib import Path

import pytest
from engine import ROOT, ROW, config, r1pipe, rows

from r1pipe.config import machine as device
from r1pipe.config import profiles
from r1pipe.config.profiles import PROFILES, deepspeed_config, profile_environment
from r1pipe.errors import ConfigError, MissingToolError
from r1pipe.launch import environment as launch_environment
from r1pipe.launch import launcher as launch
from r1pipe.launch import preflight
from r1pipe.launch.environment import rank_environment
from r1pipe.schema import Launch
from r1pipe.schema.batches import split_batch

TWO = "stages:\n  a: {kind: r1pipe_fakes.rows, outputs: {rows: first}, launch: {num_processes: 2, threads: 1}}\n"


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch):
    for module in (launch, preflight, profiles, launch_environment):
        monkeypatch.setattr(module, "gpus", lambda: ("0", "1", "2", "3"))


def test_two_ranks_of_a_data_stage(tmp_path: Path):
    config(tmp_path, TWO)
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    row = rows(tmp_path, "a")[0]
    assert (
        row["world"] == 2
        and row["environment"]["WORLD_SIZE"] == "2"
        and row["environment"]["MASTER_ADDR"] == "127.0.0.1"
    )
    assert row["environment"]["OMP_NUM_THREADS"] == "1"
    assert (tmp_path / "runs/t/a/logs/attempt_1.rank1.log").exists()


def test_one_process_has_no_rank_variables(tmp_path: Path):
    """LOCAL_RANK=0 alone would make accelerate set up a process group."""
    config(tmp_path, TWO.replace("num_processes: 2, ", ""))
    assert r1pipe(tmp_path, "run-all", "t.yaml", RANK="5", WORLD_SIZE="9", LOCAL_RANK="5").returncode == 0
    assert set(rows(tmp_path, "a")[0]["environment"].values()) == {None, "1"}


def test_a_process_stage_sees_one_gpu(four_gpus: None):
    """TRL refuses several visible GPUs in one process."""
    assert rank_environment(Launch(), 0, 1, 1, 29500)["CUDA_VISIBLE_DEVICES"] == "0"
    assert rank_environment(Launch(num_processes=4), 2, 1, 4, 29500)["CUDA_VISIBLE_DEVICES"] == "2"
    assert (
        rank_environment(Launch(profile="zero2", num_processes=2), 1, 1, 2, 29500)["CUDA_VISIBLE_DEVICES"]
        == "0,1"
    )
    assert launch.ranks(Launch(profile="zero2", num_processes="auto")).count == 4


def test_more_ranks_than_gpus_is_refused(four_gpus: None):
    with pytest.raises(MissingToolError, match="need as many GPUs"):
        preflight.check_tools({"a": Launch(profile="ddp", num_processes=8)})


def test_fsdp_on_cpu_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "gpus", lambda: ())
    with pytest.raises(MissingToolError, match="needs GPUs"):
        preflight.check_tools({"a": Launch(profile="fsdp2", num_processes=2)})


def test_cores_are_shared_by_the_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "cpu_cores", lambda: 16)
    assert launch.ranks(Launch(num_processes=4)).threads == 4
    assert launch.ranks(Launch(num_processes=4, threads=3)).threads == 3
    assert launch.ranks(Launch(num_processes=32)).threads == 1


@pytest.mark.parametrize("profile", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_a_profile_gives_what_accelerate_s_launcher_would(
    profile: str, four_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """accelerate's own launcher, asked for its environment, is the reference."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = ["--config_file", str(PROFILES / f"{profile}.yaml"), "--num_processes", "2", "script.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    arguments.deepspeed_fields_from_accelerate_config = (
        ""  # launch_command's own work; it matters only beside a DeepSpeed JSON
    )
    theirs = (
        prepare_deepspeed_cmd_env(arguments)[1]
        if profile.startswith("zero")
        else prepare_multi_gpu_env(arguments)
    )
    ours = profile_environment(Launch(profile=profile), tmp_path)  # type: ignore[arg-type]
    if (
        "ACCELERATE_DEEPSPEED_CONFIG_FILE" in ours
    ):  # theirs is the file that ships, by its path from the checkout's root
        read = [
            json.loads(Path(ROOT, names["ACCELERATE_DEEPSPEED_CONFIG_FILE"]).read_text())
            for names in (ours, theirs)
        ]
        assert read[0] == read[1]
        ours["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = theirs["ACCELERATE_DEEPSPEED_CONFIG_FILE"]
    assert ours and {name: theirs.get(name) for name in ours} == ours
    # what they set beyond ours is neutral: defaults, threads, paths
    beyond = {
        name
        for name in theirs
        if name.startswith(("ACCELERATE_", "FSDP_")) and name not in ours and name not in os.environ
    }
    neutral = {"ACCELERATE_CONFIG_DS_FIELDS"} | {
        n
        for n in beyond
        if "DYNAMO" in n or theirs[n].lower() in ("none", "false", "full_shard", "backward_pre")
    }
    extra = beyond - neutral
    assert extra <= {"FSDP_USE_ORIG_PARAMS", "FSDP_SYNC_MODULE_STATES", "FSDP_MIN_NUM_PARAMS"}, {
        name: theirs[name] for name in extra
    }


def test_offload_and_overrides_are_laid_over_a_profile(four_gpus: None, tmp_path: Path):
    zero = {"reduce_bucket_size": 7, "leaf_module": {"classes": ["A"]}}
    made = deepspeed_config(
        Launch(
            profile="zero3",
            offload="all",
            deepspeed={"zero_optimization": zero, "wall_clock_breakdown": True},
        )
    )
    shipped = json.loads((PROFILES / "zero3.json").read_text())
    to_cpu = {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"] == shipped["zero_optimization"] | zero | {
        "offload_optimizer": to_cpu,
        "offload_param": to_cpu,
    }
    assert made["wall_clock_breakdown"] and made["gradient_clipping"] == "auto"
    assert (
        "offload_param"
        not in deepspeed_config(Launch(profile="zero2", offload="optimizer"))["zero_optimization"]
    )
    assert (
        profile_environment(Launch(profile="fsdp2", offload="all"), tmp_path)["FSDP_OFFLOAD_PARAMS"] == "true"
    )
    assert profile_environment(Launch(profile="fsdp2"), tmp_path)["FSDP_OFFLOAD_PARAMS"] == "false"


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_knows_every_setting_that_ships(stage: int):
    """An unknown key in zero_optimization is an error of DeepSpeed's own, but only once a model is prepared."""
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    shipped = deepspeed_config(Launch(profile=f"zero{stage}"))["zero_optimization"]  # type: ignore[arg-type]
    assert DeepSpeedZeroConfig(**shipped).stage == stage
    if stage == 3:
        assert shipped["stage3_gather_16bit_weights_on_model_save"], "else a checkpoint is saved in pieces"


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_sizes():
    assert split_batch(128, 4, None, 12) == (8, 4)
    assert split_batch(128, 4, 16, 12) == (16, 2)
    with pytest.raises(ConfigError, match="nearest sizes: 126 and 129; or 2 ranks"):
        split_batch(128, 3, None, 12)
    with pytest.raises(
        ConfigError, match="nearest sizes: 96 and 144; or 2 ranks"
    ):  # whole groups of 16 over 3 ranks
        split_batch(128, 3, None, 12, group=16)
    with pytest.raises(ConfigError, match="nearest sizes: 48"):
        split_batch(32, 3, None, 12, group=16)
    with pytest.raises(ConfigError, match="nearest: 4 or 8"):
        split_batch(16, 2, 6, 12)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (
            "cold-start: {inputs: {model: 'embedded:base', chats: ./c.jsonl}, outputs: {checkpoint: "
            "z}, sft: {max_length: 160, batch_size: 9},",
            "nearest sizes: 8 and 10",
        ),
        (
            "reasoning-rl: {inputs: {model: 'embedded:base', prompts: ./c.jsonl}, outputs: {checkpoint: z}, "
            "grpo: {batch_size: 9, num_generations: 3, "
            "phases: [{steps: 1, max_tokens: 80, rewards: [{name: random}]}]},",
            "nearest sizes: 6 and 12",
        ),
        (
            "cold-start: {inputs: {model: 'embedded:base', chats: ./c.jsonl}, outputs: {checkpoint: "
            "z}, sft: {max_length: 160, batch_size: 8, microbatch: 3},",
            "nearest: 2 or 4",
        ),
    ],
)
def test_an_impossible_division_stops_the_run_before_anything_starts(tmp_path: Path, stage: str, says: str):
    (tmp_path / "c.jsonl").write_text(ROW)
    config(tmp_path, f"stages:\n  {stage} launch: {{profile: ddp, num_processes: 2}}}}\n")
    done = r1pipe(tmp_path, "run-all", "t.yaml", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and says in done.stderr.replace("\n", " ") and "stages." in done.stderr
    assert not (tmp_path / "runs/t").exists() or not list((tmp_path / "runs/t").glob("*/stage.json"))


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch):
    device.gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.gpus() == ()
    device.gpus.cache_clear()


def test_sharded_stages_do_not_fork():
    assert launch._forkable(Launch()) and launch._forkable(Launch(num_processes=2))
    assert not launch._forkable(Launch(profile="zero2", num_processes=2))


# --- DeepSpeed on two CPU ranks ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["ddp", "zero2", "zero3"])
def test_two_cpu_ranks_train_one_model(tmp_path: Path, tiny_checkpoint: Path, profile: str):
    pytest.importorskip("deepspeed")
    launch_ = f"launch: {{profile: {profile}, num_processes: 2}}"
    config(
        tmp_path,
        f"stages:\n"
        f"  a: {{kind: r1pipe_fakes.train, inputs: {{model: {tiny_checkpoint}}}, outputs: "
        f"{{checkpoint: z}}, {launch_}}}\n",
    )
    done = r1pipe(tmp_path, "run-all", "t.yaml", timeout=600)  # the first use on a machine builds an operator
    assert done.returncode == 0, done.stderr
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "runs/t/a/out/checkpoint"
    before, after = (
        AutoModelForCausalLM.from_pretrained(tiny_checkpoint),
        AutoModelForCausalLM.from_pretrained(out),
    )
    AutoTokenizer.from_pretrained(out)
    shapes = {name: weight.shape for name, weight in after.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in before.state_dict().items()}
    assert any((weight != after.state_dict()[name]).any() for name, weight in before.state_dict().items())
    manifest = json.loads((tmp_path / "runs/t/a/manifest.json").read_text())
    assert manifest["metrics"]["ranks"] == 2


def test_the_root_of_the_checkout_is_where_profiles_are():
    assert PROFILES.samefile(ROOT / "configs/accelerate")
