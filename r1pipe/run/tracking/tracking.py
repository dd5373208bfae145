"""The driver's side of `track:`: it says which stage runs, and goes on whatever becomes of the trackers."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from r1pipe.artifacts import Report
from r1pipe.config.loader import Pipeline, Stage
from r1pipe.errors import MissingToolError
from r1pipe.launch.environment import base_environment
from r1pipe.run.store import RunFolder

LOG = ".track.{}.log"
# Seconds that a run waits at its end for what is still to be sent.
PATIENCE_S = 30.0
# Seconds after the user has asked to stop.
HURRIED_S = 3.0


def check_trackers(pipeline: Pipeline) -> None:
    """Refuse a tracker that is not installed, before anything runs.

    Raises:
        MissingToolError: with the pip line.
    """
    for name in pipeline.track:
        # By its metadata: wandb leaves a folder `wandb` behind, which can be imported.
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            raise MissingToolError(
                f"track names {name}, which is not installed",
                str(pipeline.tree.value["track"].origin),
                f'pip install "r1pipe[{name}]"',
            ) from None


class Tracking:
    """The trackers of a run; a context manager that leaves no process behind.

    Args:
        names: of the trackers.
        note: takes one sentence: where a tracker shows the run, or why it does not.
        hurried: whether a run that ends waits for nothing.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        folder: RunFolder,
        note: Callable[[str], None],
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = folder
        self._note = note
        self._hurried = hurried
        self._said: set[str] = set()
        self._followers = [_Follower(name, folder.path / LOG.format(name), self._say) for name in names]

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        was_stopped = kind is not None and not issubclass(kind, Exception)
        patience = HURRIED_S if was_stopped or self._hurried() else PATIENCE_S
        for follower in self._followers:
            follower.hang_up()
        # They end side by side.
        deadline = time.monotonic() + patience
        for follower in self._followers:
            follower.wait_until(deadline)

    def begin(self, stage: Stage) -> None:
        """Follow a stage that is about to run."""
        config = {"kind": stage.kind.name, **stage.config.model_dump(mode="json")}
        begin = {
            "run": self._folder.run,
            "stage": stage.name,
            "folder": str(self._folder.stage(stage.name).path),
            "config": config,
            # whether its metrics are told where it writes no curve
            "scores": any(port.type is Report for port in stage.kind.outputs.values()),
        }
        for follower in self._followers:
            follower.tell({"begin": begin})

    def end(self, results: Mapping[str, Any] | None) -> None:
        """The stage has ended.

        Args:
            results: its metrics; None where it is not done.
        """
        for follower in self._followers:
            follower.tell({"end": results})

    def beat(self) -> None:
        """Pass on what the trackers have to say."""
        for follower in self._followers:
            follower.listen()

    def _say(self, text: str) -> None:
        # A tracker that fails in each stage says so once.
        if text not in self._said:
            self._said.add(text)
            self._note(text)


class _Follower:
    """A tracker's process, started for the first stage, and again for a stage after one in which it failed."""

    def __init__(self, name: str, log: Path, say: Callable[[str], None]) -> None:
        self.name = name
        self._log = log
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""

    def tell(self, message: Mapping[str, Any]) -> None:
        """Write one line to the process. Only the beginning of a stage starts one."""
        self.listen()
        if self._process is None:
            if "begin" not in message:
                return
            self._process = self._start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        # it has just ended, or reads nothing any more
        except (BrokenPipeError, BlockingIOError):
            self.listen()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "r1pipe.run.tracking.follower", self.name, str(self._log)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=base_environment(),
            # Ctrl-C is for the driver, which ends this process when the stage has ended.
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        # A tracker that waits for the network must not let the run wait.
        os.set_blocking(process.stdin.fileno(), False)
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def listen(self) -> None:
        """Pass on what the process has said, and whether it has failed."""
        process = self._process
        if process is None:
            return
        code = process.poll()
        assert process.stdout is not None
        # None where nothing is there, since the pipe does not block.
        self._heard += process.stdout.read() or b""
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            text = line.decode("utf8", "replace")
            if code:
                self._say(
                    f"{self.name} does not follow this run any more: {text}; the training goes on without it"
                )
            else:
                self._say(f"{self.name}: {text}")
        if code is not None:
            if code and not lines:
                self._say(
                    f"{self.name} does not follow this run any more: its process ended (see {self._log})"
                )
            self._close()

    def hang_up(self) -> None:
        """Let the process send the rest and end."""
        if self._process is None or self._process.stdin is None:
            return
        # it may have ended by itself
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait_until(self, deadline: float) -> None:
        """Wait for the end of the process; kill it at the deadline, a time of time.monotonic()."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._say(f"{self.name}: it did not send everything in time, and was ended (see {self._log})")
            self._process.kill()
            self._process.wait()
            self._close()
        self.listen()

    def _close(self) -> None:
        assert self._process is not None
        self.hang_up()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        self._heard = b""
