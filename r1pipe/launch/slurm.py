"""A stage under Slurm: the sbatch script that `--dry-run` prints, and the srun that the driver inside it uses."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from r1pipe.errors import ConfigError
from r1pipe.launch.environment import base_environment
from r1pipe.launch.hosts import end_with_the_driver, forwarded, per_machine, torchrun
from r1pipe.schema import Launch

# only the job knows how many ranks share a machine's cores; nproc would repeat what OMP_NUM_THREADS says
THREADS = "unset OMP_NUM_THREADS; n=$(($(nproc) / ${SLURM_GPUS_ON_NODE:-1})); export OMP_NUM_THREADS=$((n > 0 ? n : 1)) MKL_NUM_THREADS=$((n > 0 ? n : 1))"
MASTER = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'


def why_no_allocation(launch: Launch) -> tuple[str, str] | None:
    """(what, fix) where srun could not start the stage from here."""
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None:
        return None
    fix = "`--dry-run` prints the sbatch script; or launch.hostfile: a file that names the machines; or nodes: 1"
    return f"launch.nodes is {launch.nodes} and this is no Slurm allocation", fix


def srun(launch: Launch, stage_json: Path, log: Path) -> subprocess.Popen[bytes]:
    """Inside an allocation: one torchrun a machine. srun ends them when the driver does, since it is sent SIGTERM then."""
    if missing := why_no_allocation(launch):
        raise ConfigError(missing[0], fix=missing[1])
    count = "$SLURM_GPUS_ON_NODE" if launch.num_processes == "auto" else str(launch.num_processes)
    line = "exec " + torchrun(launch, shlex.quote(str(stage_json)), "$SLURM_NODEID", MASTER, count)
    if launch.threads is None and per_machine(launch) is None:
        line = f"{THREADS}; {line}"
    command = ["srun", f"--nodes={launch.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "bash", "-c", line]
    environment = base_environment() | forwarded(launch, stage_json.parent)
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=end_with_the_driver,
        )


def sbatch(run: str, stage: str, launch: Launch, arguments: Sequence[str]) -> str:
    """The script that runs one stage under Slurm; the driver inside it starts the ranks with srun."""
    slurm = launch.slurm
    per_node = launch.num_processes if isinstance(launch.num_processes, int) else slurm.gpus_per_node if slurm else 8
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={run}-{stage}",
        f"#SBATCH --nodes={launch.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --gpus-per-node={slurm.gpus_per_node if slurm else per_node}",
        "#SBATCH --exclusive",
        f"#SBATCH --output=runs/{run}/slurm-%j.log",
    ]
    if slurm and slurm.partition:
        lines.append(f"#SBATCH --partition={slurm.partition}")
    if slurm and slurm.time:
        lines.append(f"#SBATCH --time={slurm.time}")
    lines += [extra if extra.startswith("#SBATCH") else f"#SBATCH {extra}" for extra in (slurm.extra if slurm else [])]
    return "\n".join(
        [
            *lines,
            "",
            f"cd {shlex.quote(str(Path.cwd()))}",
            shlex.join(["r1pipe", "run-all", *arguments, "--only", stage]),
            "",
        ]
    )
