"""`r1pipe doctor`: whether this machine can run the recipe, finding by finding, each with its remedy.

Nothing is downloaded or changed, and no secret is shown. An error is what would stop configs/r1.yaml.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from r1pipe.config.machine import cpu_cores, gpus, is_build_for_cpus, nvidia_smi
from r1pipe.launch.environment import base_environment, waiting_environment
from r1pipe.launch.neighbours import crowded

# What configs/r1.yaml takes, with room: its processes hold 2 GiB at most, and its run folder less than 1 GiB.
LEAST_MEMORY_GIB = 3.0
LEAST_DISK_GIB = 2.0

# Extras that a stage may ask for -> what for.
EXTRAS = {
    "vllm": "`backend: vllm` and `rollout: vllm`",
    "deepspeed": "the profiles zero1, zero2 and zero3",
    "flash-attn-4": "faster attention over long rows on Hopper GPUs and later",
    "reasoning-gym": "`source: {reasoning_gym: ...}`",
}
TOKENS = ("HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
HUB = "https://huggingface.co"
STEP_TIMEOUT_S = 240

Level = Literal["ok", "note", "warning", "error"]


class Observation(NamedTuple):
    level: Level
    about: str
    what: str
    fix: str = ""


def findings(folder: Path) -> Iterator[Observation]:
    """One after the other, as they are found; the training steps come last and take some ten seconds each.

    Args:
        folder: where runs are kept.
    """
    has_company = crowded(cpu_cores(), own=[])
    yield from _versions()
    yield from _gpus()
    yield from _cores(has_company)
    yield from _memory()
    yield from _disk(folder)
    yield _isolation()
    yield _network()
    yield _tokens()
    for device in ("cpu", *(f"cuda:{number}" for number in range(len(gpus())))):
        yield _training_step(device, has_company)


# --- what is installed ------------------------------------------------------------------------------------------------


def _versions() -> Iterator[Observation]:
    from packaging.requirements import Requirement

    python = platform.python_version()
    yield Observation("ok", "python", f"Python {python}, r1pipe {metadata.version('r1pipe')}")
    well = []
    for text in metadata.requires("r1pipe") or ():
        requirement = Requirement(text)
        extra = requirement.marker is not None and "extra" in str(requirement.marker)
        # Extras are looked at below; a marker of another system asks for nothing here.
        if extra or (requirement.marker is not None and not requirement.marker.evaluate()):
            continue
        found = _installed(requirement.name)
        fix = f"pip install '{requirement.name}{requirement.specifier}'"
        if found is None:
            yield Observation("error", "libraries", f"{requirement.name} is not installed", fix)
        elif not requirement.specifier.contains(found, prereleases=True):
            what = f"{requirement.name} is {found}, tested with {requirement.specifier}"
            yield Observation("warning", "libraries", what, fix)
        else:
            well.append(f"{requirement.name} {found}")
    yield Observation("ok", "libraries", ", ".join(well))
    for name, purpose in EXTRAS.items():
        found = _installed(name)
        what = f"{name} {found}" if found else f"{name} is not installed; it is for {purpose}"
        yield Observation("ok" if found else "note", "extras", what)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# --- the machine ------------------------------------------------------------------------------------------------------


def _gpus() -> Iterator[Observation]:
    if not shutil.which("nvidia-smi"):
        yield Observation("note", "GPUs", "no NVIDIA driver: stages run on the CPU")
        return
    fields = "index,name,driver_version,memory.total,memory.free"
    try:
        lines = nvidia_smi(f"--query-gpu={fields}", "--format=csv,noheader")
    except (OSError, subprocess.SubprocessError) as error:
        # It is installed, and the driver in the kernel is another one or gone.
        said = getattr(error, "stdout", None) or getattr(error, "stderr", None) or error
        what = f"nvidia-smi fails: {str(said).strip()[:200]}"
        yield Observation("warning", "GPUs", what, "repair the driver, or restart the machine")
        return
    sizes = set()
    for line in lines:
        number, name, driver, total, free = (part.strip() for part in line.split(","))
        yield Observation("ok", "GPUs", f"{number}: {name}, {free} of {total} free, driver {driver}")
        sizes.add(total)
    for total in sorted(sizes):
        yield from _reach(total)
    if is_build_for_cpus():
        fix = "reinstall torch with the build for CUDA (`make install` does, in a new .venv)"
        yield Observation("warning", "GPUs", "torch is a build for CPUs, so no GPU is used", fix)


def _reach(total: str) -> Iterator[Observation]:
    """The largest models with which a card of this memory works ("24564 MiB")."""
    from r1pipe.run.planning.reach import reach

    mib, _, unit = total.partition(" ")
    if unit != "MiB" or not mib.isdigit():
        return
    parts = [f"{what}: {model or 'none'}" for what, model in reach(int(mib) * 2**20).items()]
    what = f"{int(mib) / 1024:.0f} GiB reach, of the models that plan knows, {'; '.join(parts)}"
    yield Observation("ok", "GPUs", what)
    yield Observation(
        "note", "GPUs", "r1pipe plan CONFIG --model NAME says it for each stage, with what to set"
    )


def _cores(has_company: bool) -> Iterator[Observation]:
    yield Observation("ok", "cores", f"{cpu_cores()} CPU cores may be used")
    if has_company:
        what = "other programs use some of them; stages will be slower, with the same results"
        yield Observation("warning", "cores", what, "end what works beside, if you are in a hurry")


def _memory() -> Iterator[Observation]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.split()[1].isdigit()}
    free = kib["MemAvailable"] / 2**20
    what = f"{free:.1f} of {kib['MemTotal'] / 2**20:.1f} GiB of memory are free"
    fix = f"end other programs: configs/r1.yaml wants {LEAST_MEMORY_GIB:.0f} GiB"
    yield (
        Observation("ok", "memory", what)
        if free >= LEAST_MEMORY_GIB
        else Observation("error", "memory", what, fix)
    )


def _disk(folder: Path) -> Iterator[Observation]:
    place = folder.absolute()
    # The first run makes the folder; until then the disk is that of the nearest one that exists.
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    what = f"{free:.1f} GiB are free in {place}"
    if not os.access(place, os.W_OK):
        yield Observation(
            "error", "disk", f"{place} cannot be written to", "run r1pipe in a folder of your own"
        )
    elif free < LEAST_DISK_GIB:
        fix = (
            f"free some: configs/r1.yaml wants {LEAST_DISK_GIB:.0f} GiB, and a large model six times its size"
        )
        yield Observation("error", "disk", what, fix)
    else:
        yield Observation("ok", "disk", what)


def _isolation() -> Observation:
    from r1pipe.rewards.isolation import available

    why_not = available()
    if why_not is None:
        return Observation("ok", "isolation", "programs of a model are executed in bubblewrap")
    what = f"programs cannot be executed in isolation, so code problems are left out: {why_not}"
    return Observation("warning", "isolation", what, "install bubblewrap (apt install bubblewrap)")


# --- beyond the machine -----------------------------------------------------------------------------------------------


def _network() -> Observation:
    import httpx2

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Observation(
            "note", "network", "HF_HUB_OFFLINE is set: models and datasets come from the cache alone"
        )
    try:
        httpx2.head(HUB, timeout=5)
    except httpx2.HTTPError as error:
        what = f"{HUB} cannot be reached ({type(error).__name__}); configs/r1.yaml does not need it"
        return Observation("note", "network", what)
    return Observation("ok", "network", f"{HUB} answers")


def _tokens() -> Observation:
    # Whether they are set, never what they are.
    said = [f"{name} is {'set' if os.environ.get(name) else 'not set'}" for name in TOKENS]
    return Observation("note", "tokens", ", ".join(said))


def _training_step(device: str, has_company: bool) -> Observation:
    """Some updates of the student that ships, in a process of its own: this one never imports torch."""
    command = [sys.executable, "-m", "r1pipe.models.trial_step", device]
    environment = base_environment() | waiting_environment(has_company)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=STEP_TIMEOUT_S, env=environment
        )
    except subprocess.TimeoutExpired:
        what = f"{device}: training steps did not end within {STEP_TIMEOUT_S} s"
        return Observation("error", "training", what, "see what else the device does")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        fix = f"{' '.join(command)} shows all of it"
        return Observation("error", "training", f"{device}: a training step fails: {last:.300}", fix)
    return Observation("ok", "training", f"{device}: {done.stdout.strip().splitlines()[-1]}")
