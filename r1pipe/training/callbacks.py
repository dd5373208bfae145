"""What a trainer tells the run: one line of metrics a step, and how far it is."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1pipe.here import Here
from r1pipe.models.loading import save_trained
from r1pipe.schema import GRPOParams
from r1pipe.training.telemetry import Meter

SHOWN = {
    "reward": "reward",
    "completions/mean_length": "length",
    "loss": "loss",
    "mean_token_accuracy": "accuracy",
    "tokens_per_second": "tok/s",
    "mfu": "mfu",
}


class MetricsCallback(TrainerCallback):
    """Writes the trainer's logs to metrics.jsonl and the progress file, with the speed where there is a meter and the trainer counts tokens."""

    def __init__(self, here: Here, meter: Meter | None = None) -> None:
        self.here, self.meter = here, meter

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.meter is not None:
            self.meter.begin()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        zero = args.deepspeed_plugin
        self.here.launched.update(
            profile=self.here.profile,
            world_size=args.world_size,
            zero_stage=zero.zero_stage if zero is not None else 0,
            microbatch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            bf16=args.bf16,
            device=str(args.device.type),
        )
        self.here.log(step=state.global_step, launched=self.here.launched)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if state.is_world_process_zero and "train_runtime" not in logs:
            if self.meter is not None and "num_tokens" in logs:
                logs = logs | self.meter.read(logs["num_tokens"])
            numbers = {k: round(v, 6) for k, v in logs.items() if isinstance(v, (int, float)) and math.isfinite(v)}
            unknown = {
                k: None for k, v in logs.items() if isinstance(v, float) and not math.isfinite(v)
            }  # JSON has no NaN
            self.here.log(step=state.global_step, **numbers, **unknown)
            self.here.progress(
                state.global_step,
                state.max_steps,
                **{name: round(numbers[key], 3) for key, name in SHOWN.items() if key in numbers},
            )


class Heldout(TrainerCallback):
    """Scores held-out prompts along the way: the curve in metrics.jsonl, and the best policy where it is to be kept.

    Both outlive a kill in workdir/heldout.json, which is written after the policy's weights. A trainer that goes on from a checkpoint, after a kill
    or a rollback, forgets what came after it: those updates did not happen, or happen again.
    """

    trainer: Any

    def __init__(self, rows: list[dict[str, Any]], prompt_ids: list[list[int]], here: Here, params: GRPOParams) -> None:
        self.rows, self.prompt_ids, self.here, self.params = rows, prompt_ids, here, params
        self.curve: dict[int, dict[str, float]] = {}  # updates done -> scores
        self.best: int | None = None  # of the updates whose policy is kept in a folder

    @property
    def best_folder(self) -> Path | None:
        """The best policy so far; None where it is not asked for, or there is none yet."""
        return None if self.best is None else self._folder(self.best)

    def _folder(self, step: int) -> Path:
        return self.here.workdir / f"best-{step}"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._recall(state.global_step)
        if state.global_step == 0:
            self._look(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.params.eval_every == 0 or state.global_step == state.max_steps:
            self._look(state)

    def _recall(self, step: int) -> None:
        """What an earlier attempt knew after so many updates."""
        path = self.here.workdir / "heldout.json"
        told = (
            json.loads(path.read_text(encoding="utf8")) if path.is_file() and step > 0 else {"curve": {}, "best": None}
        )
        self.curve = {int(seen): scores for seen, scores in told["curve"].items() if int(seen) <= step}
        best = told["best"]
        self.best = best if best is not None and best <= step and self._folder(best).is_dir() else None

    def _look(self, state: TrainerState) -> None:
        if not self.rows:
            return
        step, scores = state.global_step, self.trainer.score_heldout(self.rows, self.prompt_ids)
        self.curve[step] = scores
        self.here.log(step=step, **{k: round(v, 4) for k, v in scores.items()})
        before = self.best
        better = before is None or scores["heldout/accuracy"] > self.curve[before]["heldout/accuracy"]
        if (
            self.params.keep == "best" and step > 0 and better
        ):  # of policies that were trained, if none of them is better than the first
            self.best = step
            save_trained(self.trainer, self.trainer.processing_class, self._folder(step), self.here)  # collective
        if self.here.main:
            path = self.here.workdir / "heldout.json"
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps({"curve": self.curve, "best": self.best}), encoding="utf8")
            partial.replace(path)
            if before is not None and before != self.best:
                shutil.rmtree(self._folder(before))

    def summary(self) -> dict[str, float]:
        """Where the curve began, and the point whose policy was kept."""
        if not self.curve:
            return {}
        step = max(self.curve) if self.best is None else self.best
        first, kept = self.curve[min(self.curve)], self.curve[step]
        return {
            "kept_step": step,
            "heldout_accuracy_start": round(first["heldout/accuracy"], 4),
            "heldout_accuracy": round(kept["heldout/accuracy"], 4),
            "heldout_tokens_start": round(first["heldout/tokens"], 2),
            "heldout_tokens": round(kept["heldout/tokens"], 2),
        }
