"""The seconds of a rollout and its updates, by part.

Parts are compile, generation, reward, logps, update, sync (of weights to vLLM, or to the copy of the policy that
samples) and heldout.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from r1pipe.training.telemetry import Meter


class Stopwatch:
    """Counts seconds by part. Parts nest: the time of an inner part is not counted for the outer one.

    On a GPU, the clock is read when all work that was launched before is done, so that a part pays for its own kernels.
    A part begins and ends a few times a rollout, so this waiting costs nothing that can be measured.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def start(self, part: str) -> None:
        """Begin a part, inside those that are open."""
        self._count()
        self._open.append(part)

    def stop(self) -> None:
        """End the innermost part."""
        self._count()
        self._open.pop()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part around a block."""
        self.start(name)
        try:
            yield
        finally:
            self.stop()

    @contextmanager
    def outside(self, name: str) -> Iterator[None]:
        """A part that keeps the time of the parts inside it.

        Scoring held-out prompts generates, for example, but is not part of a rollout.
        """
        before = self.seconds
        self.seconds = {}
        try:
            with self.part(name):
                yield
        finally:
            before[name] = before.get(name, 0.0) + sum(self.seconds.values())
            self.seconds = before

    def read(self) -> dict[str, float]:
        """Seconds by part since the last read."""
        self._count()
        seconds = self.seconds
        self.seconds = {}
        return seconds

    def _count(self) -> None:
        """Add the time since the last call to the innermost part."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            part = self._open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


class Timed(TrainerCallback):
    """Logs, at the end of each rollout's last update, the seconds of its parts and the speed of training.

    Args:
        trainer: an R1GRPOTrainer, which counts the tokens that it has trained.
    """

    def __init__(self, stopwatch: Stopwatch, updates_per_rollout: int, trainer: Any) -> None:
        self.stopwatch = stopwatch
        self.updates_per_rollout = updates_per_rollout
        self.trainer = trainer
        # Without FLOPs: generation takes most of the time, so MFU would say little.
        self.meter = Meter(None, trainer.accelerator.num_processes)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.meter.resume(self.trainer.counted_tokens)
        self.meter.begin()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.stopwatch.start("update")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # All updates of a rollout are one line of the log, since the rollout's generation belongs to all of them.
        self.stopwatch.stop()
        rollout_ends = state.global_step % self.updates_per_rollout == 0
        training_ends = state.global_step >= state.max_steps
        if not rollout_ends and not training_ends:
            return
        numbers = {f"seconds/{part}": seconds for part, seconds in self.stopwatch.read().items()}
        numbers |= self.meter.read(self.trainer.counted_tokens)
        for name, value in numbers.items():
            self.trainer._metrics["train"][name].append(value)
