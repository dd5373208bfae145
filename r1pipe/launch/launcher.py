"""Starts the processes of a stage and waits for them.

The ranks of one machine are started here, with the environment that `accelerate launch --config_file
configs/accelerate/<profile>.yaml` would give them. accelerate itself is not used: it cannot start CPU ranks under
DeepSpeed, importing it takes seconds, and processes of our own end when the driver is killed. Several machines get a
torchrun each, over ssh (hosts.py) or srun (slurm.py).

Every rank gets the path of stage.json and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from r1pipe.config.machine import cpu_cores, gpus
from r1pipe.config.profiles import profile_environment
from r1pipe.errors import StageError
from r1pipe.here import SAVES_WHEN_STOPPED
from r1pipe.launch import forkserver, hosts, slurm
from r1pipe.launch.environment import base_environment, rank_environment, waiting_environment
from r1pipe.launch.neighbours import crowded
from r1pipe.launch.watchdog import Watchdog, dump_stacks
from r1pipe.schema import Launch

GRACE_S = 5.0  # between SIGTERM and SIGKILL
SAVING_S = 600.0  # the same for a training, which finishes an update and makes a checkpoint
POLL_S = 0.05
LOOK_AGAIN_S = 10.0  # short stages follow each other without a new look at the neighbours


class Process(Protocol):
    """What subprocess.Popen and the fork server's children have in common."""

    pid: int

    def poll(self) -> int | None: ...


@dataclass(frozen=True)
class Ranks:
    """How many processes a stage becomes on one machine, and how many threads each of them may use."""

    count: int
    threads: int


def ranks(launch: Launch) -> Ranks:
    """Resolve `auto` on this machine: one rank for each GPU, one on CPU; threads = cores / ranks unless stated."""
    count = max(1, len(gpus())) if launch.num_processes == "auto" else launch.num_processes
    return Ranks(count, launch.threads or max(1, cpu_cores() // count))


def world_size(launch: Launch) -> int | None:
    """Ranks over all machines; None where only the Slurm job will know."""
    if launch.nodes == 1:
        return ranks(launch).count
    per_machine = hosts.per_machine(launch)
    return None if per_machine is None else per_machine * launch.nodes


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Launcher:
    """Starts stages; a context manager that leaves no process behind."""

    def __init__(
        self,
        log: Path,
        note: Callable[[str], None] = print,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            log: the file for what the fork server prints.
            note: called with what the user should know.
            hurried: whether a stage that is being stopped gets no time to save.
        """
        self._log = log
        self._note = note
        self._hurried = hurried
        self._server: forkserver.Client | None = None
        self._running: list[Process] = []
        # The next stage's process, and what it reads.
        self._ahead: tuple[Path, Process] | None = None
        # Once others have been seen on the cores, threads wait asleep to the end of the run.
        self._company = False
        self._looked = float("-inf")

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.end_ahead()
        if self._server is not None:
            self._server.close()

    def warm(self, launches: Sequence[Launch]) -> None:
        """Let the fork server import while the driver still checks, if more than one stage will fork from it."""
        forks = sum(_forkable(launch) for launch in launches)
        if self._server is None and forks > 1 and forkserver.wanted():
            self._look_around(max(ranks(launch).threads for launch in launches))
            self._server = forkserver.Client(self._environment(), self._log, self._note)

    def can_start_ahead(self, launch: Launch) -> bool:
        """Whether a stage is one process that can be forked."""
        return ranks(launch).count == 1 and self._forks(launch) is not None

    def start_ahead(self, launch: Launch, stage_json: Path, log: Path) -> None:
        """Start the next stage beside the one that runs.

        It waits for its turn (Here.wait_for_turn); `run` of the same stage goes on with it.
        """
        server = self._forks(launch)
        assert server is not None and self._ahead is None, (
            "asked before, and one stage at a time has its turn next"
        )
        environment = rank_environment(launch, 0, ranks(launch).threads, 1, free_port())
        environment |= profile_environment(launch, stage_json.parent)
        self._ahead = (stage_json, server.fork(stage_json, environment, log))

    def waits(self, stage_json: Path) -> bool:
        """Whether this stage was started ahead and has not ended."""
        return self._ahead is not None and self._ahead[0] == stage_json and self._ahead[1].poll() is None

    def end_ahead(self) -> None:
        """End what was started ahead, at once: it has made nothing."""
        if self._ahead is None:
            return
        _, process = self._ahead
        _signal_group(process.pid, signal.SIGKILL)
        while process.poll() is None:
            time.sleep(POLL_S)
        self._ahead = None

    def run(
        self, launch: Launch, stage_json: Path, log: Callable[[int], Path], tick: Callable[[], None]
    ) -> list[int]:
        """Run one stage, or the one that was started ahead, and wait for it.

        Args:
            launch: how many processes, under which profile.
            stage_json: what the workers read.
            log: rank -> the file for its output.
            tick: called several times a second.

        Returns:
            The exit codes of the ranks (on several machines, of the machines), negative for a signal. When one fails,
            the others are ended.
        """
        if self.waits(stage_json):
            assert self._ahead is not None
            self._running = [self._ahead[1]]
            self._ahead = None
        elif launch.nodes == 1:
            self._running = self._start(launch, stage_json, log)
        elif launch.hostfile is not None:
            self._running = list(hosts.start(launch, stage_json, log))
        else:
            self._running = [slurm.srun(launch, stage_json, log(0))]
        watchdog = Watchdog(stage_json.parent, launch.hang_minutes)
        try:
            codes = self._wait(tick, watchdog)
            if codes is None:
                raise self._hung(launch, stage_json.parent, log(0))
            return codes
        # a signal, or the time is up
        except BaseException:
            self.stop(stage_json.parent / "workdir" / SAVES_WHEN_STOPPED)
            raise
        finally:
            self.stop()

    def _start(self, launch: Launch, stage_json: Path, log: Callable[[int], Path]) -> list[Process]:
        machine = ranks(launch)
        self._look_around(machine.threads)
        port = free_port()
        profile = profile_environment(launch, stage_json.parent)

        server = self._forks(launch)
        # the list is the launcher's from the start, so that an interrupt between two ranks ends the first
        started: list[Process] = []
        self._running = started
        for rank in range(machine.count):
            environment = rank_environment(launch, rank, machine.threads, machine.count, port) | profile
            if server is not None:
                process = server.fork(stage_json, environment, log(rank))
            else:
                command = [sys.executable, "-m", "r1pipe.launch.worker", str(stage_json)]
                process = spawn(command, self._environment() | environment, log(rank))
            started.append(process)
        return started

    def _forks(self, launch: Launch) -> forkserver.Client | None:
        """The fork server, if it is ready and may fork this stage."""
        server = self._server
        return server if server is not None and _forkable(launch) and server.usable() else None

    def _environment(self) -> dict[str, str]:
        return base_environment() | waiting_environment(self._company)

    def _look_around(self, threads: int) -> None:
        """Note whether others use the cores that this many threads of a process would spin on."""
        if self._company or threads == 1 or gpus() or not waiting_environment(False):
            return
        # A look takes a fifth of a second, and some stages take no longer.
        if time.monotonic() - self._looked < LOOK_AGAIN_S:
            return
        self._looked = time.monotonic()
        own = [self._server.pid] if self._server is not None else []
        self._company = crowded(threads, own)
        if not self._company:
            return
        self._note(
            "other programs use this machine's cores, so threads sleep while they wait for each other: "
            "the results are the same, and stages are slower than on a quiet machine"
        )
        # The library reads how to wait when it is imported.
        if self._server is not None:
            self._server.close()
            self._server = forkserver.Client(self._environment(), self._log, self._note)

    def _wait(self, tick: Callable[[], None], watchdog: Watchdog) -> list[int] | None:
        """The exit codes; None where the stage hangs."""
        failed_at: float | None = None
        while True:
            codes = [process.poll() for process in self._running]
            if all(code is not None for code in codes):
                return [code for code in codes if code is not None]

            # after a failure the other ranks get some time to report why they failed too
            if failed_at is None and any(codes):
                failed_at = time.monotonic()
            if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
                codes = [process.poll() for process in self._running]
                self.stop()
                return [-signal.SIGTERM if code is None else code for code in codes]

            tick()
            if watchdog.hangs():
                return None
            time.sleep(POLL_S)

    def _hung(self, launch: Launch, folder: Path, log: Path) -> StageError:
        """End a stage that hangs; its ranks' stacks are in their logs first."""
        on_this_machine = [process.pid for process in self._running] if launch.nodes == 1 else []
        stopped = dump_stacks(folder, on_this_machine, elsewhere=launch.nodes > 1)
        # It would not answer a request to save.
        self.stop()
        what = (
            f"stage {folder.name} gave no sign of life for {launch.hang_minutes:g} minutes, so it was ended"
        )
        if stopped:
            numbers = ", ".join(map(str, stopped))
            what += f"; rank {numbers} was stopped (SIGSTOP)"
        return StageError(
            what,
            str(log.parent),
            "the logs have the stacks of all ranks: see where they wait, and which one is elsewhere\n"
            "the same command goes on from what the stage has saved\n"
            "if it was only slow: a larger launch.hang_minutes",
        )

    def stop(self, saves: Path | None = None) -> None:
        """End what still runs: SIGTERM to each process group, after a while SIGKILL.

        Args:
            saves: where this file is, processes make a checkpoint before they leave.
        """
        alive = [process for process in self._running if process.poll() is None]
        for process in alive:
            _signal_group(process.pid, signal.SIGTERM)
        grace = GRACE_S
        if alive and saves is not None and saves.exists():
            grace = SAVING_S
            self._note("waits for the stage's checkpoint; Ctrl-C again ends it at once")
        deadline = time.monotonic() + grace
        while alive and time.monotonic() < deadline and not self._hurried():
            time.sleep(POLL_S)
            alive = [process for process in alive if process.poll() is None]

        # to every group: a worker that has ended may have left processes in its own
        for process in self._running:
            _signal_group(process.pid, signal.SIGKILL)
        for process in alive:
            while process.poll() is None:
                time.sleep(POLL_S)
        self._running = []


def _forkable(launch: Launch) -> bool:
    return launch.profile == "process" and launch.nodes == 1


def spawn(command: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A process in a group of its own, its output appended to `log`, that ends when this process does."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            env=environment | {"R1PIPE_PARENT": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
