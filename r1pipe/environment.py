"""The environment of a worker: what all share, what each rank has of its own, and a profile's YAML as accelerate's variables."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml

import r1pipe
from r1pipe.device import gpus
from r1pipe.kinds import STAGES
from r1pipe.schema import Launch

PROFILES = STAGES.parent / "configs" / "accelerate"


def base_environment() -> dict[str, str]:
    """What every worker shares. The user's own settings win, except where results would depend on them."""
    root = str(Path(r1pipe.__file__).parent.parent)
    environment = {
        "TOKENIZERS_PARALLELISM": "false",  # its threads and our forks do not mix
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
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
    return environment | accelerate_environment(launch.profile)


def accelerate_environment(profile: str) -> dict[str, str]:
    """A profile's YAML as the variables that accelerate's launcher would set from it."""
    if profile == "process":
        return {}
    settings: dict[str, Any] = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text(encoding="utf8"))
    environment = {"ACCELERATE_MIXED_PRECISION": str(settings.get("mixed_precision", "no"))}
    if "deepspeed_config" in settings:
        environment["ACCELERATE_USE_DEEPSPEED"] = "true"
        for key, value in settings["deepspeed_config"].items():
            if key in _DEEPSPEED:
                environment[_DEEPSPEED[key]] = str(value).lower()
        if not gpus():
            environment["DS_ACCELERATOR"] = "cpu"
    elif "fsdp_config" in settings:
        environment["ACCELERATE_USE_FSDP"] = "true"
        for key, value in settings["fsdp_config"].items():
            name = "FSDP_TRANSFORMER_CLS_TO_WRAP" if key == "fsdp_transformer_layer_cls_to_wrap" else key.upper()
            environment[name] = str(value).lower() if isinstance(value, bool) else str(value)
    if not gpus() and "deepspeed_config" not in settings:
        environment["ACCELERATE_USE_CPU"] = "true"
    return environment


_DEEPSPEED = {  # accelerate/utils/launch.py, prepare_deepspeed_cmd_env
    "zero_stage": "ACCELERATE_DEEPSPEED_ZERO_STAGE",
    "gradient_accumulation_steps": "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "gradient_clipping": "ACCELERATE_GRADIENT_CLIPPING",
    "offload_optimizer_device": "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
    "offload_param_device": "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
    "zero3_init_flag": "ACCELERATE_DEEPSPEED_ZERO3_INIT",
    "zero3_save_16bit_model": "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL",
    "deepspeed_config_file": "ACCELERATE_DEEPSPEED_CONFIG_FILE",
}
