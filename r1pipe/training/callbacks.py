"""What a trainer tells the run: one line of metrics a step, and how far it is."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1pipe.here import Here
from r1pipe.schema import GRPOParams
from r1pipe.training.models import save_trained
from r1pipe.training.telemetry import Meter

SHOWN = {
    "reward": "reward",
    "completions/mean_length": "length",
    "loss": "loss",
    "mean_token_accuracy": "accuracy",
    "tokens_per_second": "tok/s",
    "mfu": "mfu",
}


class Report(TrainerCallback):
    """Writes the trainer's logs to metrics.jsonl and the progress file, with the speed where there is a meter and the trainer counts tokens."""

    def __init__(self, here: Here, meter: Meter | None = None) -> None:
        self.here, self.meter = here, meter

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.meter is not None:
            self.meter.begin()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        zero = args.deepspeed_plugin
        self.here.launched.update(
            profile=os.environ.get("R1PIPE_PROFILE", "process"),
            world_size=args.world_size,
            zero_stage=zero.zero_stage if zero is not None else 0,
            microbatch=args.per_device_train_batch_size,
            accumulation=args.gradient_accumulation_steps,
            bf16=args.bf16,
            device=str(args.device.type),
        )
        self.here.log(step=state.global_step, launched=self.here.launched)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if state.is_world_process_zero and "train_runtime" not in logs:
            if self.meter is not None and "num_tokens" in logs:
                logs = logs | self.meter.read(logs["num_tokens"])
            numbers = {k: round(v, 6) for k, v in logs.items() if isinstance(v, (int, float)) and math.isfinite(v)}
            unknown = {k: None for k, v in logs.items() if isinstance(v, float) and not math.isfinite(v)}  # JSON has no NaN
            self.here.log(step=state.global_step, **numbers, **unknown)
            self.here.progress(state.global_step, state.max_steps, **{name: round(numbers[key], 3) for key, name in SHOWN.items() if key in numbers})


class Heldout(TrainerCallback):
    """Scores held-out prompts along the way: the curve in metrics.jsonl, and the best policy where it is to be kept."""

    trainer: Any

    def __init__(self, rows: list[dict[str, Any]], prompt_ids: list[list[int]], here: Here, params: GRPOParams) -> None:
        self.rows, self.prompt_ids, self.here, self.params = rows, prompt_ids, here, params
        self.curve: list[tuple[int, dict[str, float]]] = []
        self.best_folder: Path | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._look(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.params.eval_every == 0 or state.global_step == state.max_steps:
            self._look(state)

    def _look(self, state: TrainerState) -> None:
        if not self.rows:
            return
        scores = self.trainer.score_heldout(self.rows, self.prompt_ids)
        best = max((s["heldout/accuracy"] for step, s in self.curve if step > 0), default=-1.0)  # a policy that was trained, if not better than before
        self.curve.append((state.global_step, scores))
        self.here.log(step=state.global_step, **{k: round(v, 4) for k, v in scores.items()})
        if self.params.keep == "best" and state.global_step > 0 and scores["heldout/accuracy"] > best:
            self.best_folder = self.here.workdir / "best"
            save_trained(self.trainer, self.trainer.processing_class, self.best_folder, self.here)  # collective

    def forget_after(self, step: int) -> None:
        """Training goes on from an earlier update: what came later did not happen."""
        kept = max((point for point in self.curve if point[0] > 0), key=lambda point: point[1]["heldout/accuracy"], default=(0, {}))
        self.curve = [point for point in self.curve if point[0] <= step]
        if kept[0] > step:
            self.best_folder = None  # it holds the weights of a later update

    def summary(self) -> dict[str, float]:
        """Where the curve began, and the point whose policy was kept."""
        if not self.curve:
            return {}
        trained = self.curve[1:] or self.curve
        step, kept = max(trained, key=lambda point: point[1]["heldout/accuracy"]) if self.best_folder else self.curve[-1]
        first = self.curve[0][1]
        return {
            "kept_step": step,
            "heldout_accuracy_start": round(first["heldout/accuracy"], 4),
            "heldout_accuracy": round(kept["heldout/accuracy"], 4),
            "heldout_tokens_start": round(first["heldout/tokens"], 2),
            "heldout_tokens": round(kept["heldout/tokens"], 2),
        }
