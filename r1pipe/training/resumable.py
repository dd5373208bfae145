"""Trainers whose training can be stopped anywhere and goes on as if nothing had happened.

transformers saves weights, optimizer, scheduler and the states of random numbers. ResumableTrainer adds what it leaves
out, writes a checkpoint under another name until it is whole (checkpoints.py), saves by the clock, and answers SIGTERM,
SIGINT and SIGUSR1 with a checkpoint.
"""

from __future__ import annotations

import copy
import gc
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate.utils import set_seed
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from r1pipe.errors import InputError, StageError
from r1pipe.here import SAVES_WHEN_STOPPED, Here
from r1pipe.schema import Training
from r1pipe.training import checkpoints, smaller_passes
from r1pipe.training.saving import Saving

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stopped(BaseException):
    """A signal came while nothing was being updated, so the work since the last update is dropped."""


class Unanswered(StageError):
    """What draws for a training, and is no part of it, gives no answers any more."""


class ResumableTrainer(Trainer):
    """A base class to stand before TRL's or transformers' own.

    Args:
        here: the running stage; metrics.jsonl loses the lines that a resumed training will write again.
        training: when checkpoints are made.

    Attributes:
        stop_signal: the first signal that asked to stop; None = none has come.
    """

    # transformers' annotations allow None; only TRL's trainers count metrics
    args: TrainingArguments
    _metrics: dict[str, dict[str, list[float]]]

    def __init__(self, *, here: Here, training: Training, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.here = here
        self.stop_signal: int | None = None
        # The folder that training goes on from; its states are taken up when training begins.
        self._resumed_from: Path | None = None
        # The last checkpoint that is known to be whole.
        self._last_whole: Path | None = None
        # Whether `train` runs: outside it there is nothing to save.
        self._in_training = False
        # While only random numbers and counts change: those of before.
        self._before: dict[str, Any] | None = None
        # What is saved in place of the state of now.
        self._own_of_before: dict[str, Any] | None = None
        # `_before` when the update of now began, where a process alone could save it.
        self._update_began: dict[str, Any] | None = None
        self._halved = smaller_passes.halved_at(here)
        self._saving = Saving(self, training)
        # First: the others see the states of the checkpoint.
        self.callback_handler.callbacks.insert(0, self._saving)

    # --- going on and stopping ----------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **more: Any) -> Any:
        """Trainer.train.

        Raises:
            SystemExit: a signal asked to stop; the state after the last update is saved. Or memory ran out, and the
                driver starts the stage again.
            StageError: memory ran out, and smaller passes do not help.
            Unanswered: what was done before is saved.
        """
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._last_whole = self._resumed_from
        self._in_training = True
        with self._answering_signals():
            try:
                output = super().train(resume_from_checkpoint, *args, **more)
            except Stopped:
                assert self._before is not None
                self._save_as_before(self._before)
            except Unanswered:
                if self._before is not None:
                    self._save_as_before(self._before)
                raise
            except smaller_passes.OutOfMemory as error:
                self._make_smaller_passes(str(error))
            finally:
                self._in_training = False
            if self.stop_signal is not None:
                raise SystemExit(128 + self.stop_signal)
        return output

    @contextmanager
    def _answering_signals(self) -> Iterator[None]:
        """A signal asks for a checkpoint; the file SAVES_WHEN_STOPPED tells the driver to wait for it."""
        # Python allows handlers in the main thread only.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        told = self.here.workdir / SAVES_WHEN_STOPPED
        if self.here.main:
            told.touch()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if self.here.main:
                told.unlink(missing_ok=True)

    def _on_signal(self, number: int, _frame: Any) -> None:
        # Slurm and the driver may both send one, and the second must not cut the saving short.
        if self.stop_signal is not None:
            return
        self.stop_signal = number
        print(f"{signal.Signals(number).name}: saves a checkpoint and leaves", file=sys.stderr, flush=True)
        if self._before is not None:
            raise Stopped

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Around work between two updates that changes no weights, such as the drawing of a rollout.

        A signal ends it at once, and what is saved is the state of now. With several ranks it goes on to the end of the
        next update: a rank that left would let the others wait.
        """
        if self.here.world_size > 1 or not self._in_training:
            yield
            return
        # Signals that came since the last update.
        if self.stop_signal is not None:
            self._before = self._snapshot()
            raise Stopped
        self._before = self._snapshot()
        try:
            yield
        except (Stopped, Unanswered):
            raise
        except BaseException:
            self._before = None
            raise
        self._before = None

    def _snapshot(self) -> dict[str, Any]:
        gpu = torch.cuda.is_available()
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "cpu": torch.random.get_rng_state(),
            "gpu": torch.cuda.get_rng_state() if gpu else None,
            "tokens": self.state.num_input_tokens_seen,
            "own": self.own_state(),
        }

    def _save_as_before(self, before: dict[str, Any]) -> None:
        """Save the state at the beginning of what was cut short; the weights have not changed since."""
        random.setstate(before["python"])
        np.random.set_state(before["numpy"])
        torch.random.set_rng_state(before["cpu"])
        if before["gpu"] is not None:
            torch.cuda.set_rng_state(before["gpu"])
        self.state.num_input_tokens_seen = before["tokens"]
        self._own_of_before = before["own"]
        self._save_checkpoint(self.model, None)

    # --- memory that runs out -----------------------------------------------------------------------------------------

    def training_step(self, *given: Any, **named: Any) -> Any:
        """The trainer's.

        Raises:
            OutOfMemory: a pass does not fit.
        """
        with smaller_passes.noticing():
            return super().training_step(*given, **named)

    def divisible(self) -> bool:
        """Whether a forward pass holds more than one row."""
        return self.args.per_device_train_batch_size > 1

    def _make_smaller_passes(self, reason: str) -> NoReturn:
        """Leave for an attempt with passes of half the size; a process alone saves the state before the update."""
        divisible = self.divisible()
        update = self.state.global_step + 1
        if self._update_began is not None and divisible and update not in self._halved:
            # what the pass has left must not stand beside what saving needs
            model: Any = self.model
            model.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
            self._save_as_before(self._update_began)
        smaller_passes.start_again(
            self.here, update=update, halved=self._halved, divisible=divisible, reason=reason
        )

    # --- what transformers does not save ------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        """What this rank must know to go on, beside what transformers saves: numbers, lists and tensors.

        A subclass adds its own. It is called before an update, too, so nothing in it may be changed later.
        """
        state: dict[str, Any] = {
            # a copy on the device: reading the number would stop the GPU before each update
            "loss": self._tr_loss.clone(),
            "losses": self._total_loss_scalar,
            "logged": self._globalstep_last_logged,
            "flops": self.current_flos,
        }
        # TRL's trainers.
        if hasattr(self, "_total_train_tokens"):
            state["trained_tokens"] = self._total_train_tokens
        if hasattr(self, "_metrics"):
            state["metrics"] = copy.deepcopy(dict(self._metrics["train"]))
        return state

    def take_own_state(self, state: dict[str, Any]) -> None:
        """Go on from what `own_state` has returned."""
        self._tr_loss.fill_(state["loss"])
        self._total_loss_scalar = state["losses"]
        self._globalstep_last_logged = state["logged"]
        self.current_flos = state["flops"]
        if "trained_tokens" in state:
            self._total_train_tokens = state["trained_tokens"]
        if "metrics" in state:
            self._metrics["train"] = defaultdict(list, state["metrics"])

    def save_more(self, checkpoint: Path) -> None:
        """Write further files of a checkpoint; every rank calls it, and only rank 0 writes what they share."""

    def load_more(self, checkpoint: Path) -> None:
        """Read what `save_more` has written, when the models are where they train."""

    def facts(self) -> dict[str, Any]:
        """What is known of a checkpoint without loading it.

        Where ranks or rollbacks are others than now, random numbers do not go on from those of the checkpoint.
        """
        return {"profile": self.here.profile, "ranks": self.here.world_size, "rollbacks": 0}

    def best_update(self, updates: list[int]) -> int | None:
        """Of these updates, the one with the best policy; None where nothing tells."""
        return None

    def _own_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"own_state_{self.here.rank}.pt"

    def _take_up(self) -> None:
        """When training begins: the states of the checkpoint that it goes on from."""
        checkpoint = self._resumed_from
        self.here.forget(self.state.global_step if checkpoint else -1)
        if checkpoint is None:
            return
        # A rank more than there were has no file; `resume_from` has refused where it needs one.
        if self._own_file(checkpoint).is_file():
            # A rank's CPU is called cpu:0, which torch.load does not know.
            device = "cpu" if self.args.device.type == "cpu" else self.args.device
            self.take_own_state(
                torch.load(self._own_file(checkpoint), map_location=device, weights_only=True)
            )
        self.load_more(checkpoint)

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        """transformers', unless all updates are made: it asks only after one, so a resumed training made one more.

        So it is for a training that was killed between the checkpoint of its last update and the end of its stage.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*given, **named)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            made = checkpoints.facts_of(Path(checkpoint))
            now = self.facts()
            if any(made.get(fact) != now[fact] for fact in ("ranks", "rollbacks")):
                # New streams, but never those of the beginning again.
                number = self.state.global_step + 1_000_003 * now["rollbacks"]
                set_seed(self.args.seed + number, device_specific=True)
                return
        super()._load_rng_state(checkpoint)

    def _get_train_sampler(self, *given: Any) -> Any:
        """The trainer's; where it sorts by length, the order of an epoch follows from the seed and the epoch alone.

        transformers draws it from the random numbers of the moment, which are others after a resume.
        """
        sampler: Any = super()._get_train_sampler(*given)
        if isinstance(sampler, LengthGroupedSampler) and sampler.generator is None:
            generator = sampler.generator = torch.Generator()
            # accelerate calls this before each epoch where a sampler has it
            with_epochs: Any = sampler
            with_epochs.set_epoch = lambda epoch: generator.manual_seed(self.args.seed + epoch)
        return sampler

    # --- writing ------------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """transformers', in a folder of another name, which is renamed when all ranks have written.

        Raises:
            InputError: the disk is full. The checkpoints of before are still there.
        """
        folder = Path(self.args.output_dir or "")
        final = folder / f"{checkpoints.PREFIX}{self.state.global_step}"
        # The state after an update is always the same.
        if self._last_whole == final:
            return
        started = time.monotonic()
        partial = folder / checkpoints.PARTIAL / final.name
        try:
            if self.here.main:
                checkpoints.clear(folder)
            self._wait_for_all()
            self.args.output_dir = str(partial.parent)
            super()._save_checkpoint(model, trial)
            partial.mkdir(exist_ok=True)
            torch.save(self._own_of_before or self.own_state(), self._own_file(partial))
            self.save_more(partial)
            self._wait_for_all()
            if self.here.main:
                # A pickle that nothing reads.
                (partial / "training_args.bin").unlink(missing_ok=True)
                checkpoints.seal(partial, **self.facts())
                checkpoints.publish(partial, final)
        except Exception as error:
            if not checkpoints.is_disk_full(error):
                raise
            checkpoints.clear(folder)
            raise InputError(
                f"no disk space is left for the trainer's checkpoint of update {self.state.global_step}",
                str(folder),
                "free some and start again: the stage goes on from "
                + (f"its {self._last_whole.name}" if self._last_whole else "its beginning"),
            ) from error
        finally:
            self.args.output_dir = str(folder)
        self._last_whole = final
        if self.here.main:
            self._remove_old(folder)
        self._wait_for_all()
        self._saving.saved(time.monotonic() - started)

    def _remove_old(self, folder: Path) -> None:
        limit = self.args.save_total_limit
        if not limit:
            return
        found = checkpoints.checkpoints(folder)
        best = self.best_update(list(found))
        for update in list(found)[:-limit]:
            if update != best:
                checkpoints.remove(found[update])

    def _wait_for_all(self) -> None:
        if self.here.world_size > 1:
            self.accelerator.wait_for_everyone()
