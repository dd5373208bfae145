"""Processes: ranks, environments, the fork server's rules, DeepSpeed on CPU ranks."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from engine import ROOT, alive, config, environment, r1pipe, rows, start, wait_for

from r1pipe import device, launch, profiles
from r1pipe.batches import split_batch
from r1pipe.environment import base_environment, rank_environment
from r1pipe.errors import ConfigError, InputError, MissingToolError
from r1pipe.forkserver import Client
from r1pipe.hosts import Host, commands, per_machine, read_hostfile
from r1pipe.profiles import PROFILES, deepspeed_config, profile_environment
from r1pipe.schema import Launch, Slurm
from r1pipe.slurm import MASTER, srun

TWO = "stages:\n  a: {kind: r1pipe_fakes.rows, outputs: {rows: first}, launch: {num_processes: 2, threads: 1}}\n"


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch):
    for module in (launch, profiles, __import__("r1pipe.environment", fromlist=["gpus"])):
        monkeypatch.setattr(module, "gpus", lambda: ("0", "1", "2", "3"))


def test_two_ranks_of_a_data_stage(tmp_path: Path):
    config(tmp_path, TWO)
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 0, done.stderr
    row = rows(tmp_path, "a")[0]
    assert row["world"] == 2 and row["environment"]["WORLD_SIZE"] == "2" and row["environment"]["MASTER_ADDR"] == "127.0.0.1"
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
    assert rank_environment(Launch(profile="zero2", num_processes=2), 1, 1, 2, 29500)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert launch.ranks(Launch(profile="zero2", num_processes="auto")).count == 4


def test_more_ranks_than_gpus_is_refused(four_gpus: None):
    with pytest.raises(MissingToolError, match="need as many GPUs"):
        launch.check_tools({"a": Launch(profile="ddp", num_processes=8)})


def test_fsdp_on_cpu_is_refused():
    with pytest.raises(MissingToolError, match="needs GPUs"):
        launch.check_tools({"a": Launch(profile="fsdp2", num_processes=2)})


def test_cores_are_shared_by_the_ranks(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "cpu_cores", lambda: 16)
    assert launch.ranks(Launch(num_processes=4)).threads == 4
    assert launch.ranks(Launch(num_processes=4, threads=3)).threads == 3
    assert launch.ranks(Launch(num_processes=32)).threads == 1


@pytest.mark.parametrize("profile", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_a_profile_gives_what_accelerate_s_launcher_would(profile: str, four_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """accelerate's own launcher, asked for its environment, is the reference."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = ["--config_file", str(PROFILES / f"{profile}.yaml"), "--num_processes", "2", "script.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    arguments.deepspeed_fields_from_accelerate_config = ""  # launch_command's own work; it matters only beside a DeepSpeed JSON
    theirs = prepare_deepspeed_cmd_env(arguments)[1] if profile.startswith("zero") else prepare_multi_gpu_env(arguments)
    ours = profile_environment(Launch(profile=profile), tmp_path)  # type: ignore[arg-type]
    assert ours.pop("R1PIPE_PROFILE") == profile
    if "ACCELERATE_DEEPSPEED_CONFIG_FILE" in ours:  # theirs is the file that ships, by its path from the checkout's root
        read = [json.loads(Path(ROOT, names["ACCELERATE_DEEPSPEED_CONFIG_FILE"]).read_text()) for names in (ours, theirs)]
        assert read[0] == read[1]
        ours["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = theirs["ACCELERATE_DEEPSPEED_CONFIG_FILE"]
    assert ours and {name: theirs.get(name) for name in ours} == ours
    # what they set beyond ours is neutral: defaults, threads, paths
    beyond = {name for name in theirs if name.startswith(("ACCELERATE_", "FSDP_")) and name not in ours and name not in os.environ}
    neutral = {"ACCELERATE_CONFIG_DS_FIELDS"} | {n for n in beyond if "DYNAMO" in n or theirs[n].lower() in ("none", "false", "full_shard", "backward_pre")}
    extra = beyond - neutral
    assert extra <= {"FSDP_USE_ORIG_PARAMS", "FSDP_SYNC_MODULE_STATES", "FSDP_MIN_NUM_PARAMS"}, {name: theirs[name] for name in extra}


def test_offload_and_overrides_are_laid_over_a_profile(four_gpus: None, tmp_path: Path):
    zero = {"reduce_bucket_size": 7, "leaf_module": {"classes": ["A"]}}
    made = deepspeed_config(Launch(profile="zero3", offload="all", deepspeed={"zero_optimization": zero, "wall_clock_breakdown": True}))
    shipped = json.loads((PROFILES / "zero3.json").read_text())
    to_cpu = {"device": "cpu", "pin_memory": True}
    assert made["zero_optimization"] == shipped["zero_optimization"] | zero | {"offload_optimizer": to_cpu, "offload_param": to_cpu}
    assert made["wall_clock_breakdown"] and made["gradient_clipping"] == "auto"
    assert "offload_param" not in deepspeed_config(Launch(profile="zero2", offload="optimizer"))["zero_optimization"]
    assert profile_environment(Launch(profile="fsdp2", offload="all"), tmp_path)["FSDP_OFFLOAD_PARAMS"] == "true"
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


ROW = '{"id": "0", "prompt": "1+1", "messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}], "domain": "math", "answer": "2"}\n'

# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_sizes():
    assert split_batch(128, 4, None, 12) == (8, 4)
    assert split_batch(128, 4, 16, 12) == (16, 2)
    with pytest.raises(ConfigError, match="nearest sizes: 126 and 129; or 2 ranks"):
        split_batch(128, 3, None, 12)
    with pytest.raises(ConfigError, match="nearest sizes: 96 and 144; or 2 ranks"):  # whole groups of 16 over 3 ranks
        split_batch(128, 3, None, 12, group=16)
    with pytest.raises(ConfigError, match="nearest sizes: 48"):
        split_batch(32, 3, None, 12, group=16)
    with pytest.raises(ConfigError, match="nearest: 4 or 8"):
        split_batch(16, 2, 6, 12)


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("cold-start: {inputs: {model: 'embedded:base', chats: ./c.jsonl}, outputs: {checkpoint: z}, sft: {batch_size: 9},", "nearest sizes: 8 and 10"),
        (
            "reasoning-rl: {inputs: {model: 'embedded:base', prompts: ./c.jsonl}, outputs: {checkpoint: z}, "
            "grpo: {batch_size: 9, num_generations: 3, phases: [{steps: 1, rewards: [{name: random}]}]},",
            "nearest sizes: 6 and 12",
        ),
        ("cold-start: {inputs: {model: 'embedded:base', chats: ./c.jsonl}, outputs: {checkpoint: z}, sft: {batch_size: 8, microbatch: 3},", "nearest: 2 or 4"),
    ],
)
def test_an_impossible_division_stops_the_run_before_anything_starts(tmp_path: Path, stage: str, says: str):
    (tmp_path / "c.jsonl").write_text(ROW)
    config(tmp_path, f"stages:\n  {stage} launch: {{profile: ddp, num_processes: 2}}}}\n")
    done = r1pipe(tmp_path, "run-all", "t.yaml")
    assert done.returncode == 2 and says in done.stderr.replace("\n", " ") and "stages." in done.stderr
    assert not (tmp_path / "runs/t").exists() or not list((tmp_path / "runs/t").glob("*/stage.json"))


# --- several machines -------------------------------------------------------------------------------------------------

MANY = Launch(profile="zero3", num_processes=8, nodes=4, slurm=Slurm(partition="gpu", time="10:00:00", extra=["--account=x"]))
MACHINES = "a slots=8\nb slots=8  # the second\n\nuser@c slots=8\nd slots=8\n"


def torchrun_arguments(command: str):
    """What torchrun's own parser reads in a command of ours, the shell's variables filled in."""
    from torch.distributed.run import get_args_parser

    words = shlex.split(command)
    start = words.index("torch.distributed.run") + 1
    return get_args_parser().parse_args(words[start:])


def assert_shell(script: str) -> None:
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""


def test_dry_run_prints_an_sbatch_and_a_hostfile_command_that_parse(tmp_path: Path):
    """4 x 8 GPUs; nothing of it needs Slurm, ssh or a GPU here."""
    (tmp_path / "c.jsonl").write_text(ROW)
    block = "launch: {profile: zero3, num_processes: 8, nodes: 4, slurm: {partition: gpu, time: '10:00:00', extra: ['--account=x']}}"
    inputs = "inputs: {model: 'embedded:base', chats: ./c.jsonl}, outputs: {checkpoint: z}"
    config(tmp_path, f"stages:\n  cold-start: {{{inputs}, {block}}}\n")
    done = r1pipe(tmp_path, "run-all", "t.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    job, hostfile = (done.stdout + done.stderr).split("cold-start: sbatch\n")[1].split("cold-start: hostfile\n")
    assert_shell(job)
    for line in ("--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--partition=gpu", "--time=10:00:00", "--account=x"):
        assert f"#SBATCH {line}\n" in job
    assert job.rstrip().endswith("r1pipe run-all t.yaml --only cold-start")
    assert_shell(hostfile)
    assert "r1pipe run-all t.yaml --set stages.cold-start.launch.hostfile=hosts" in hostfile and hostfile.count("slots=8") == 4
    runs = [torchrun_arguments(line) for line in hostfile.splitlines() if line.startswith("# node-")]
    assert [(run.nnodes, run.nproc_per_node, run.node_rank, run.master_addr) for run in runs] == [("4", "8", rank, "node-1") for rank in range(4)]
    assert runs[0].module and runs[0].training_script == "r1pipe.worker" and runs[0].training_script_args[0].endswith("runs/t/cold-start/stage.json")


def test_a_hostfile_becomes_one_torchrun_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1PIPE_SSH", "ssh -tt -p 2222")
    (tmp_path / "hosts").write_text(MACHINES)
    many = Launch(profile="zero3", num_processes="auto", nodes=4, hostfile=tmp_path / "hosts")
    made = commands(many, tmp_path / "a b.json", read_hostfile(tmp_path / "hosts", 4), {"ONE": "a b", "TWO": "2"})
    assert [command[:5] for command in made] == [["ssh", "-tt", "-p", "2222", host] for host in ("a", "b", "user@c", "d")]
    for rank, command in enumerate(made):
        assert_shell(command[5])
        run = torchrun_arguments(command[5])
        assert (run.nnodes, run.nproc_per_node, run.node_rank, run.master_addr) == ("4", "8", rank, "a")
        assert run.training_script_args == [str(tmp_path / "a b.json")] and "'ONE=a b'" in command[5]


@pytest.mark.parametrize(
    ("text", "says"), [("a slots=8\n", "names 1 machines"), ("a b c\nd\n", "is no machine"), ("a\na\n", "comes twice"), ("a slots=0\nb\n", "is no machine")]
)
def test_a_hostfile_that_cannot_be_used_is_refused(tmp_path: Path, text: str, says: str):
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(InputError, match=says):
        read_hostfile(tmp_path / "hosts", 2)


def test_machines_that_differ_in_slots_need_a_number(tmp_path: Path):
    (tmp_path / "hosts").write_text("a slots=8\nb slots=4\n")
    assert read_hostfile(tmp_path / "hosts", 2)[1] == Host("b", 4)
    with pytest.raises(InputError, match="differ in their slots"):
        per_machine(Launch(profile="ddp", nodes=2, num_processes="auto", hostfile=tmp_path / "hosts"))
    assert launch.world_size(Launch(profile="ddp", nodes=2, num_processes=4, hostfile=tmp_path / "hosts")) == 8
    (tmp_path / "hosts").write_text("a\nb\n")
    with pytest.raises(InputError, match="have no slots, and launch.num_processes says no number"):
        per_machine(Launch(profile="ddp", nodes=2, hostfile=tmp_path / "hosts"))


def test_several_machines_give_all_they_have_unless_a_number_is_stated(tmp_path: Path):
    """slots=8 and gpus_per_node were read by nobody: one rank a machine was the default."""
    (tmp_path / "hosts").write_text("a slots=8\nb slots=8\n")
    assert launch.world_size(Launch(profile="ddp", nodes=2, hostfile=tmp_path / "hosts")) == 16
    assert launch.world_size(Launch(profile="ddp", nodes=2, slurm=Slurm(gpus_per_node=4))) == 8
    assert launch.world_size(Launch(profile="ddp", nodes=2)) is None, "the Slurm job will know"
    assert launch.world_size(Launch(profile="ddp", nodes=2, num_processes=1, hostfile=tmp_path / "hosts")) == 2
    assert Launch().num_processes == 1 == Launch(profile="ddp").num_processes
    told = Launch(profile="ddp", nodes=2, slurm=Slurm())
    assert Launch.model_validate(told.model_dump(mode="json")) == told, "a worker reads the same"


def test_no_secret_goes_on_a_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from r1pipe.hosts import forwarded

    for name in ("HF_TOKEN", "HF_HOME", "NCCL_NVLS_ENABLE", "AWS_REGION", "VLLM_API_KEY", "CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "x")
    sent = forwarded(Launch(profile="ddp", nodes=2, num_processes=2), tmp_path)
    assert {"HF_HOME", "NCCL_NVLS_ENABLE", "TOKENIZERS_PARALLELISM", "PYTHONPATH", "PATH", "PYTORCH_ALLOC_CONF"} <= set(sent)
    assert not {"HF_TOKEN", "VLLM_API_KEY", "AWS_REGION", "CUDA_VISIBLE_DEVICES"} & set(sent)


def test_several_machines_without_slurm_or_a_hostfile_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="no Slurm allocation"):
        srun(MANY, tmp_path / "stage.json", tmp_path / "log")
    with pytest.raises(MissingToolError, match="no Slurm allocation"):
        launch.check_tools({"a": Launch(profile="ddp", nodes=2, num_processes=2)})


def test_inside_an_allocation_srun_starts_one_torchrun_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nenv\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert srun(MANY, tmp_path / "stage.json", tmp_path / "log").wait() == 0
    said = (tmp_path / "log").read_text()
    assert "--nodes=4\n--ntasks-per-node=1\n" in said
    line = next(line for line in said.splitlines() if "torch.distributed.run" in line)
    assert_shell(line)
    run = torchrun_arguments(line.replace("$SLURM_NODEID", "2").replace(MASTER, "first"))
    assert (run.nnodes, run.nproc_per_node, run.node_rank, run.master_addr) == ("4", "8", 2, "first")
    assert f"ACCELERATE_DEEPSPEED_CONFIG_FILE={tmp_path}/deepspeed.json" in said and "ACCELERATE_USE_DEEPSPEED=true" in said


def test_threads_are_those_of_the_allocation_where_only_it_knows_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All ranks of a machine had all of its cores each."""
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/sh\nshift 3\nexec "$@"\n')
    (tmp_path / "nproc").write_text("#!/bin/sh\necho ${OMP_NUM_THREADS:-12}\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho first\n")
    for tool in (fake, tmp_path / "nproc", tmp_path / "scontrol"):
        tool.chmod(0o755)
    (tmp_path / "python").write_text("#!/bin/sh\nenv\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_NODEID": "0", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NODELIST": "a"}.items():
        monkeypatch.setenv(name, value)
    for launched, threads in ((Launch(profile="ddp", nodes=2), "3"), (Launch(profile="ddp", nodes=2, threads=5), "5")):
        (tmp_path / "log").unlink(missing_ok=True)
        assert srun(launched, tmp_path / "stage.json", tmp_path / "log").wait() == 0
        assert f"OMP_NUM_THREADS={threads}\n" in (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_srun_ends_with_the_driver(tmp_path: Path):
    """After kill -9 of the driver inside salloc the ranks trained on."""
    fake = tmp_path / "srun"
    fake.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    fake.chmod(0o755)
    code = "from pathlib import Path; import sys, time; from r1pipe.schema import Launch; from r1pipe.slurm import srun; "
    code += "srun(Launch(profile='ddp', nodes=2, threads=1), Path(sys.argv[1]) / 'stage.json', Path(sys.argv[1]) / 'log'); time.sleep(60)"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment() | {"PATH": path, "SLURM_JOB_ID": "1"})
    pid = int(wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip(), 30))
    assert alive(pid)
    driver.kill()
    driver.wait(timeout=10)
    wait_for(lambda: not alive(pid), 10)


def test_gpus_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch):
    device.gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.gpus() == ()
    device.gpus.cache_clear()


# --- the fork server --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    os.environ.pop("R1PIPE_FORKSERVER", None)
    client = Client(environment() | base_environment() | {"PYTHONPATH": environment()["PYTHONPATH"]}, tmp_path_factory.mktemp("server") / "log")
    os.environ["R1PIPE_FORKSERVER"] = "always"
    try:
        assert client.usable()
        yield client
    finally:
        os.environ.pop("R1PIPE_FORKSERVER", None)
        client.close()


def told(folder: Path, kind: str, config_: dict | None = None) -> Path:
    """A stage.json as the driver writes it."""
    (folder / "workdir").mkdir(parents=True)
    (folder / "out/rows").mkdir(parents=True)
    stage = {
        "stage": "a",
        "kind": kind,
        "config": config_ or {},
        "inputs": {},
        "outputs": {"rows": {"type": "prompts", "name": "z", "path": str(folder / "out/rows")}},
        "workdir": str(folder / "workdir"),
        "metrics": str(folder / "metrics.jsonl"),
        "progress": str(folder / "progress.jsonl"),
        "resumed": False,
        "isolation": True,
        "search": [],
    }
    (folder / "stage.json").write_text(json.dumps(stage))
    return folder / "stage.json"


def forked(server: Client, folder: Path, kind: str, threads: int = 1, config_: dict | None = None) -> dict:
    child = server.fork(told(folder, kind, config_), {"OMP_NUM_THREADS": str(threads), "R1PIPE_TEST": "in the child"}, folder / "log")
    code = wait_for(lambda: (child.poll() is not None) and [child.poll()], 60)[0]
    assert code == 0, (folder / "log").read_text()
    return json.loads((folder / "out/rows/rows.jsonl").read_text().splitlines()[0])


def test_the_server_only_imports(server: Client):
    """One thread: no pool was started by a tensor operation, an allocator or a dataset."""
    assert server.ready is not None and server.ready["threads"] == 1
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libtorch" in maps
    assert not any("nvidia" in os.readlink(f"/proc/{server.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{server.pid}/fd"))


def test_a_fork_imports_nothing_more_sets_its_own_environment_and_computes_in_parallel(server: Client, tmp_path: Path):
    row = forked(server, tmp_path / "a", "r1pipe_fakes.torch_work", threads=2)
    assert row["was_imported"] and row["tables"] and row["environment"] == "in the child" and row["threads"] == 2
    assert row["parent"] == server.pid and row["seconds"] < 5
    assert forked(server, tmp_path / "b", "r1pipe_fakes.torch_work")["threads"] == 1
    assert len(os.listdir(f"/proc/{server.pid}/task")) == 1


def test_a_fork_computes_what_a_fresh_process_does(server: Client, tmp_path: Path):
    import subprocess
    import sys

    inside = forked(server, tmp_path / "a", "r1pipe_fakes.torch_work")
    fresh = environment() | base_environment() | {"PYTHONPATH": environment()["PYTHONPATH"], "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "r1pipe.worker", str(told(tmp_path / "b", "r1pipe_fakes.torch_work"))], env=fresh, check=True, capture_output=True)
    outside = json.loads((tmp_path / "b/out/rows/rows.jsonl").read_text().splitlines()[0])
    assert not outside["was_imported"]
    assert inside["result"] == outside["result"]


def test_a_failing_fork_leaves_the_server_alive(server: Client, tmp_path: Path):
    child = server.fork(told(tmp_path / "a", "r1pipe_fakes.rows", {"then": "kill"}), {"OMP_NUM_THREADS": "1"}, tmp_path / "log")
    assert wait_for(lambda: child.poll()) == -9
    assert server.alive()


def test_gpu_and_sharded_stages_do_not_fork(four_gpus: None):
    assert not launch._forkable(Launch())
    assert not launch._forkable(Launch(profile="zero2", num_processes=2))


def test_sharded_stages_do_not_fork_on_cpu_either():
    assert launch._forkable(Launch()) and launch._forkable(Launch(num_processes=2))
    assert not launch._forkable(Launch(profile="zero2", num_processes=2))


@pytest.mark.parametrize("number", [pytest.param(15, marks=pytest.mark.slow), 9])
def test_server_and_forks_end_with_the_driver(tmp_path: Path, number: int):
    text = "stages:\n  a: {kind: r1pipe_fakes.rows, outputs: {rows: a}}\n  b: {kind: r1pipe_fakes.rows, inputs: {source: a}, outputs: {rows: b}, then: sleep}\n"
    config(tmp_path, text)
    driver = start(tmp_path, "run-all", "t.yaml", R1PIPE_FORKSERVER="always")
    pid = int(wait_for(lambda: (tmp_path / "runs/t/b/workdir/pid.0").exists() and (tmp_path / "runs/t/b/workdir/pid.0").read_text(), 90))
    server = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "r1pipe.forkserver" in Path(f"/proc/{server}/cmdline").read_text()
    driver.send_signal(number)
    driver.communicate(timeout=30)
    wait_for(lambda: not alive(pid) and not alive(server), 5)


# --- DeepSpeed on two CPU ranks ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["ddp", "zero2", "zero3"])
def test_two_cpu_ranks_train_one_model(tmp_path: Path, tiny_checkpoint: Path, profile: str):
    pytest.importorskip("deepspeed")
    launch_ = f"launch: {{profile: {profile}, num_processes: 2}}"
    config(tmp_path, f"stages:\n  a: {{kind: r1pipe_fakes.train, inputs: {{model: {tiny_checkpoint}}}, outputs: {{checkpoint: z}}, {launch_}}}\n")
    done = r1pipe(tmp_path, "run-all", "t.yaml", timeout=600)  # the first use on a machine builds an operator
    assert done.returncode == 0, done.stderr
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "runs/t/a/out/checkpoint"
    before, after = AutoModelForCausalLM.from_pretrained(tiny_checkpoint), AutoModelForCausalLM.from_pretrained(out)
    AutoTokenizer.from_pretrained(out)
    shapes = {name: weight.shape for name, weight in after.state_dict().items()}
    assert shapes == {name: weight.shape for name, weight in before.state_dict().items()}
    assert any((weight != after.state_dict()[name]).any() for name, weight in before.state_dict().items())
    manifest = json.loads((tmp_path / "runs/t/a/manifest.json").read_text())
    assert manifest["metrics"]["ranks"] == 2


def test_the_root_of_the_checkout_is_where_profiles_are():
    assert PROFILES == ROOT / "configs/accelerate"
