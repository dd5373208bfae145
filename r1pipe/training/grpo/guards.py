"""Rules that watch RL while it runs: each reads what the trainer logs, and warns, stops the stage, or has it rolled back.

    non_finite                 the loss or the gradient norm is not a number
    zero_signal                groups whose rewards are all equal teach nothing
    entropy                    the policy has stopped exploring
    kl                         the policy has left its reference far behind
    length                     responses are cut off at max_tokens
    repetition                 responses say the same again and again
    format_up_accuracy_down    the reward rises by form while the answers get worse

A rule reads the median of `window` rollouts of one phase (the last one the mean), so one odd batch is no finding. The limits are ours (schema.Guards).
A rollback is a resume from an earlier checkpoint of the trainer at a lower rate: as in any resume the optimizer's state and the data's
place come back, the reference starts from the stage's input again, and the rollouts that follow are drawn anew.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1pipe.errors import GuardError
from r1pipe.here import Here
from r1pipe.schema import Guards

KEPT_FOR_ROLLBACK = 8  # trainer checkpoints at least; more where the window is longer (grpo.py). How far a best window lies back is not bounded
SIGNIFICANT_RISE = 0.02  # of the format reward, before a fall of accuracy is laid at its door
# rule -> (what the trainer logs, +1 = bad above the limit and -1 = bad below it, what is said, what helps)
SERIES: dict[str, tuple[str, int, str, str]] = {
    "zero_signal": (
        "zero_signal",
        1,
        "share of groups without signal",
        "prompts of other difficulty, larger groups, or fewer updates",
    ),
    "entropy": ("entropy", -1, "entropy of a token in nats", "a lower lr, a higher temperature, or fewer updates"),
    "kl": (
        "kl",
        1,
        "KL to the reference in nats a token",
        "a lower lr, a higher beta, or a reference that is replaced more often",
    ),
    "length": (
        "completions/clipped_ratio",
        1,
        "share of responses cut off at max_tokens",
        "a larger max_tokens, or the length reward",
    ),
    "repetition": ("repetition", 1, "repeated share of a response's 6-grams", "the repetition reward, or a lower lr"),
}
FORMAT, RIGHT = "rewards/format/mean", "right"


@dataclass(frozen=True)
class Finding:
    """A rule's limit was passed.

    Attributes:
        step: updates done when it was seen.
        since: updates done when the trouble can have begun; a checkpoint of this step or before is good.
        what: the numbers.
        remedy: what the user can change.
    """

    rule: str
    step: int
    since: int
    what: str
    remedy: str


class Watch:
    """The rules on a stream of log lines; knows no trainer."""

    def __init__(self, guards: Guards) -> None:
        self.guards = guards
        self.rules = {name: guard for name, guard in guards.rules().items() if guard.action != "off"}
        self._done: list[
            dict[str, float]
        ] = []  # rollouts that are over: mean of what was logged, and `first` and `last` update
        self._open: dict[str, list[float]] = {}
        self._quiet: dict[str, int] = {}  # rule -> rollouts until it may speak again
        self._not_numbers = 0
        self._best: tuple[float, int] | None = None  # (share right in the best window, its last update)

    def feed(self, step: int, logs: dict[str, Any]) -> list[Finding]:
        """What a line of the trainer's log reveals; a line with `reward` opens a rollout.

        Args:
            step: updates done.
            logs: the line; values that are no numbers are passed over.
        """
        found = []
        bad = [
            name
            for name in ("loss", "grad_norm")
            if isinstance(value := logs.get(name), float) and not math.isfinite(value)
        ]
        self._not_numbers = self._not_numbers + 1 if bad else 0
        if "non_finite" in self.rules and self._not_numbers > self.rules["non_finite"].limit:
            what = f"{' and '.join(bad)} not finite in {self._not_numbers} update(s) running"
            found.append(
                Finding(
                    "non_finite",
                    step,
                    step - self._not_numbers,
                    what,
                    "a lower lr, more warm-up, a smaller max_grad_norm, or bf16: false",
                )
            )
        if "reward" in logs and self._open:
            self._quiet = {rule: left - 1 for rule, left in self._quiet.items() if left > 1}
            self._done.append(
                {name: sum(values) / len(values) for name, values in self._open.items()}
                | {"first": self._open["step"][0]}
            )
            self._done[-1]["last"] = self._open["step"][-1]
            self._open = {}
            if len(self._done) > 1 and self._done[-1].get("phase") != self._done[-2].get("phase"):
                self._done, self._best = (
                    self._done[-1:],
                    None,
                )  # other prompts, lengths and rewards: numbers from before do not compare
            found += self._look(step)
        for name, value in {**logs, "step": step}.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._open.setdefault(name, []).append(float(value))
        found = [finding for finding in found if finding.rule not in self._quiet]
        self._quiet.update({finding.rule: self.guards.window for finding in found})
        return found

    def _look(self, step: int) -> list[Finding]:
        """The rules on the last `window` rollouts."""
        size = self.guards.window
        window = self._done[-size:]
        if len(window) < size:
            return []
        since = int(window[0]["first"]) - 1
        found = []
        for rule, (series, sign, says, remedy) in SERIES.items():
            values = _values(window, series)
            if rule not in self.rules or not values:
                continue
            value, limit = statistics.median(values), self.rules[rule].limit
            if sign * (value - limit) > 0:
                found.append(
                    Finding(rule, step, since, f"{says}: {value:.4g}, limit {limit:g}, over {size} rollouts", remedy)
                )
        return found + self._form_without_answers(step, window)

    def _form_without_answers(self, step: int, window: list[dict[str, float]]) -> list[Finding]:
        right, form = _mean(window, RIGHT), _mean(window, FORMAT)
        first = _mean(self._done[: self.guards.window], FORMAT)
        rule = self.rules.get("format_up_accuracy_down")
        if rule is None or right is None or form is None or first is None:
            return []
        if self._best is None or right > self._best[0]:
            self._best = (right, int(window[-1]["last"]))
        best, until = self._best
        if best - right <= rule.limit or form - first < SIGNIFICANT_RISE:
            return []
        what = (
            f"share right {best:.3f} -> {right:.3f} since update {until}, while format went {first:.3f} -> {form:.3f}"
        )
        remedy = "a lower lr, more prompts an update, or a smaller weight of format"
        return [Finding("format_up_accuracy_down", step, until, what, remedy)]


def _values(window: list[dict[str, float]], series: str) -> list[float]:
    return [rollout[series] for rollout in window if series in rollout]


def _mean(window: list[dict[str, float]], series: str) -> float | None:
    values = _values(window, series)
    return sum(values) / len(values) if values else None


# --- what is done about it --------------------------------------------------------------------------------------------


class GuardCallback(TrainerCallback):
    """Feeds the trainer's log to the rules and acts on what they find.

    Attributes:
        rollback: the finding that asks for a rollback; the training loop has been told to end.
    """

    def __init__(self, guards: Guards, here: Here) -> None:
        self.guards, self.here, self.watch = guards, here, Watch(guards)
        self.rollback: Finding | None = None
        self.findings = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The numbers are the same on every rank, and so is what follows.

        Raises:
            GuardError: a rule whose action is `pause` has found something.
        """
        if not logs or "loss" not in logs or self.rollback is not None:
            return
        for finding in self.watch.feed(state.global_step, logs):
            action = self.watch.rules[finding.rule].action
            self.findings += 1
            self.here.log(step=finding.step, guard=finding.rule, action=action, what=finding.what)
            if action == "pause":
                raise stopped(finding, self.here)
            if action == "rollback" and self.rollback is None:
                self.rollback = finding
                control.should_training_stop = True
            elif state.is_world_process_zero:
                warnings.warn(
                    f"guard {finding.rule} at update {finding.step}: {finding.what}; what helps: {finding.remedy}",
                    stacklevel=1,
                )


def stopped(finding: Finding, here: Here, why: str = "") -> GuardError:
    """The error that ends the stage."""
    kept = sorted(checkpoints(here))
    saved = (
        f"the last checkpoint is of update {kept[-1]}, and the same command goes on from it"
        if kept
        else "no checkpoint was saved (save_every)"
    )
    what = f"guard {finding.rule} stopped the training at update {finding.step}: {finding.what}" + (
        f"; {why}" if why else ""
    )
    return GuardError(
        what,
        f"grpo.guards.{finding.rule}",
        f"{finding.remedy}, then --rebuild {here.stage}; or action: warn. {saved[0].upper()}{saved[1:]}.",
    )


# --- rolling back -----------------------------------------------------------------------------------------------------


def checkpoints(here: Here) -> dict[int, Path]:
    """The trainer's checkpoints by update."""
    return {
        int(path.name.rpartition("-")[2]): path
        for path in (here.workdir / "trainer").glob("checkpoint-*")
        if path.name.rpartition("-")[2].isdigit()
    }


def past_rollbacks(here: Here) -> list[dict[str, Any]]:
    """The rollbacks of this stage so far, earlier attempts included."""
    path = here.workdir / "rollbacks.json"
    return json.loads(path.read_text()) if path.is_file() else []


def roll_back(finding: Finding, guards: Guards, here: Here) -> int:
    """Remove the checkpoints made since the trouble began, so that training goes on from the one before; its update.

    Raises:
        GuardError: this has been done too often, or no checkpoint is old enough.
    """
    before = past_rollbacks(here)
    if len(before) >= guards.max_rollbacks:
        raise stopped(finding, here, f"{len(before)} rollbacks did not help")
    kept = checkpoints(here)
    good = [step for step in kept if step <= finding.since]
    if not good:
        none = "it began with the first rollouts, and nothing is before them to go back to"
        raise stopped(
            finding, here, f"no checkpoint is left from update {finding.since} or before" if finding.since else none
        )
    if here.main:
        for step in kept:
            if step > max(good):
                shutil.rmtree(kept[step])
        record = [*before, asdict(finding) | {"to": max(good)}]
        (here.workdir / "rollbacks.json").write_text(json.dumps(record, indent=1))
        lr = guards.rollback_lr ** len(record)
        warnings.warn(
            f"guard {finding.rule} at update {finding.step}: {finding.what}; back to update {max(good)} with {lr:g} of the learning rate",
            stacklevel=1,
        )
    return max(good)


class LearningRate(TrainerCallback):
    """Sets the learning rate after the trainer has read a checkpoint, which brings the old one back."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        scheduler = kwargs["lr_scheduler"]
        scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's is around it
        for group in kwargs["optimizer"].param_groups:
            group["lr"] *= self.lr / group["initial_lr"]
            group["initial_lr"] = self.lr
        scheduler.base_lrs = [self.lr] * len(scheduler.base_lrs)
        scheduler._last_lr = [
            group["lr"] for group in kwargs["optimizer"].param_groups
        ]  # what is logged of the first update
