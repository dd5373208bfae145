"""What launching would run into, found out before anything starts: batches, packages, compilers, devices, machines."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping

from r1pipe.config.machine import gpus
from r1pipe.config.profiles import ZERO
from r1pipe.config.validation import trainings
from r1pipe.errors import ConfigError, MissingToolError
from r1pipe.launch.environment import base_environment
from r1pipe.launch.hosts import read_hostfile
from r1pipe.launch.launcher import ranks, world_size
from r1pipe.launch.slurm import why_no_allocation
from r1pipe.schema import Launch, StageConfig
from r1pipe.schema.batches import split_batch


def check_batches(stages: Mapping[str, StageConfig]) -> None:
    """Refuse a global batch that its ranks cannot share.

    Raises:
        ConfigError: with the nearest sizes.
    """
    for name, config in stages.items():
        world = world_size(config.launch)
        for keys, training in trainings(config):
            # pretraining has no batch_size: it counts tokens
            batch_size = getattr(training, "batch_size", None)
            if world is None or batch_size is None:
                continue
            group = getattr(training, "num_generations", 1)
            try:
                split_batch(batch_size, world, training.microbatch, batch_size, group)
            except ConfigError as error:
                raise ConfigError(error.what, ".".join(("stages", name, *keys)), error.fix) from None


def check_tools(stages: Mapping[str, Launch]) -> None:
    """Refuse a launch block that this machine cannot serve.

    Raises:
        MissingToolError: a package, compiler or device that a profile needs is missing.
        InputError: as read_hostfile.
    """
    for name, launch in stages.items():
        where = f"stages.{name}.launch"
        if launch.profile in ZERO:
            _check_deepspeed(launch, where)
        _check_devices(launch, where)
        if launch.nodes > 1:
            _check_machines(launch, where)


def _check_deepspeed(launch: Launch, where: str) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingToolError(
            f"profile {launch.profile} needs deepspeed, which is not installed",
            where,
            "pip install 'r1pipe[deepspeed]'",
        )

    # DeepSpeed compiles its CPU optimizer and its CPU communication when they are first used
    if not gpus():
        reason = "on CPU"
    elif launch.offload != "none":
        reason = "with offload"
    else:
        return
    path = base_environment()["PATH"]
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=path) is None]
    if missing:
        raise MissingToolError(
            f"profile {launch.profile} {reason} builds a small operator when it is first used, "
            f"and {', '.join(missing)} cannot be found",
            where,
            "apt install g++; pip install ninja",
        )


def _check_devices(launch: Launch, where: str) -> None:
    if launch.profile == "fsdp2" and not gpus():
        raise MissingToolError(
            "profile fsdp2 needs GPUs: on CPU accelerate would silently do plain data parallel",
            where,
            "profile: ddp, zero2 or zero3",
        )

    # on several machines, this one may be without GPUs
    if launch.nodes > 1:
        return
    if launch.offload != "none" and not gpus():
        raise MissingToolError(
            "offload moves memory from a GPU to the CPU, and there is no GPU",
            where,
            "offload: none",
        )
    count = ranks(launch).count
    if launch.profile != "process" and gpus() and count > len(gpus()):
        raise MissingToolError(
            f"{count} ranks under {launch.profile} need as many GPUs; {len(gpus())} are visible",
            where,
            "num_processes: auto",
        )


def _check_machines(launch: Launch, where: str) -> None:
    if launch.hostfile is not None:
        read_hostfile(launch.hostfile, launch.nodes)
        return
    obstacle = why_no_allocation(launch)
    if obstacle is not None:
        what, fix = obstacle
        raise MissingToolError(what, where, fix)
