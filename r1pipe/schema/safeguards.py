"""What is checked before reinforcement learning (the audit), and while it runs (the guards)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from r1pipe.schema.base import Model


class Guard(Model):
    """One rule that watches RL, and what happens when it finds something."""

    action: Literal["off", "warn", "pause", "rollback"] = "warn"
    """pause = stop with a reason, exit code 1; rollback = continue from the last checkpoint before the finding."""

    limit: float
    """The rule's threshold, in the rule's unit."""


class Guards(Model):
    """What must not happen unnoticed during RL.

    The limits are our choice: no run of the shipped recipe comes near them.
    """

    window: int = Field(default=4, ge=1)
    """Rollouts that a rule looks at together before it reports, and before it reports again."""

    non_finite: Guard = Guard(action="pause", limit=0)
    """Limit: consecutive updates whose loss or gradient norm is not a number."""

    zero_signal: Guard = Guard(limit=0.95)
    """Limit: share of groups whose rewards are all equal, so that they teach nothing."""

    entropy: Guard = Guard(limit=0.002)
    """Limit, from below: entropy in nats per token. Below it the policy has stopped exploring."""

    kl: Guard = Guard(limit=5.0)
    """Limit: k3 estimate of the KL to the reference, in nats per token."""

    length: Guard = Guard(limit=0.5)
    """Limit: share of responses that are cut off at max_tokens."""

    repetition: Guard = Guard(limit=0.3)
    """Limit: mean share of a response's 6-grams that it has used before."""

    format_up_accuracy_down: Guard = Guard(limit=0.15)
    """Limit: how far accuracy fell from its best window while format rose from its first: reward without answers.

    With 8 problems a rollout, chance alone moves the mean of 4 rollouts that far now and then: give such a training a
    longer `window` before you let this guard act.
    """

    length_collapse: Guard = Guard(action="pause", limit=0.3)
    """Limit, from below: mean tokens of a response over those of the first window, while format rose.

    Where well-formed answers are rare and short ones are easily well-formed, RL learns the form and stops reasoning.
    """

    log_ratio: Guard = Guard(limit=9.0)
    """Limit: nats by which the updates of one rollout move the log-prob of one of its tokens."""

    constant_reward: Guard = Guard(limit=1e-6)
    """Limit: how far a reward's values may differ over the first window of a phase to count as one value, below 1."""

    max_rollbacks: int = Field(default=2, ge=1)
    """After this many rollbacks the stage stops."""

    rollback_lr: float = Field(default=0.5, gt=0, le=1)
    """The learning rate is multiplied by this at each rollback."""

    def rules(self) -> dict[str, Guard]:
        """The rules by name."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, Guard)}


class AuditParams(Model):
    """What the rewards must show before RL starts, and in `r1pipe audit rewards`.

    Not part of a fingerprint. All thresholds are our choice.
    """

    before_training: bool = True
    """Audit a sample before the first update. Beyond a threshold the stage stops with exit code 1."""

    sample: int = Field(default=16, ge=1)
    """Prompts that are scored before training. Every gold answer is parsed."""

    max_unparseable: float = Field(default=0.01, ge=0, le=1)
    """Share of gold answers that do not parse."""

    min_gold: float = Field(default=0.98, ge=0, le=1)
    """Mean score of gold solutions by accuracy and code."""

    max_adversarial: float = Field(default=0.02, ge=0, le=1)
    """Mean score that a reward gives to responses which deserve 0."""

    max_unjudged: float = Field(default=0.01, ge=0, le=1)
    """Share of responses with good gold for which a required reward returns None."""

    max_disagreement: float = Field(default=0.05, ge=0, le=1)
    """Share of responses for which accuracy and TRL's accuracy_reward differ."""
