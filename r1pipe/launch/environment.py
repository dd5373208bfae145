"""The environment of workers: every variable that is set, and what reads it.

| variable | read by | set in |
| --- | --- | --- |
| TOKENIZERS_PARALLELISM | tokenizers | here |
| HF_HUB_*, TRANSFORMERS_NO_ADVISORY_WARNINGS | huggingface_hub, transformers | here |
| TRL_EXPERIMENTAL_SILENCE | trl | here |
| TORCH_CUDNN_SDPA_DEPRIORITIZED, PYTORCH_NVML_BASED_CUDA_CHECK, TORCH_WARM_POOL | torch | here |
| OPENBLAS_NUM_THREADS, JE_ARROW_MALLOC_CONF | numpy, pyarrow | here |
| PATH | deepspeed, to find ninja | here |
| PYTHON* | the interpreter | here |
| OMP_NUM_THREADS, MKL_NUM_THREADS | torch | here |
| GOMP_SPINCOUNT, OMP_WAIT_POLICY | torch's OpenMP: how its threads wait for each other | here |
| RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE | torch.distributed, accelerate, worker.py | here, or by torchrun |
| MASTER_ADDR, MASTER_PORT | torch.distributed | here, or by torchrun |
| CUDA_VISIBLE_DEVICES | CUDA | here |
| ACCELERATE_*, FSDP_*, DS_ACCELERATOR | accelerate, deepspeed | config/profiles.py |
| R1PIPE_PARENT | worker.py, forkserver.py: the process to end with | launcher.py, forkserver.py |

The user may set, beside what the libraries read: R1PIPE_FORKSERVER (forkserver.py), R1PIPE_AHEAD (run/ahead.py)
and R1PIPE_SSH (hosts.py).
A worker sets some more for itself, each where it is needed: RAY_*, VLLM_* (generation/), PYTORCH_ALLOC_CONF
(training/sft/packed_setup.py), RAYON_NUM_THREADS (data/scanning.py).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import r1pipe
from r1pipe.config.machine import gpus
from r1pipe.schema import Launch

# Set unless the user has set them.
DEFAULTS = {
    # the threads of tokenizers do not survive a fork
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # On Hopper and later torch >= 2.11 prefers cuDNN, which makes a plan for each shape that it has not seen. In
    # decoding that is every token of a response.
    "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
    # Importing the compiler asks for a GPU. By default that starts the driver, which does not survive a fork.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # And it may start the compiler's processes, with threads that do not survive a fork; compiling starts them anyway.
    "TORCH_WARM_POOL": "0",
}

# Set in any case, because results or forking would depend on them.
FIXED = {
    # numpy's and pyarrow's pools would start threads at import, in the fork server too
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # the order of sets must not differ between two runs, nor between a fork and a fresh process
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    # a ./datasets or ./stages of the user's must not hide a library
    "PYTHONSAFEPATH": "1",
}

# Turns of a loop before a thread that waits falls asleep. With the library's own number, 300,000, a stage that gets
# company half-way takes four times as long; on quiet cores there is no difference.
SPINS = "20000"

RENDEZVOUS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def base_environment() -> dict[str, str]:
    """What all workers share."""
    environment = DEFAULTS | dict(os.environ) | FIXED

    # The folder of this interpreter holds ninja, also where the virtual environment is not activated. It comes last,
    # because two versions of ninja undo each other's builds.
    environment["PATH"] = _joined(os.environ.get("PATH"), str(Path(sys.executable).parent))
    environment["PYTHONPATH"] = _joined(
        str(Path(r1pipe.__file__).parent.parent), os.environ.get("PYTHONPATH")
    )

    # left over from whatever started the driver
    for name in RENDEZVOUS:
        environment.pop(name, None)
    return environment


def waiting_environment(company: bool) -> dict[str, str]:
    """How OpenMP's threads wait for each other: by spinning, or asleep where they have company (neighbours.py).

    Empty if the user has said how.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE"} if company else {"GOMP_SPINCOUNT": SPINS}


def _joined(*paths: str | None) -> str:
    return os.pathsep.join(path for path in paths if path)


def rank_environment(launch: Launch, rank: int, threads: int, count: int, port: int) -> dict[str, str]:
    """What one rank has of its own.

    Args:
        rank: among the `count` ranks of this machine.
        threads: CPU threads that it may use.
        port: of the ranks' rendezvous.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    # LOCAL_RANK alone would make accelerate set up a process group, so a single process gets none of these.
    if launch.profile != "process" or count > 1:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }

    devices = gpus()
    if devices and launch.profile == "process":
        # one device for each process: with several visible ones TRL would use DataParallel, which it refuses
        environment["CUDA_VISIBLE_DEVICES"] = devices[rank % len(devices)]
    elif devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[:count])
    return environment
