"""Where the seconds of a rollout and its updates go: generation, reward, logps, update, sync (of weights to vLLM or to the twin that samples), heldout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from r1pipe.training.telemetry import Meter


class Stopwatch:
    """Counts seconds by part. Parts nest: the time of an inner one is not the outer one's.

    On a GPU the clock is read when what was launched before is done, so that a part pays for its own kernels. A part begins and ends a few
    times a rollout, so the waiting costs nothing that can be seen.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def start(self, part: str) -> None:
        self._turn()
        self._open.append(part)

    def stop(self) -> None:
        self._turn()
        self._open.pop()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self.start(name)
        try:
            yield
        finally:
            self.stop()

    @contextmanager
    def outside(self, name: str) -> Iterator[None]:
        """A part that keeps the time of those within it: scoring held-out prompts generates, but is no rollout."""
        kept, self.seconds = self.seconds, {}
        try:
            with self.part(name):
                yield
        finally:
            kept[name] = kept.get(name, 0.0) + sum(self.seconds.values())
            self.seconds = kept

    def read(self) -> dict[str, float]:
        """Seconds by part since the last read."""
        self._turn()
        seconds, self.seconds = self.seconds, {}
        return seconds

    def _turn(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


class Timed(TrainerCallback):
    """Says at the end of each rollout's last update where its seconds went, and how many tokens they trained."""

    def __init__(self, stopwatch: Stopwatch, updates_per_rollout: int, trainer: Any) -> None:
        self.stopwatch, self.updates_per_rollout, self.trainer = stopwatch, updates_per_rollout, trainer
        self.meter = Meter(None, trainer.accelerator.num_processes)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.stopwatch.read()
        self.meter.begin()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.stopwatch.start("update")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stopwatch.stop()
        if state.global_step % self.updates_per_rollout and state.global_step < state.max_steps:
            return
        numbers = {f"seconds/{part}": seconds for part, seconds in self.stopwatch.read().items()}
        for name, value in {**numbers, **self.meter.read(self.trainer.counted_tokens)}.items():
            self.trainer._metrics["train"][name].append(value)
