"""Guards: rules that watch RL while it runs, by what the trainer logs; they warn, stop the stage, or roll it back.

    non_finite                 the loss or the gradient norm is not a finite number
    zero_signal                groups whose rewards are all equal teach nothing
    entropy                    the policy has stopped exploring
    kl                         the policy has left its reference far behind
    length                     responses are cut off at max_tokens
    repetition                 responses repeat themselves
    format_up_accuracy_down    the reward rises by form while the answers get worse
    constant_reward            a reward had one value for every response of the first rollouts

A rule reads the median of `window` rollouts of one phase (the last one the mean), so one odd batch is not a finding.
The limits are our choice (schema.Guards). A rollback resumes from an earlier checkpoint of the trainer at a lower
rate. As in any resume, all states come back; only the rollouts that follow draw other responses than before.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any, NamedTuple

from r1pipe.schema import Guards
from r1pipe.training.grpo.constant_rewards import constant_rewards

# The least number of the trainer's checkpoints that are kept; arguments.py keeps more where the window is longer. How
# far the best window of format_up_accuracy_down lies back has no bound.
KEPT_FOR_ROLLBACK = 8
# How much the format reward must have risen before a fall of accuracy is blamed on it.
SIGNIFICANT_RISE = 0.02

FORMAT_SERIES = "rewards/format/mean"
RIGHT_SERIES = "right"
LENGTH_SERIES = "completions/mean_length"
LOG_RATIO_SERIES = "log_ratio_max"

# one rollout: metric -> its mean, with the rollout's `first` and `last` update
RolloutMeans = dict[str, float]


class Rule(NamedTuple):
    """A limit on the median of a metric.

    Attributes:
        series: the name under which the trainer logs it.
        sign: +1 = bad above the limit, -1 = bad below it.
        meaning: what the number is.
        remedy: what the user can change.
    """

    series: str
    sign: int
    meaning: str
    remedy: str


MEDIAN_RULES: dict[str, Rule] = {
    "zero_signal": Rule(
        series="zero_signal",
        sign=1,
        meaning="share of groups without signal",
        remedy="prompts of other difficulty, larger groups, or fewer updates",
    ),
    "entropy": Rule(
        series="entropy",
        sign=-1,
        meaning="entropy of a token in nats",
        remedy="a lower lr, a higher temperature, or fewer updates",
    ),
    "kl": Rule(
        series="kl",
        sign=1,
        meaning="KL to the reference in nats a token",
        remedy="a lower lr, a higher beta, or a reference that is replaced more often",
    ),
    "length": Rule(
        series="completions/clipped_ratio",
        sign=1,
        meaning="share of responses cut off at max_tokens",
        remedy="a larger max_tokens, or the length reward",
    ),
    "repetition": Rule(
        series="repetition",
        sign=1,
        meaning="repeated share of a response's 6-grams",
        remedy="the repetition reward, or a lower lr",
    ),
}


@dataclass(frozen=True)
class Finding:
    """A rule's limit was crossed.

    Attributes:
        rule: the rule's name.
        step: updates done when it was noticed.
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
        self._rollouts: list[RolloutMeans] = []
        # what was logged of the rollout that goes on: metric -> its values
        self._current: dict[str, list[float]] = {}
        # rule -> rollouts until it may speak again
        self._quiet: dict[str, int] = {}
        self._non_finite_updates = 0
        # of format_up_accuracy_down: (share right in the best window, its last update)
        self._best: tuple[float, int] | None = None

    def feed(self, step: int, logs: dict[str, Any]) -> list[Finding]:
        """Read a line of the trainer's log; a line with `reward` begins a rollout.

        Args:
            step: updates done.
            logs: the line; values that are not finite numbers are passed over.

        Returns:
            the findings that the line leads to. A rule that has spoken is quiet for a window.
        """
        findings = self._check_finite(step, logs) + self._check_log_ratio(step, logs)
        if "reward" in logs and self._current:
            self._close_rollout()
            findings += self._check_window(step)
        for name, value in {**logs, "step": step}.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._current.setdefault(name, []).append(float(value))

        # A rule that has spoken stays quiet for a window: its window still holds the same trouble.
        findings = [finding for finding in findings if finding.rule not in self._quiet]
        self._quiet.update({finding.rule: self.guards.window for finding in findings})
        return findings

    def _check_finite(self, step: int, logs: dict[str, Any]) -> list[Finding]:
        """The rule non_finite, which does not wait for a window."""
        bad = []
        for name in ("loss", "grad_norm"):
            value = logs.get(name)
            if isinstance(value, float) and not math.isfinite(value):
                bad.append(name)
        self._non_finite_updates = self._non_finite_updates + 1 if bad else 0

        rule = self.rules.get("non_finite")
        if rule is None or self._non_finite_updates <= rule.limit:
            return []
        return [
            Finding(
                "non_finite",
                step,
                since=step - self._non_finite_updates,
                what=f"{' and '.join(bad)} not finite in {self._non_finite_updates} update(s) running",
                remedy="a lower lr, more warm-up, a smaller max_grad_norm, or bf16: false",
            )
        ]

    def _check_log_ratio(self, step: int, logs: dict[str, Any]) -> list[Finding]:
        """The rule log_ratio, which does not wait for a window either."""
        rule = self.rules.get("log_ratio")
        value = logs.get(LOG_RATIO_SERIES)
        if rule is None or not isinstance(value, float) or not value > rule.limit:
            return []
        # the updates of this rollout have done it
        first_of_rollout = self._current.get("step", [step])[0]
        return [
            Finding(
                "log_ratio",
                step,
                since=step if "reward" in logs else int(first_of_rollout) - 1,
                what=f"the log-prob of a token moved by {value:.3g} nats since it was drawn, limit {rule.limit:g}",
                remedy="a lower lr, more warm-up, or fewer minibatches_per_rollout",
            )
        ]

    def _close_rollout(self) -> None:
        """Turn what was logged since the last rollout into its means."""
        self._quiet = {rule: left - 1 for rule, left in self._quiet.items() if left > 1}

        means = {name: sum(values) / len(values) for name, values in self._current.items()}
        means["first"] = self._current["step"][0]
        means["last"] = self._current["step"][-1]
        self._current = {}

        new_phase = bool(self._rollouts) and means.get("phase") != self._rollouts[-1].get("phase")
        if new_phase:
            # other prompts, lengths and rewards: numbers from before do not compare
            self._rollouts = []
            self._best = None
        self._rollouts.append(means)

    def _check_window(self, step: int) -> list[Finding]:
        """The rules on the last `window` rollouts."""
        size = self.guards.window
        window = self._rollouts[-size:]
        if len(window) < size:
            return []
        # the trouble can have begun with the first update of the window
        since = int(window[0]["first"]) - 1

        findings = []
        for name, rule in MEDIAN_RULES.items():
            values = _values(window, rule.series)
            if name not in self.rules or not values:
                continue
            value = statistics.median(values)
            limit = self.rules[name].limit
            if rule.sign * (value - limit) > 0:
                what = f"{rule.meaning}: {value:.4g}, limit {limit:g}, over {size} rollouts"
                findings.append(Finding(name, step, since, what, rule.remedy))
        if len(self._rollouts) == size:
            findings += self._check_constant_rewards(step, window)
        return findings + self._check_form_without_answers(step, window) + self._check_collapse(step, window)

    def _check_collapse(self, step: int, window: list[RolloutMeans]) -> list[Finding]:
        """The rule length_collapse, which compares with the first window of the phase."""
        rule = self.rules.get("length_collapse")
        first_window = self._rollouts[: self.guards.window]
        tokens = _mean(window, LENGTH_SERIES)
        first_tokens = _mean(first_window, LENGTH_SERIES)
        form = _mean(window, FORMAT_SERIES)
        first_form = _mean(first_window, FORMAT_SERIES)
        if rule is None or tokens is None or first_tokens is None or form is None or first_form is None:
            return []
        if tokens >= rule.limit * first_tokens or form - first_form < SIGNIFICANT_RISE:
            return []
        return [
            Finding(
                "length_collapse",
                step,
                since=int(first_window[-1]["last"]),
                what=f"responses went from {first_tokens:.0f} to {tokens:.0f} tokens, "
                f"while format went {first_form:.3f} -> {form:.3f}",
                remedy="a prompt template after which more responses are well-formed from the start (one with an "
                "example, or `stop`), or accuracy alone in a first phase",
            )
        ]

    def _check_constant_rewards(self, step: int, window: list[RolloutMeans]) -> list[Finding]:
        """The rule constant_reward, on the first rollouts of a phase."""
        rule = self.rules.get("constant_reward")
        if rule is None:
            return []
        constant = constant_rewards(window, rule.limit)
        if not constant:
            return []
        shown = ", ".join(f"{name} was {value:.4g}" for name, value in constant.items())
        return [
            Finding(
                "constant_reward",
                step,
                since=int(window[0]["first"]) - 1,
                what=f"{shown} for every response of the first {len(window)} rollouts, so it teaches nothing",
                remedy="read a few responses and what the reward asks for (`r1pipe audit rewards`): the form, the "
                "template and its tags, max_tokens, the difficulty; or leave the reward out",
            )
        ]

    def _check_form_without_answers(self, step: int, window: list[RolloutMeans]) -> list[Finding]:
        """The rule format_up_accuracy_down.

        It compares the share right with the best window's, and the format reward with the first window's.
        """
        rule = self.rules.get("format_up_accuracy_down")
        right = _mean(window, RIGHT_SERIES)
        form = _mean(window, FORMAT_SERIES)
        first_form = _mean(self._rollouts[: self.guards.window], FORMAT_SERIES)
        if rule is None or right is None or form is None or first_form is None:
            return []

        if self._best is None or right > self._best[0]:
            self._best = (right, int(window[-1]["last"]))
        best, best_update = self._best
        if best - right <= rule.limit or form - first_form < SIGNIFICANT_RISE:
            return []
        return [
            Finding(
                "format_up_accuracy_down",
                step,
                since=best_update,
                what=f"share right {best:.3f} -> {right:.3f} since update {best_update}, "
                f"while format went {first_form:.3f} -> {form:.3f}",
                remedy="a lower lr, more prompts an update, or a smaller weight of format",
            )
        ]


def _values(window: list[RolloutMeans], series: str) -> list[float]:
    return [rollout[series] for rollout in window if series in rollout]


def _mean(window: list[RolloutMeans], series: str) -> float | None:
    values = _values(window, series)
    return sum(values) / len(values) if values else None
