"""The stretches that reinforcement learning consists of, and the rewards of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from r1pipe.schema.base import Model
from r1pipe.schema.secrets import check_params

Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]


class RewardSpec(Model):
    """One component of the reward; components are summed (v2 eq. 4, 8)."""

    name: str
    """A name in r1pipe.rewards.REWARDS, or package.module:function."""

    weight: float = 1.0
    """The paper adds components with the same weight (v2 eq. 4)."""

    params: Annotated[dict[str, Any], AfterValidator(check_params)] = Field(default_factory=dict)
    """Further arguments of the reward function."""

    required: bool | None = None
    """Whether a row that the reward cannot judge is left out of its group; none = the reward's own default."""

    domains: list[str] | None = None
    """Domains of the rows that it applies to; none = wherever it can judge."""


class Phase(Model):
    """A stretch of RL. Optimizer, scheduler, reference and step count continue from one phase to the next."""

    steps: int = Field(ge=1, le=10**8)
    """Updates of the policy (v2 Fig. 1: a step is one update)."""

    max_tokens: int = Field(default=32768, ge=1, le=2**24)
    """Tokens of a response (v2 2.1, 3.2.1)."""

    temperature: float = Field(default=1.0, gt=0, le=10)
    """1.0 in v2 2.1 and 3.2.1, 0.7 in 3.2.2."""

    prompts: dict[str, float] = Field(default_factory=lambda: {"prompts": 1.0})
    """Input port -> share of the prompts (the mix is not published)."""

    rewards: list[RewardSpec] = Field(min_length=1)
    """Summed with their weights."""

    @field_validator("prompts")
    @classmethod
    def _shares_are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or min(value.values()) <= 0:
            raise ValueError("give at least one prompt source, each with a share above 0")
        return value
