"""A reward of a phase that applies to no row is refused, with the column that it lacks."""

from __future__ import annotations

from typing import Any

import pytest

from r1pipe.errors import InputError
from r1pipe.rewards.coverage import refuse_idle_rewards
from r1pipe.schema import Phase, RewardSpec

MATH = {"id": "m", "domain": "math", "prompt": "6*7?", "answer": "42"}
CODE = {"id": "c", "domain": "code", "prompt": "f?", "tests": {"kind": "asserts", "asserts": ["f()"]}}
GENERAL = {"id": "g", "domain": "general", "prompt": "Hello?"}
HARMFUL = {"id": "h", "domain": "harmful", "prompt": "Harm?"}


def phase(*names: str, **fields: Any) -> Phase:
    return Phase(steps=1, rewards=[RewardSpec(name=name, **fields) for name in names])


@pytest.mark.parametrize(
    ("rewards", "rows", "says"),
    [
        (
            phase("accuracy", "format"),
            [GENERAL, {**MATH, "answer": None}],
            "`accuracy` applies to none of 2 .*`answer`",
        ),
        (phase("accuracy"), [CODE], "`accuracy` applies to none of 1 prompts.*judged by these"),
        (phase("accuracy", "code"), [MATH], "`code` applies to none of 1 prompts: .* has `tests`"),
        (phase("reasoning_gym"), [MATH], "`reasoning_gym` applies to none.*`gym`"),
        (phase("judge"), [GENERAL], "`judge` applies to none.*`reference` or `answer`"),
        (phase("helpful"), [MATH, HARMFUL], "for rows of general, lookalike, and these are of math, harmful"),
        (phase("format", domains=["maths"]), [MATH], "for rows of maths, and these are of math"),
    ],
)
def test_a_reward_that_cannot_fire_is_refused(rewards: Phase, rows: list[dict], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        refuse_idle_rewards([phase("constant"), rewards], {"prompts": rows})
    assert caught.value.where == "grpo.phases.1.rewards" and "columns" in caught.value.fix


def test_one_row_is_enough_and_code_that_cannot_be_isolated_is_left_out_anyway() -> None:
    refuse_idle_rewards([phase("accuracy", "code", "format", "language")], {"prompts": [MATH, CODE, GENERAL]})
    refuse_idle_rewards([phase("accuracy", "code")], {"prompts": [MATH]}, isolation=lambda: False)
    both = Phase(steps=1, prompts={"prompts": 1, "general": 1}, rewards=phase("accuracy", "helpful").rewards)
    refuse_idle_rewards([both], {"prompts": [MATH], "general": [GENERAL]})
    refuse_idle_rewards([both], {"prompts": [CODE]}), "rows of the other port are not known yet"
