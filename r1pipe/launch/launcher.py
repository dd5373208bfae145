"""One stage -> one process, or N ranks; then wait for them.

Ranks of one machine are started here, with the environment that `accelerate launch --config_file configs/accelerate/<profile>.yaml`
would give them: accelerate itself cannot start CPU ranks under DeepSpeed, importing it costs seconds, and with processes of our
own a kill of the driver takes them along. Several machines get a torchrun each, over ssh (hosts.py) or srun (slurm.py).
Every rank gets the path of stage.json and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from r1pipe.config.machine import cpu_cores, gpus
from r1pipe.config.profiles import ZERO, profile_environment
from r1pipe.config.validation import trainings
from r1pipe.errors import ConfigError, MissingToolError
from r1pipe.launch.environment import base_environment, rank_environment
from r1pipe.launch.hosts import per_machine, read_hostfile
from r1pipe.schema import Launch, StageConfig
from r1pipe.schema.batches import split_batch

GRACE_S = 5.0  # between SIGTERM and SIGKILL
POLL_S = 0.05


class Process(Protocol):
    """What subprocess.Popen and the fork server's children have in common."""

    pid: int

    def poll(self) -> int | None: ...


@dataclass(frozen=True)
class Ranks:
    """How many processes a stage becomes on one machine, and what each may use."""

    count: int
    threads: int


def ranks(launch: Launch) -> Ranks:
    """Resolve `auto` on this machine: one rank a GPU, one on CPU; threads = cores / ranks unless stated."""
    count = max(1, len(gpus())) if launch.num_processes == "auto" else launch.num_processes
    return Ranks(count, launch.threads or max(1, cpu_cores() // count))


def world_size(launch: Launch) -> int | None:
    """Ranks over all machines; None where only the Slurm job will know."""
    count = per_machine(launch) if launch.nodes > 1 else ranks(launch).count
    return count and count * launch.nodes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- starting and waiting ---------------------------------------------------------------------------------------------


class Launcher:
    """Starts stages; a context manager that leaves no process behind."""

    def __init__(self, log: Path, note: Callable[[str], None] = print) -> None:
        """
        Args:
            log: takes what the fork server prints.
            note: takes what the user should know.
        """
        self._log, self._note = log, note
        self._server: Any = None
        self._running: list[Process] = []

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._server is not None:
            self._server.close()

    def warm(self, launches: Sequence[Launch]) -> None:
        """Let the fork server import while the driver still checks, if any stage will fork from it."""
        from r1pipe.launch import forkserver

        if self._server is None and forkserver.wanted() and sum(_forkable(launch) for launch in launches) > 1:
            self._server = forkserver.Client(base_environment(), self._log, self._note)

    def run(self, launch: Launch, stage_json: Path, log: Callable[[int], Path], tick: Callable[[], None]) -> list[int]:
        """Run one stage and wait for it.

        Args:
            launch: how many processes under which profile.
            stage_json: what the workers are told.
            log: rank -> the file that takes its output.
            tick: called several times a second.

        Returns:
            the exit codes of the ranks (of several machines: of each machine), negative for a signal; when one fails the others are ended.
        """
        if launch.nodes > 1:
            from r1pipe.launch import hosts, slurm

            self._running = (
                list(hosts.start(launch, stage_json, log))
                if launch.hostfile
                else [slurm.srun(launch, stage_json, log(0))]
            )
        else:
            self._running = self._start(launch, stage_json, log)
        try:
            return self._wait(tick)
        finally:
            self.stop()

    def _start(self, launch: Launch, stage_json: Path, log: Callable[[int], Path]) -> list[Process]:
        here, port, profile = ranks(launch), free_port(), profile_environment(launch, stage_json.parent)
        server = self._server if self._server is not None and _forkable(launch) and self._server.usable() else None
        started: list[Process] = []
        for rank in range(here.count):
            own = rank_environment(launch, rank, here.threads, here.count, port) | profile
            if server is not None:
                started.append(server.fork(stage_json, own, log(rank)))
            else:
                started.append(
                    spawn(
                        [sys.executable, "-m", "r1pipe.launch.worker", str(stage_json)],
                        base_environment() | own,
                        log(rank),
                    )
                )
            self._running = started  # so that an interrupt between two ranks ends the first
        return started

    def _wait(self, tick: Callable[[], None]) -> list[int]:
        failed_at: float | None = None
        while True:
            codes = [process.poll() for process in self._running]
            if all(code is not None for code in codes):
                return [code for code in codes if code is not None]
            if failed_at is None and any(code for code in codes):
                failed_at = time.time()
            if (
                failed_at is not None and time.time() - failed_at > GRACE_S
            ):  # the others get time to say why they failed too
                ended = [process.poll() for process in self._running]
                self.stop()
                return [signal.SIGTERM * -1 if code is None else code for code in ended]
            tick()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End whatever still runs: SIGTERM to each process group, after a while SIGKILL."""
        alive = [process for process in self._running if process.poll() is None]
        for process in alive:
            _signal_group(process.pid, signal.SIGTERM)
        deadline = time.time() + GRACE_S
        while alive and time.time() < deadline:
            time.sleep(POLL_S)
            alive = [process for process in alive if process.poll() is None]
        for process in self._running:
            _signal_group(process.pid, signal.SIGKILL)  # also what an ended worker left in its group
        for process in alive:
            while process.poll() is None:
                time.sleep(POLL_S)
        self._running = []


def _forkable(launch: Launch) -> bool:
    return launch.profile == "process" and launch.nodes == 1


def spawn(command: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process in a group of its own, its output appended to `log`, that ends when this process does."""
    with log.open("ab") as stream:
        environment = environment | {"R1PIPE_PARENT": str(os.getpid())}
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
        )


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def check_batches(stages: Mapping[str, StageConfig]) -> None:
    """Refuse before anything starts a global batch that its ranks cannot share.

    Raises:
        ConfigError: with the nearest sizes.
    """
    for name, config in stages.items():
        world = world_size(config.launch)
        for keys, training in trainings(config):
            batch_size = getattr(training, "batch_size", None)
            if world is None or batch_size is None:  # pretrain counts tokens
                continue
            try:
                split_batch(batch_size, world, training.microbatch, batch_size, getattr(training, "num_generations", 1))
            except ConfigError as error:
                raise ConfigError(error.what, ".".join(("stages", name, *keys)), error.fix) from None


def check_tools(stages: Mapping[str, Launch]) -> None:
    """Refuse before anything starts what the launchers will miss.

    Raises:
        MissingToolError: a package, compiler or device that a profile needs is not here.
    """
    import importlib.util

    from r1pipe.launch.slurm import why_no_allocation

    for name, launch in stages.items():
        where, here = f"stages.{name}.launch", ranks(launch)
        if launch.profile in ZERO:
            if importlib.util.find_spec("deepspeed") is None:
                raise MissingToolError(
                    f"profile {launch.profile} needs deepspeed, which is not installed",
                    where,
                    "pip install 'r1pipe[deepspeed]'",
                )
            path = base_environment()["PATH"]
            lacking = [tool for tool in ("g++", "ninja") if shutil.which(tool, path=path) is None]
            builds = "on CPU" if not gpus() else "with offload" if launch.offload != "none" else ""
            if lacking and builds:
                what = f"profile {launch.profile} {builds} builds a small operator at first use and lacks {', '.join(lacking)}"
                raise MissingToolError(what, where, "apt install g++; pip install ninja")
        if launch.profile == "fsdp2" and not gpus():
            raise MissingToolError(
                "profile fsdp2 needs GPUs: on CPU accelerate would quietly do plain data parallel",
                where,
                "profile: ddp, zero2 or zero3",
            )
        if launch.offload != "none" and not gpus() and launch.nodes == 1:
            raise MissingToolError(
                "offload moves memory from a GPU to the CPU, and there is no GPU", where, "offload: none"
            )
        if launch.profile != "process" and gpus() and launch.nodes == 1 and here.count > len(gpus()):
            raise MissingToolError(
                f"{here.count} ranks under {launch.profile} need as many GPUs; {len(gpus())} are visible",
                where,
                "num_processes: auto",
            )
        if launch.nodes > 1 and launch.hostfile is None and (missing := why_no_allocation(launch)):
            raise MissingToolError(missing[0], where, missing[1])
        if launch.nodes > 1 and launch.hostfile is not None:
            read_hostfile(launch.hostfile, launch.nodes)
