"""What is done about the findings of the guards (guards.py): warn, stop, or go back to an earlier checkpoint.

A rollback resumes from an earlier checkpoint of the trainer at a lower rate. The optimizer's state, the reference and
the place in the data come back; the rollouts that follow draw other responses than before.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate.scheduler import AcceleratedScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from r1pipe.data.io import atomic_file
from r1pipe.errors import GuardError
from r1pipe.here import Here
from r1pipe.schema import Guards
from r1pipe.training import checkpoints as files
from r1pipe.training.grpo.guards import Finding, Watch


class GuardCallback(TrainerCallback):
    """Feeds the trainer's log to the rules and acts on their findings.

    Attributes:
        rollback: the finding that asks for a rollback; the training loop was asked to end.
        findings: how many there were.
    """

    def __init__(self, guards: Guards, here: Here) -> None:
        self.here = here
        self.watch = Watch(guards)
        self.rollback: Finding | None = None
        self.findings = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read again what was logged up to the checkpoint, so that windows go on where they were."""
        self.watch = Watch(self.watch.guards)
        self.findings = 0
        for line in state.log_history:
            if "loss" in line:
                self.findings += len(self.watch.feed(int(line["step"]), line))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The numbers are the same on every rank, and so is what follows from them.

        Raises:
            GuardError: a rule whose action is `pause` has found something.
        """
        # Lines without a loss are summaries. After a rollback was asked for, what is logged before the loop ends is of
        # updates that will not count.
        if not logs or "loss" not in logs or self.rollback is not None:
            return
        for finding in self.watch.feed(state.global_step, logs):
            action = self.watch.rules[finding.rule].action
            # before anything is raised, so that the reason is in metrics.jsonl
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
    """The error that ends the stage.

    Args:
        why: why a rollback did not help.
    """
    what = f"guard {finding.rule} stopped the training at update {finding.step}: {finding.what}"
    if why:
        what = f"{what}; {why}"
    kept = sorted(checkpoints(here))
    if kept:
        saved = f"The last checkpoint is of update {kept[-1]}, and the same command goes on from it."
    else:
        saved = "No checkpoint was saved (save_every)."
    fix = f"{finding.remedy}, then --rebuild {here.stage}; or action: warn. {saved}"
    return GuardError(what, f"grpo.guards.{finding.rule}", fix)


# --- rolling back -----------------------------------------------------------------------------------------------------


def checkpoints(here: Here) -> dict[int, Path]:
    """The trainer's checkpoints: update -> folder."""
    return files.checkpoints(here.workdir / "trainer")


def past_rollbacks(here: Here) -> list[dict[str, Any]]:
    """The rollbacks of this stage so far, earlier attempts included.

    Raises:
        InputError: the file that keeps them is damaged.
    """
    return files.read_record(here.workdir / "rollbacks.json", here, _rollbacks) or []


def _rollbacks(record: Any) -> list[dict[str, Any]]:
    if not all({"to", "removed"} <= rollback.keys() for rollback in record):
        raise ValueError(record)
    return record


def roll_back(finding: Finding, guards: Guards, here: Here) -> int:
    """Remove the checkpoints made since the trouble began, so that training goes on from the one before.

    Returns:
        the update of that checkpoint.

    Raises:
        GuardError: there were too many rollbacks, or no checkpoint is old enough.
    """
    before = past_rollbacks(here)
    if len(before) >= guards.max_rollbacks:
        raise stopped(finding, here, f"{len(before)} rollbacks did not help")

    kept = checkpoints(here)
    good = [step for step, folder in kept.items() if step <= finding.since and not files.fault(folder)]
    if not good and finding.since:
        raise stopped(finding, here, f"no checkpoint is left from update {finding.since} or before")
    if not good:
        why = "it began with the first rollouts, and nothing is before them to go back to"
        raise stopped(finding, here, why)

    # the record outlives a kill: a later attempt knows how often, at which rate, and what is still to be removed
    target = max(good)
    if here.main:
        record = [*before, asdict(finding) | {"to": target, "removed": False}]
        _write_rollbacks(record, here)
        finish_rollback(here)
        rate = guards.rollback_lr ** len(record)
        warnings.warn(
            f"guard {finding.rule} at update {finding.step}: {finding.what}; "
            f"back to update {target} with {rate:g} of the learning rate",
            stacklevel=1,
        )
    return target


def finish_rollback(here: Here) -> None:
    """Remove the checkpoints after the last rollback's target, also where a kill has cut that short (rank 0)."""
    record = past_rollbacks(here)
    if not here.main or not record or record[-1]["removed"]:
        return
    for step, folder in checkpoints(here).items():
        if step > record[-1]["to"]:
            files.remove(folder)
    record[-1]["removed"] = True
    _write_rollbacks(record, here)


def _write_rollbacks(record: list[dict[str, Any]], here: Here) -> None:
    with atomic_file(here.workdir / "rollbacks.json") as stream:
        stream.write(json.dumps(record, indent=1).encode())


class LearningRate(TrainerCallback):
    """Sets the learning rate after the trainer has read a checkpoint, which brings the old one back."""

    def __init__(self, lr: float) -> None:
        self.lr = lr

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        groups = kwargs["optimizer"].param_groups
        for group in groups:
            group["lr"] *= self.lr / group["initial_lr"]
            group["initial_lr"] = self.lr

        scheduler = kwargs["lr_scheduler"]
        if isinstance(scheduler, AcceleratedScheduler):
            scheduler = scheduler.scheduler
        scheduler.base_lrs = [self.lr] * len(scheduler.base_lrs)
        # the rate that is logged for the first update
        scheduler._last_lr = [group["lr"] for group in groups]
