"""A stage on several machines that see the same files: torchrun on each, over ssh on the machines of a hostfile.

The driver may be on any of them. R1PIPE_SSH takes the place of `ssh -tt -o BatchMode=yes` (for example `ssh -tt -p
2222`); the machine's name and the command are appended. torchrun ends its ranks when the connection is cut, so a driver
that is killed leaves none behind.
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
from r1pipe.text.regular_files import read_regular, reason

PORT = 29500  # of the rendezvous, on the first machine
PR_SET_PDEATHSIG = 1
SSH = "ssh -tt -o BatchMode=yes"

# Variables of this machine that the other machines get: those that configure libraries.
_FORWARDED = re.compile(
    r"(NCCL|GLOO|TORCH|PYTORCH|CUDA|HF|TRANSFORMERS|TOKENIZERS|TRL|DS|R1PIPE|VLLM|OMP|JE_ARROW|OPENBLAS|PYTHON)"
    r"[A-Z_0-9]*|(LD_LIBRARY_)?PATH"
)
# Except these. Every user of a machine can read a command line, so secrets must come from the machine's own
# environment; and which devices are visible is different on each machine.
_NOT_FORWARDED = re.compile(r".*_(TOKEN|KEY|SECRET|PASSWORD)|CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Host:
    """One machine of a hostfile, and how many ranks it takes (None = as many as the launch block says)."""

    name: str
    slots: int | None

    @property
    def address(self) -> str:
        """Without the user of USER@HOST."""
        return self.name.rpartition("@")[2]


def read_hostfile(path: Path, nodes: int) -> list[Host]:
    """The first `nodes` machines of a hostfile in DeepSpeed's format: a line `HOST slots=8` each, # begins a comment.

    Raises:
        InputError: it cannot be read, a line has another form, a machine is listed twice, or there are too few.
    """
    hosts: list[Host] = []
    try:
        lines = read_regular(path).decode("utf8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the hostfile cannot be read: {reason(error)}", str(path), "write one machine on each line"
        ) from None
    for number, line in enumerate(lines, 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        where = f"{path}:{number}"
        match = re.fullmatch(r"([\w.:@-]+)(?:\s+slots=([1-9]\d*))?", text)
        if match is None:
            raise InputError(
                f"'{text}' is not a machine", where, "write one machine on each line: HOST slots=8"
            )
        name, slots = match.groups()
        if any(host.name == name for host in hosts):
            raise InputError(f"the hostfile lists '{name}' twice", where, "remove one of the lines")
        hosts.append(Host(name, int(slots) if slots else None))

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
    if slots == {None}:
        problem = "have no slots, and launch.num_processes is not a number"
    elif len(slots) > 1:
        problem = "differ in their slots"
    else:
        return slots.pop()
    raise InputError(
        f"the machines of the hostfile {problem}",
        str(launch.hostfile),
        "launch.num_processes: 8, or the same slots=8 on each line",
    )


def torchrun(launch: Launch, stage_json: str, *, node_rank: str, master: str, count: str) -> str:
    """The shell command that starts the ranks of one machine.

    The arguments are inserted as they are: quote them, or let the shell expand them.
    """
    return (
        f"{shlex.quote(sys.executable)} -m torch.distributed.run "
        f"--nnodes {launch.nodes} --nproc-per-node {count} --node-rank {node_rank} "
        f"--master-addr {master} --master-port {PORT} --module r1pipe.launch.worker {stage_json}"
    )


def _torchruns(launch: Launch, stage_json: Path, hosts: list[Host], count: str) -> list[str]:
    """The command for each machine; the first is the master."""
    return [
        torchrun(
            launch,
            shlex.quote(str(stage_json)),
            node_rank=str(rank),
            master=hosts[0].address,
            count=count,
        )
        for rank in range(len(hosts))
    ]


def commands(
    launch: Launch, stage_json: Path, hosts: list[Host], environment: dict[str, str]
) -> list[list[str]]:
    """What is started for each machine of the hostfile, as arguments for exec."""
    ssh = shlex.split(os.environ.get("R1PIPE_SSH", SSH))
    folder = shlex.quote(str(Path.cwd()))
    assignments = " ".join(shlex.quote(f"{name}={value}") for name, value in sorted(environment.items()))
    runs = _torchruns(launch, stage_json, hosts, str(per_machine(launch)))
    return [
        [*ssh, host.name, f"cd {folder} && exec env {assignments} {run}"]
        for host, run in zip(hosts, runs, strict=True)
    ]


def forwarded(launch: Launch, folder: Path) -> dict[str, str]:
    """The variables that ranks on other machines get from this one: those of libraries, and the profile's.

    Args:
        folder: of the stage; takes deepspeed.json.
    """
    shared = {
        name: value
        for name, value in base_environment().items()
        if _FORWARDED.fullmatch(name) and not _NOT_FORWARDED.fullmatch(name)
    }
    threads = str(launch.threads or max(1, cpu_cores() // (per_machine(launch) or 1)))
    shared |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return shared | profile_environment(launch, folder)


def start(launch: Launch, stage_json: Path, log: Callable[[int], Path]) -> list[subprocess.Popen[bytes]]:
    """Start a stage on the machines of its hostfile.

    Args:
        log: number of a machine -> the file for its output.

    Returns:
        One process of this machine for each of them.
    """
    assert launch.hostfile is not None
    hosts = read_hostfile(launch.hostfile, launch.nodes)
    environment = forwarded(launch, stage_json.parent)
    started = []
    for number, command in enumerate(commands(launch, stage_json, hosts, environment)):
        with log(number).open("ab") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                preexec_fn=end_with_the_driver,
            )
        started.append(process)
    return started


def preview(stage: str, launch: Launch, stage_json: Path, arguments: Sequence[str]) -> str:
    """The commands for one stage without Slurm, as bash.

    The driver's command, and in comments those that it starts on each machine. Without a hostfile, an example of one
    comes first.
    """
    count = str(per_machine(launch) or 8)
    if launch.hostfile is not None:
        hosts = read_hostfile(launch.hostfile, launch.nodes)
        lines = []
    else:
        hosts = [Host(f"node-{number}", None) for number in range(1, launch.nodes + 1)]
        lines = ["cat > hosts <<'END'", *(f"{host.name} slots={count}" for host in hosts), "END"]
        arguments = [*arguments, "--set", f"stages.{stage}.launch.hostfile=hosts"]
        if launch.slurm:
            arguments += ["--set", f"stages.{stage}.launch.slurm=null"]

    lines.append(shlex.join(["r1pipe", "run-all", *arguments, "--only", stage]))
    for host, run in zip(hosts, _torchruns(launch, stage_json, hosts, count), strict=True):
        lines.append(f"# {host.name}: {run}")
    return "\n".join(lines) + "\n"


def end_with_the_driver() -> None:
    """Before exec: let the kernel send SIGTERM when the driver has ended, also after kill -9.

    ssh and srun then end what they started.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
