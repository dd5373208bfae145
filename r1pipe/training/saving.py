"""When a trainer that can be resumed makes a checkpoint, and when it stops."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1pipe.here import alive
from r1pipe.schema import Training

if TYPE_CHECKING:
    from r1pipe.training.resumable import ResumableTrainer

# Checkpoints that are made by the clock take at most this share of an attempt's time (our choice). What the first one
# takes is not known before.
MOST_OF_THE_TIME = 0.03


class Saving(TrainerCallback):
    """Says after each update whether a checkpoint is due, and whether training stops.

    Args:
        trainer: whose states it takes up when training begins.
        training: `save_every` updates; where that is None, `save_minutes`.
    """

    def __init__(self, trainer: ResumableTrainer, training: Training) -> None:
        self.trainer = trainer
        self.every = training.save_every
        self.seconds = training.save_minutes * 60
        self._began = time.monotonic()
        self._last = self._began
        # What this attempt's checkpoints took, and the dearest of them.
        self._spent = 0.0
        self._dearest = 0.0

    def saved(self, seconds: float) -> None:
        """A checkpoint was made, which took so long."""
        self._last = time.monotonic()
        self._spent += seconds
        self._dearest = max(self._dearest, seconds)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer._take_up()
        self._began = time.monotonic()
        self._last = self._began

    def _is_due(self, step: int) -> bool:
        """By the clock: `save_minutes` have passed, and one more checkpoint leaves the cost of all a small share."""
        if self.every is not None:
            return step % self.every == 0
        now = time.monotonic()
        is_small = self._spent + self._dearest <= MOST_OF_THE_TIME * (now - self._began)
        return now - self._last >= self.seconds and is_small

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        alive()
        # With several ranks no rank can save alone.
        if not self.trainer.here.distributed:
            self.trainer._update_began = self.trainer._snapshot()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        alive()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        due = self._is_due(state.global_step)
        stops = self.trainer.stop_signal is not None
        if self.trainer.here.world_size > 1:
            due, stops = self._agreed(due and self.trainer.here.main, stops)
            if stops and self.trainer.stop_signal is None:
                self.trainer.stop_signal = signal.SIGTERM
        if due or stops:
            control.should_save = True
        if stops:
            control.should_training_stop = True

    def _agreed(self, *flags: bool) -> list[bool]:
        """Each flag as it is where any rank has it set: clocks differ, and a signal may reach one rank first."""
        counts = torch.tensor(flags, dtype=torch.int32, device=self.trainer.args.device)
        torch.distributed.all_reduce(counts)
        return [bool(count) for count in counts.tolist()]
