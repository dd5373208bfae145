"""A stage on several machines that see the same files: torchrun on each, started over ssh on the machines of a hostfile.

The driver is on any of them. What R1PIPE_SSH says takes the place of `ssh -tt -o BatchMode=yes` (`ssh -tt -p 2222`); the machine's name
and the command are appended. torchrun ends its ranks when the connection is cut, so that a driver that is killed leaves none behind.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1pipe.config.machine import cpu_cores
from r1pipe.config.profiles import profile_environment
from r1pipe.errors import InputError
from r1pipe.launch.environment import base_environment
from r1pipe.schema import Launch

PORT = 29500  # of the rendezvous, on the first machine
PR_SET_PDEATHSIG = 1
_FORWARDED = re.compile(
    r"(NCCL|GLOO|TORCH|PYTORCH|CUDA|HF|TRANSFORMERS|TOKENIZERS|TRL|DS|R1PIPE|VLLM|OMP|JE_ARROW|OPENBLAS|PYTHON)[A-Z_0-9]*|(LD_LIBRARY_)?PATH"
)
# a command line is everyone's to read, so secrets are those of the machine's own environment; which devices are seen is its own affair too
_KEPT_HERE = re.compile(r".*_(TOKEN|KEY|SECRET|PASSWORD)|CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Host:
    """One machine of a hostfile, and how many ranks it takes (none = as many as the launch block says)."""

    name: str
    slots: int | None


def read_hostfile(path: Path, nodes: int) -> list[Host]:
    """The first `nodes` machines of a hostfile as DeepSpeed has it: `HOST slots=8` a line, # begins a comment.

    Raises:
        InputError: a line is not of that form, a machine comes twice, or there are too few.
    """
    hosts: list[Host] = []
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"([\w.:@-]+)(?:\s+slots=([1-9]\d*))?", text)
        if found is None or any(host.name == found[1] for host in hosts):
            what = f"'{text}' comes twice" if found else f"'{text}' is no machine"
            raise InputError(f"{what} in the hostfile", f"{path}:{number}", "a line each: HOST slots=8")
        hosts.append(Host(found[1], int(found[2]) if found[2] else None))
    if len(hosts) < nodes:
        raise InputError(
            f"the hostfile names {len(hosts)} machines, and launch.nodes is {nodes}",
            str(path),
            f"add some, or nodes: {max(1, len(hosts))}",
        )
    return hosts[:nodes]


def per_machine(launch: Launch) -> int | None:
    """Ranks on each of several machines; None where only the job itself will know (Slurm, num_processes: auto).

    Raises:
        InputError: the machines of the hostfile differ in their slots, or have none.
    """
    if isinstance(launch.num_processes, int):
        return launch.num_processes
    if launch.hostfile is None:
        return launch.slurm.gpus_per_node if launch.slurm else None
    slots = {host.slots for host in read_hostfile(launch.hostfile, launch.nodes)}
    if len(slots) > 1 or None in slots:
        what = "differ in their slots" if slots != {None} else "have no slots, and launch.num_processes says no number"
        raise InputError(
            f"the machines of the hostfile {what}",
            str(launch.hostfile),
            "launch.num_processes: 8, or the same slots=8 on each line",
        )
    return slots.pop()


def torchrun(launch: Launch, stage_json: str, node_rank: str, master: str, count: str) -> str:
    """The shell command that starts one machine's ranks. The arguments go into it as they are: quote them, or let the shell fill them in."""
    return (
        f"{shlex.quote(sys.executable)} -m torch.distributed.run --nnodes {launch.nodes} --nproc-per-node {count} --node-rank {node_rank} "
        f"--master-addr {master} --master-port {PORT} --module r1pipe.launch.worker {stage_json}"
    )


def commands(launch: Launch, stage_json: Path, hosts: list[Host], environment: dict[str, str]) -> list[list[str]]:
    """What is started for each machine of the hostfile, as arguments for exec."""
    ssh = shlex.split(os.environ.get("R1PIPE_SSH", "ssh -tt -o BatchMode=yes"))
    count = per_machine(launch)
    assignments = " ".join(shlex.quote(f"{name}={value}") for name, value in sorted(environment.items()))
    found = []
    for rank, host in enumerate(hosts):
        run = torchrun(launch, shlex.quote(str(stage_json)), str(rank), hosts[0].name.rpartition("@")[2], str(count))
        found.append([*ssh, host.name, f"cd {shlex.quote(str(Path.cwd()))} && exec env {assignments} {run}"])
    return found


def forwarded(launch: Launch, folder: Path) -> dict[str, str]:
    """The environment that the ranks get from here: the profile's, and what names libraries rather than this machine or a secret."""
    threads = launch.threads or max(1, cpu_cores() // (per_machine(launch) or 1))
    ours = {
        name: value
        for name, value in base_environment().items()
        if _FORWARDED.fullmatch(name) and not _KEPT_HERE.fullmatch(name)
    }
    return (
        ours | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | profile_environment(launch, folder)
    )


def start(launch: Launch, stage_json: Path, log: Callable[[int], Path]) -> list[subprocess.Popen[bytes]]:
    """Start a stage on the machines of its hostfile; one process here a machine, its output in the log of that number."""
    assert launch.hostfile is not None
    hosts = read_hostfile(launch.hostfile, launch.nodes)
    started = []
    for number, command in enumerate(commands(launch, stage_json, hosts, forwarded(launch, stage_json.parent))):
        with log(number).open("ab") as stream:
            started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    start_new_session=True,
                    preexec_fn=end_with_the_driver,
                )
            )
    return started


def preview(stage: str, launch: Launch, stage_json: Path, arguments: Sequence[str]) -> str:
    """The commands for one stage without Slurm, as bash: the driver's, and in comments those that it starts on each machine."""
    if launch.hostfile is None:
        example = "\n".join(f"node-{i + 1} slots={per_machine(launch) or 8}" for i in range(launch.nodes))
        hosts = [Host(f"node-{i + 1}", None) for i in range(launch.nodes)]
        lines = [f"cat > hosts <<'END'\n{example}\nEND"]
        arguments = [
            *arguments,
            "--set",
            f"stages.{stage}.launch.hostfile=hosts",
            *(["--set", f"stages.{stage}.launch.slurm=null"] if launch.slurm else []),
        ]
    else:
        hosts, lines = read_hostfile(launch.hostfile, launch.nodes), []
    lines.append(shlex.join(["r1pipe", "run-all", *arguments, "--only", stage]))
    count = str(per_machine(launch) or 8)
    runs = [
        torchrun(launch, shlex.quote(str(stage_json)), str(rank), hosts[0].name.rpartition("@")[2], count)
        for rank in range(launch.nodes)
    ]
    return "\n".join([*lines, *(f"# {host.name}: {run}" for host, run in zip(hosts, runs, strict=True)), ""])


def end_with_the_driver() -> None:
    """Before exec: ask the kernel for SIGTERM when the driver is gone, also after kill -9. ssh and srun end what they started."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
