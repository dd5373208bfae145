"""The environment of a worker: what all share, and what each rank has of its own (a profile's part: profiles.py)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import r1pipe
from r1pipe.config.machine import gpus
from r1pipe.schema import Launch


def base_environment() -> dict[str, str]:
    """What every worker shares. The user's own settings win, except where results would depend on them."""
    root = str(Path(r1pipe.__file__).parent.parent)
    environment = {
        "TOKENIZERS_PARALLELISM": "false",  # its threads and our forks do not mix
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        # torch >= 2.11 asks cuDNN first on Hopper and later, which plans anew for each shape that it has not seen: every token of a response
        "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",  # numpy's pool would start threads at import, in the fork server too
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # as pyarrow's allocator would
        "PYTHONHASHSEED": "0",  # set order must not differ between two runs, nor between a fork and a fresh process
        # ninja, in an environment not activated; last, because two versions of ninja undo each other's builds
        "PATH": os.pathsep.join(filter(None, [os.environ.get("PATH"), str(Path(sys.executable).parent)])),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a ./datasets or ./stages of the user's must not shadow a library
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    }
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)  # left over from whatever started the driver
    return environment


def rank_environment(launch: Launch, rank: int, threads: int, count: int, port: int) -> dict[str, str]:
    """What one rank has of its own."""
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    distributed = launch.profile != "process" or count > 1
    if distributed:
        environment |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
    if launch.profile == "process" and gpus():
        # one device a process: TRL refuses several visible ones in one process (DataParallel)
        environment["CUDA_VISIBLE_DEVICES"] = gpus()[rank % len(gpus())]
    elif gpus():
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus()[:count])
    return environment
