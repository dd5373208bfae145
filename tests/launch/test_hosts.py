"""Several machines: hostfiles, Slurm, what goes over ssh."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from engine import ROW, alive, config, environment, r1pipe, wait_for

from r1pipe.errors import ConfigError, InputError, MissingToolError
from r1pipe.launch import launcher as launch
from r1pipe.launch import preflight
from r1pipe.launch.hosts import Host, commands, per_machine, read_hostfile
from r1pipe.launch.slurm import MASTER, srun
from r1pipe.schema import Launch, Slurm

MANY = Launch(
    profile="zero3",
    num_processes=8,
    nodes=4,
    slurm=Slurm(partition="gpu", time="10:00:00", extra=["--account=x"]),
)
MACHINES = "a slots=8\nb slots=8  # the second\n\nuser@c slots=8\nd slots=8\n"


def torchrun_arguments(command: str):
    """What torchrun's own parser reads in a command of ours, the shell's variables filled in."""
    from torch.distributed.run import get_args_parser

    words = shlex.split(command)
    start = words.index("torch.distributed.run") + 1
    return get_args_parser().parse_args(words[start:])


def assert_shell(script: str) -> None:
    assert (
        subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""
    )


def test_dry_run_prints_an_sbatch_and_a_hostfile_command_that_parse(tmp_path: Path):
    """4 x 8 GPUs; nothing of it needs Slurm, ssh or a GPU here."""
    (tmp_path / "c.jsonl").write_text(ROW)
    block = (
        "launch: {profile: zero3, num_processes: 8, nodes: 4, slurm: {partition: gpu, time: "
        "'10:00:00', extra: ['--account=x']}}"
    )
    inputs = (
        "inputs: {model: 'embedded:base', chats: ./c.jsonl}, outputs: {checkpoint: z}, sft: {max_length: 160}"
    )
    config(tmp_path, f"stages:\n  cold-start: {{{inputs}, {block}}}\n")
    done = r1pipe(tmp_path, "run-all", "t.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    job, hostfile = (
        (done.stdout + done.stderr).split("cold-start: sbatch\n")[1].split("cold-start: hostfile\n")
    )
    assert_shell(job)
    for line in (
        "--nodes=4",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--partition=gpu",
        "--time=10:00:00",
        "--account=x",
        "--signal=B:TERM@120",
    ):
        assert f"#SBATCH {line}\n" in job
    assert job.rstrip().endswith("\nexec r1pipe run-all t.yaml --only cold-start"), (
        "the shell would keep the signal"
    )
    assert_shell(hostfile)
    assert (
        "r1pipe run-all t.yaml --set stages.cold-start.launch.hostfile=hosts" in hostfile
        and hostfile.count("slots=8") == 4
    )
    runs = [torchrun_arguments(line) for line in hostfile.splitlines() if line.startswith("# node-")]
    assert [(run.nnodes, run.nproc_per_node, run.node_rank, run.master_addr) for run in runs] == [
        ("4", "8", rank, "node-1") for rank in range(4)
    ]
    assert (
        runs[0].module
        and runs[0].training_script == "r1pipe.launch.worker"
        and runs[0].training_script_args[0].endswith("runs/t/cold-start/stage.json")
    )


def test_a_hostfile_becomes_one_torchrun_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("R1PIPE_SSH", "ssh -tt -p 2222")
    (tmp_path / "hosts").write_text(MACHINES)
    many = Launch(profile="zero3", num_processes="auto", nodes=4, hostfile=tmp_path / "hosts")
    made = commands(
        many, tmp_path / "a b.json", read_hostfile(tmp_path / "hosts", 4), {"ONE": "a b", "TWO": "2"}
    )
    assert [command[:5] for command in made] == [
        ["ssh", "-tt", "-p", "2222", host] for host in ("a", "b", "user@c", "d")
    ]
    for rank, command in enumerate(made):
        assert_shell(command[5])
        run = torchrun_arguments(command[5])
        assert (run.nnodes, run.nproc_per_node, run.node_rank, run.master_addr) == ("4", "8", rank, "a")
        assert run.training_script_args == [str(tmp_path / "a b.json")] and "'ONE=a b'" in command[5]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a slots=8\n", "names 1 machines"),
        ("a b c\nd\n", "is not a machine"),
        ("a\na\n", "lists .a. twice"),
        ("a slots=0\nb\n", "is not a machine"),
    ],
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
    assert (
        launch.world_size(Launch(profile="ddp", nodes=2, num_processes=4, hostfile=tmp_path / "hosts")) == 8
    )
    (tmp_path / "hosts").write_text("a\nb\n")
    with pytest.raises(InputError, match="have no slots, and launch.num_processes is not a number"):
        per_machine(Launch(profile="ddp", nodes=2, hostfile=tmp_path / "hosts"))


def test_several_machines_give_all_they_have_unless_a_number_is_stated(tmp_path: Path):
    """slots=8 and gpus_per_node were read by nobody: one rank a machine was the default."""
    (tmp_path / "hosts").write_text("a slots=8\nb slots=8\n")
    assert launch.world_size(Launch(profile="ddp", nodes=2, hostfile=tmp_path / "hosts")) == 16
    assert launch.world_size(Launch(profile="ddp", nodes=2, slurm=Slurm(gpus_per_node=4))) == 8
    assert launch.world_size(Launch(profile="ddp", nodes=2)) is None, "the Slurm job will know"
    assert (
        launch.world_size(Launch(profile="ddp", nodes=2, num_processes=1, hostfile=tmp_path / "hosts")) == 2
    )
    assert Launch().num_processes == 1 == Launch(profile="ddp").num_processes
    told = Launch(profile="ddp", nodes=2, slurm=Slurm())
    assert Launch.model_validate(told.model_dump(mode="json")) == told, "a worker reads the same"


def test_no_secret_goes_on_a_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from r1pipe.launch.hosts import forwarded

    for name in (
        "HF_TOKEN",
        "HF_HOME",
        "NCCL_NVLS_ENABLE",
        "AWS_REGION",
        "VLLM_API_KEY",
        "CUDA_VISIBLE_DEVICES",
        "PYTORCH_ALLOC_CONF",
    ):
        monkeypatch.setenv(name, "x")
    sent = forwarded(Launch(profile="ddp", nodes=2, num_processes=2), tmp_path)
    assert {
        "HF_HOME",
        "NCCL_NVLS_ENABLE",
        "TOKENIZERS_PARALLELISM",
        "PYTHONPATH",
        "PATH",
        "PYTORCH_ALLOC_CONF",
    } <= set(sent)
    assert not {"HF_TOKEN", "VLLM_API_KEY", "AWS_REGION", "CUDA_VISIBLE_DEVICES"} & set(sent)


def test_several_machines_without_slurm_or_a_hostfile_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(ConfigError, match="not a Slurm allocation"):
        srun(MANY, tmp_path / "stage.json", tmp_path / "log")
    with pytest.raises(MissingToolError, match="not a Slurm allocation"):
        preflight.check_tools({"a": Launch(profile="ddp", nodes=2, num_processes=2)})


def test_inside_an_allocation_srun_starts_one_torchrun_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
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
    assert (
        f"ACCELERATE_DEEPSPEED_CONFIG_FILE={tmp_path}/deepspeed.json" in said
        and "ACCELERATE_USE_DEEPSPEED=true" in said
    )


def test_threads_are_those_of_the_allocation_where_only_it_knows_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
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
    for name, value in {
        "SLURM_JOB_ID": "1",
        "SLURM_NODEID": "0",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NODELIST": "a",
    }.items():
        monkeypatch.setenv(name, value)
    for launched, threads in (
        (Launch(profile="ddp", nodes=2), "3"),
        (Launch(profile="ddp", nodes=2, threads=5), "5"),
    ):
        (tmp_path / "log").unlink(missing_ok=True)
        assert srun(launched, tmp_path / "stage.json", tmp_path / "log").wait() == 0
        assert f"OMP_NUM_THREADS={threads}\n" in (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_srun_ends_with_the_driver(tmp_path: Path):
    """After kill -9 of the driver inside salloc the ranks trained on."""
    fake = tmp_path / "srun"
    fake.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    fake.chmod(0o755)
    code = (
        "from pathlib import Path; import sys, time; from r1pipe.schema import Launch; from "
        "r1pipe.launch.slurm import srun; "
    )
    code += (
        "srun(Launch(profile='ddp', nodes=2, threads=1), Path(sys.argv[1]) / 'stage.json', "
        "Path(sys.argv[1]) / 'log'); time.sleep(60)"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env=environment() | {"PATH": path, "SLURM_JOB_ID": "1"}
    )
    pid = int(wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip()))
    assert alive(pid)
    driver.kill()
    driver.wait(timeout=60)
    wait_for(lambda: not alive(pid))
