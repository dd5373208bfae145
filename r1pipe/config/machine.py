"""What this machine has, found without importing torch."""

from __future__ import annotations

import os
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
    try:
        if "+cpu" in metadata.version("torch"):
            return ()
    except metadata.PackageNotFoundError:
        return ()
    if not Path("/proc/driver/nvidia/version").exists() and not shutil.which("nvidia-smi"):
        return ()
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip())
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
        return tuple(str(i) for i, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU ")))
    except (OSError, subprocess.SubprocessError):
        return tuple(str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*")))


@cache
def device_name() -> str:
    """For summary.json: the GPUs, or the processor."""
    if gpus():
        try:
            query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
            name = (
                subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
                .stdout.splitlines()[0]
                .strip()
            )
        except (OSError, subprocess.SubprocessError, IndexError):
            name = "GPU"
        return f"{len(gpus())} x {name}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        model = platform.machine()
    return f"{cpu_cores()} CPU cores ({model})"
