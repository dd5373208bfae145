"""What this machine has, found without importing torch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def cpu_cores() -> int:
    """Cores that this process may use, by affinity and cgroup quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        # in a container the quota may be less than the cores that are visible
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return cores


@cache
def gpus() -> tuple[str, ...]:
    """Ids of the visible NVIDIA GPUs, as CUDA_VISIBLE_DEVICES names them; none with a CPU build of torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return ()

    # a driver alone is no use to a CPU build of torch
    if torch_version() is None or is_build_for_cpus():
        return ()

    if not Path("/proc/driver/nvidia/version").exists() and not shutil.which("nvidia-smi"):
        return ()
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip())
    try:
        # MIG slices are listed too, indented below their GPU
        count = sum(line.startswith("GPU ") for line in nvidia_smi("-L"))
    except (OSError, subprocess.SubprocessError):
        count = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    return tuple(map(str, range(count)))


def torch_version() -> str | None:
    """Of the torch that is installed; None where there is none."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def is_build_for_cpus() -> bool:
    """Whether torch is installed as a build that reaches no GPU."""
    return "+cpu" in (torch_version() or "")


def nvidia_smi(*arguments: str) -> list[str]:
    """The lines that NVIDIA's tool prints.

    Raises:
        OSError: it is not installed.
        subprocess.SubprocessError: it fails, or does not end.
    """
    command = ["nvidia-smi", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.splitlines()


@cache
def device_name() -> str:
    """The GPUs, or the processor, in words; for summary.json."""
    if gpus():
        try:
            name = nvidia_smi("--query-gpu=name", "--format=csv,noheader")[0].strip()
        except (OSError, subprocess.SubprocessError, IndexError):
            name = "GPU"
        return f"{len(gpus())} x {name}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    return f"{cpu_cores()} CPU cores ({model})"
