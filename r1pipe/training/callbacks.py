"""Callbacks of the trainers: metrics and progress, a stop at a loss that is no number, scores of held-out prompts."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1pipe.data.io import atomic_file
from r1pipe.errors import GuardError
from r1pipe.here import Here
from r1pipe.models.loading import save_trained
from r1pipe.schema import GRPOParams
from r1pipe.training.checkpoints import checkpoints, read_record
from r1pipe.training.smaller_passes import halved_at
from r1pipe.training.telemetry import Meter

# The trainer's metrics that the console shows, and their names there.
SHOWN = {
    "reward": "reward",
    "completions/mean_length": "length",
    "loss": "loss",
    "mean_token_accuracy": "accuracy",
    "tokens_per_second": "tok/s",
    "mfu": "mfu",
}


class WaitsForTurn(TrainerCallback):
    """Holds a training that got ready early until its turn has come. Callbacks before it belong to that."""

    def __init__(self, here: Here) -> None:
        self.here = here

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.here.wait_for_turn()


class MetricsCallback(TrainerCallback):
    """Writes the trainer's logs to metrics.jsonl and to the progress file.

    Args:
        meter: adds the speed, where the trainer counts tokens.
    """

    def __init__(self, here: Here, meter: Meter | None = None) -> None:
        self.here = here
        self.meter = meter

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        deepspeed = args.deepspeed_plugin
        self.here.launched.update(
            profile=self.here.profile,
            world_size=args.world_size,
            zero_stage=deepspeed.zero_stage if deepspeed is not None else 0,
            microbatch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            bf16=args.bf16,
            device=str(args.device.type),
        )
        halved = halved_at(self.here)
        if halved:
            self.here.launched["passes_halved_at"] = halved
        self.here.log(step=state.global_step, launched=self.here.launched)
        counts = [entry["num_tokens"] for entry in state.log_history if "num_tokens" in entry]
        if self.meter is not None and counts:
            self.meter.resume(counts[-1])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.meter is not None:
            self.meter.begin()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        # The last log of a training sums up the whole of it and belongs to no update.
        is_summary = "train_runtime" in logs
        if not state.is_world_process_zero or is_summary:
            return
        if self.meter is not None and "num_tokens" in logs:
            logs = logs | self.meter.read(logs["num_tokens"])

        numbers: dict[str, float] = {}
        not_finite: dict[str, None] = {}
        for name, value in logs.items():
            if not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                numbers[name] = round(value, 6)
            else:
                # JSON has no NaN.
                not_finite[name] = None
        self.here.log(step=state.global_step, **numbers, **not_finite)

        shown = {label: round(numbers[name], 3) for name, label in SHOWN.items() if name in numbers}
        self.here.progress(state.global_step, state.max_steps, **shown)


class FiniteLoss(TrainerCallback):
    """Ends a training whose loss or gradient is no number any more; RL has a guard for that, which the config sets."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The numbers are the same on every rank.

        Raises:
            GuardError: one of them is not finite.
        """
        if not logs or "loss" not in logs:
            return
        # In fp16 the scale of the loss is found by gradients that overflow, and those updates are left out.
        watched = ("loss",) if args.fp16 else ("loss", "grad_norm")
        bad = [name for name in watched if name in logs and not math.isfinite(logs[name])]
        if bad:
            raise GuardError(
                f"{' and '.join(bad)} not finite at update {state.global_step}, so the training was stopped",
                fix="a lower lr, more warmup_ratio, a smaller max_grad_norm or bf16: false; "
                "or another checkpoint to begin with, if its own weights are not finite",
            )


class Heldout(TrainerCallback):
    """Scores held-out prompts along the way, and keeps the best policy where the config says so.

    The curve of scores and the best policies outlive a kill: the curve is in workdir/heldout.json, which is written
    after a policy's weights. A trainer that resumes from a checkpoint, after a kill or a rollback, forgets what came
    after that checkpoint, since those updates will be made again. So the best policy up to each of the trainer's
    checkpoints is kept, too.

    Args:
        rows: the held-out prompts.
        prompt_ids: the same as token ids.

    Attributes:
        trainer: must be set before training begins.
        curve: updates done -> scores.
        best: the updates done by the best policy, whose weights are in a folder; None where there is none.
    """

    trainer: Any

    def __init__(
        self, rows: list[dict[str, Any]], prompt_ids: list[list[int]], here: Here, params: GRPOParams
    ) -> None:
        self.rows = rows
        self.prompt_ids = prompt_ids
        self.here = here
        self.params = params
        self.curve: dict[int, dict[str, float]] = {}
        self.best: int | None = None

    @property
    def best_folder(self) -> Path | None:
        """The best policy so far; None where the config keeps the last one, or there is none yet."""
        return None if self.best is None else self._folder(self.best)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._recall(state.global_step)
        self.trainer.heldout_curve = self.curve
        # The curve begins with the policy before any update; a training that resumes has that point already.
        if state.global_step == 0:
            self._score(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step % self.params.eval_every == 0 or state.global_step == state.max_steps:
            self._score(state)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._remove_surpassed()

    def summary(self) -> dict[str, float]:
        """The beginning of the curve, and the point whose policy was kept."""
        if not self.curve:
            return {}
        kept_step = max(self.curve) if self.best is None else self.best
        first = self.curve[min(self.curve)]
        kept = self.curve[kept_step]
        return {
            "kept_step": kept_step,
            "heldout_accuracy_start": round(first["heldout/accuracy"], 4),
            "heldout_accuracy": round(kept["heldout/accuracy"], 4),
            "heldout_tokens_start": round(first["heldout/tokens"], 2),
            "heldout_tokens": round(kept["heldout/tokens"], 2),
        }

    def _recall(self, step: int) -> None:
        """Read what an earlier attempt had found up to this step."""
        self.curve = {}
        self.best = None
        if step == 0:
            return

        def until_now(record: Any) -> dict[int, dict[str, float]]:
            curve = record["curve"]
            return {int(scored): scores for scored, scores in curve.items() if int(scored) <= step}

        curve = read_record(self.here.workdir / "heldout.json", self.here, until_now)
        if curve is not None:
            self.curve = curve
            self.best = self._best_until(step)

    def _score(self, state: TrainerState) -> None:
        """Score the held-out prompts with the policy of now, and keep it if it is the best one."""
        if not self.rows:
            return
        step = state.global_step
        scores = self.trainer.score_heldout(self.rows, self.prompt_ids)
        self.curve[step] = scores
        self.here.log(step=step, **{name: round(value, 4) for name, value in scores.items()})

        self.best = self._best_until(step)
        if self.best == step:
            # All ranks take part in saving.
            save_trained(self.trainer, self.trainer.processing_class, self._folder(step), self.here)
        if self.here.main:
            # In this order: the record must never name a folder that is gone.
            self._write_record()
            self._remove_surpassed()

    def _best_until(self, step: int) -> int | None:
        """The updates done by the best policy up to then; of equals the first.

        The policy before the first update is never kept: if none that was trained is better, the best of those is.
        """
        trained = [scored for scored in sorted(self.curve) if 0 < scored <= step]
        if self.params.keep != "best" or not trained:
            return None
        return max(trained, key=lambda scored: self.curve[scored]["heldout/accuracy"])

    def _remove_surpassed(self) -> None:
        """Remove policies that are the best neither now nor for a training that resumes from a checkpoint."""
        if not self.here.main:
            return
        resumable = checkpoints(self.here.workdir / "trainer")
        needed = {self.best, *(self._best_until(step) for step in resumable)}
        for folder in self.here.workdir.glob("best-*"):
            if int(folder.name.removeprefix("best-")) not in needed:
                shutil.rmtree(folder)

    def _write_record(self) -> None:
        # A kill leaves the record before or the new one.
        with atomic_file(self.here.workdir / "heldout.json") as stream:
            stream.write(json.dumps({"curve": self.curve, "best": self.best}).encode())

    def _folder(self, step: int) -> Path:
        return self.here.workdir / f"best-{step}"
