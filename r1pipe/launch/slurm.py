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

# Sets the threads of a rank on its machine, because only the job knows how many ranks share the cores. OMP_NUM_THREADS
# is unset first: nproc would repeat it.
THREADS = (
    "unset OMP_NUM_THREADS; "
    "n=$(($(nproc) / ${SLURM_GPUS_ON_NODE:-1})); "
    "export OMP_NUM_THREADS=$((n > 0 ? n : 1)) MKL_NUM_THREADS=$((n > 0 ? n : 1))"
)
# Before a job's end, Slurm sends SIGTERM.
SECONDS_TO_SAVE = 120
MASTER = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'


def why_no_allocation(launch: Launch) -> tuple[str, str] | None:
    """(what, fix) where srun could not start the stage from this process; None where it can."""
    if "SLURM_JOB_ID" in os.environ and shutil.which("srun") is not None:
        return None
    return (
        f"launch.nodes is {launch.nodes}, and this is not a Slurm allocation",
        "`--dry-run` prints the sbatch script; or launch.hostfile: a file that names the machines; or nodes: 1",
    )


def srun(launch: Launch, stage_json: Path, log: Path) -> subprocess.Popen[bytes]:
    """Inside an allocation: start one torchrun on each machine.

    srun gets SIGTERM when the driver ends, and ends them.

    Raises:
        ConfigError: this is not an allocation.
    """
    obstacle = why_no_allocation(launch)
    if obstacle is not None:
        what, fix = obstacle
        raise ConfigError(what, fix=fix)

    # the shell on each machine expands the variables
    line = "exec " + torchrun(
        launch,
        shlex.quote(str(stage_json)),
        node_rank="$SLURM_NODEID",
        master=MASTER,
        count="$SLURM_GPUS_ON_NODE" if launch.num_processes == "auto" else str(launch.num_processes),
    )
    if launch.threads is None and per_machine(launch) is None:
        line = f"{THREADS}; {line}"
    command = [
        "srun",
        f"--nodes={launch.nodes}",
        "--ntasks-per-node=1",
        "--kill-on-bad-exit=1",
        "bash",
        "-c",
        line,
    ]

    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            env=base_environment() | forwarded(launch, stage_json.parent),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=end_with_the_driver,
        )


def sbatch(run: str, stage: str, launch: Launch, arguments: Sequence[str]) -> str:
    """The script that runs one stage under Slurm. The driver inside it starts the ranks with srun.

    Args:
        run: name of the run.
        arguments: of `r1pipe run-all`, beside `--only`.
    """
    slurm = launch.slurm
    if slurm is not None:
        gpus_per_node = slurm.gpus_per_node
    elif isinstance(launch.num_processes, int):
        gpus_per_node = launch.num_processes
    else:
        gpus_per_node = 8

    options = [
        f"--job-name={run}-{stage}",
        f"--nodes={launch.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={gpus_per_node}",
        "--exclusive",
        f"--output=runs/{run}/slurm-%j.log",
    ]
    if slurm is not None:
        if slurm.partition:
            options.append(f"--partition={slurm.partition}")
        if slurm.time:
            options.append(f"--time={slurm.time}")
        options += [extra.removeprefix("#SBATCH").lstrip() for extra in slurm.extra]
    # The driver replaces the shell (exec), so it gets the signal, stops the stage with a checkpoint and leaves.
    if not any(option.startswith("--signal") for option in options):
        options.append(f"--signal=B:TERM@{SECONDS_TO_SAVE}")

    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in options),
        "",
        f"cd {shlex.quote(str(Path.cwd()))}",
        "exec " + shlex.join(["r1pipe", "run-all", *arguments, "--only", stage]),
    ]
    return "\n".join(lines) + "\n"
