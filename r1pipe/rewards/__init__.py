"""Rewards: pure functions from responses to numbers, and the one place that combines them.

`REWARDS[name](completions, **columns) -> list[float | None]` has TRL's signature. None means 'cannot judge', which is not 0:
TRL alone would sum it as 0, so that a timeout punishes the policy without a word. `score` therefore keeps apart

- not applicable: the row lacks what the reward reads, or is of another domain; the component is None, the row is scored without it;
- not judged: the reward applies and returned None. If the component is required, the whole row is unscorable: its total is None.

`helpful` and `harmless` are no functions of the text alone; their models come in through `models`, loaded once a rank. `judge` and a
remote executor of `code` ask a service over HTTP where a spec's `params` name one, and keep one client a process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, cast

from r1pipe.errors import ConfigError
from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.code import code
from r1pipe.rewards.controls import constant, random_reward
from r1pipe.rewards.format import format_reward
from r1pipe.rewards.judge import judge
from r1pipe.rewards.language import language
from r1pipe.rewards.length import length
from r1pipe.rewards.reasoning_gym import reasoning_gym
from r1pipe.rewards.repetition import repetition
from r1pipe.rewards.texts import Completion, prompt_of, text_of
from r1pipe.schema import JudgeEndpoint, RewardSpec
from r1pipe.text.response import split_response
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN

Reward = Callable[..., list[float | None]]
Known = Mapping[
    str, Mapping[int, float | None]
]  # of a component, by its name, what it says of some completions, by their place
Scorer = Callable[
    [list[str], list[str]], list[float]
]  # (prompts, responses) -> rewards; a reward model, already calibrated

REWARDS: dict[str, Reward] = {
    "accuracy": accuracy,
    "code": code,
    "reasoning_gym": reasoning_gym,
    "format": format_reward,
    "language": language,
    "repetition": repetition,
    "length": length,
    "judge": judge,
    "constant": constant,
    "random": random_reward,
}
# Domains that a model's reward applies to unless the spec says otherwise (v2 3.1: each general query is in one set or the other).
MODEL_REWARDS: dict[str, tuple[str, ...]] = {
    "helpful": (GENERAL_DOMAIN, LOOKALIKE_DOMAIN),
    "harmless": (HARMFUL_DOMAIN,),
}
MODEL_PORTS = {"helpful": "helpful_rm", "harmless": "safety_rm"}  # the input of a stage that holds the reward's model
VERDICTS = frozenset({"accuracy", "code", "reasoning_gym"})
EARLY = frozenset({"accuracy", "code", "judge"})
REQUIRED = VERDICTS | {"judge", *MODEL_REWARDS}


@dataclass(frozen=True)
class Scores:
    """What `score` found, one entry a completion.

    Attributes:
        components: name -> rewards before weighting; None = not applicable or not judged.
        totals: weighted sums; None = unscorable: a required component could not judge, or none applied.
        applied: name -> rows that the component applies to.
        unjudged: name -> how many of those it returned None for.
    """

    components: dict[str, list[float | None]]
    totals: list[float | None]
    applied: dict[str, list[bool]] = field(default_factory=dict)
    unjudged: dict[str, int] = field(default_factory=dict)

    def put(self, to: int, other: Scores, source: int) -> None:
        """Another completion in the place of this one: its scores by the same specs."""
        self.totals[to] = other.totals[source]
        for name, values in self.components.items():
            self.unjudged[name] += other._not_judged(name, source) - self._not_judged(name, to)
            values[to], self.applied[name][to] = other.components[name][source], other.applied[name][source]

    def _not_judged(self, name: str, i: int) -> int:
        return int(self.applied[name][i] and self.components[name][i] is None)


def resolve(name: str) -> Reward:
    """The reward function of that name: a key of REWARDS, or package.module:function.

    Raises:
        ConfigError: there is no such function.
    """
    if name in REWARDS:
        return REWARDS[name]
    module, colon, function = name.partition(":")
    if colon:
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"reward `{name}` cannot be imported: {error}",
                fix="give package.module:function of something on the Python path",
            ) from error
        if callable(found):
            return cast(Reward, found)
    known = ", ".join([*REWARDS, *MODEL_REWARDS])
    raise ConfigError(f"there is no reward `{name}`", fix=f"use one of {known}, or package.module:function")


def component_names(specs: Sequence[RewardSpec]) -> list[str]:
    """What each component is called: its reward's name; a name that stands twice is name#2 the second time.

    >>> component_names([RewardSpec(name="format"), RewardSpec(name="format")])
    ['format', 'format#2']
    """
    names: list[str] = []
    for spec in specs:
        name, copies = spec.name, 2
        while name in names:
            name, copies = f"{spec.name}#{copies}", copies + 1
        names.append(name)
    return names


def is_required(spec: RewardSpec) -> bool:
    """Whether a row that the component cannot judge is unscorable as a whole."""
    return spec.required if spec.required is not None else spec.name in REQUIRED


def applies(spec: RewardSpec, row: Mapping[str, Any]) -> bool:
    """Whether the component has anything to judge in this row.

    Accuracy needs an `answer`, code needs `tests`, reasoning_gym needs `gym`; a row with tests or `gym` is judged by these alone.
    A judge needs a `reference` or an `answer`.
    """
    domain = row.get("domain")
    if spec.domains is not None:
        if domain not in spec.domains:
            return False
    elif spec.name in MODEL_REWARDS:
        return domain in MODEL_REWARDS[spec.name]
    if spec.name == "accuracy":
        return row.get("answer") is not None and not row.get("tests") and not row.get("gym")
    if spec.name == "code":
        return bool(row.get("tests"))
    if spec.name == "reasoning_gym":
        return bool(row.get("gym"))
    if spec.name == "judge":
        return row.get("reference") is not None or row.get("answer") is not None
    return True


def score_early(
    specs: Sequence[RewardSpec], completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]
) -> Known:
    """What those components say that judge each response by itself, in other processes or on other machines; `score` takes it for known."""
    applied = _applied(specs, rows)
    named = zip(specs, component_names(specs), strict=True)
    return {name: _judge(spec, applied[name], completions, rows, {}) for spec, name in named if spec.name in EARLY}


def score(
    specs: Sequence[RewardSpec],
    completions: Sequence[Completion],
    rows: Sequence[Mapping[str, Any]],
    models: Mapping[str, Scorer] | None = None,
    known: Known | None = None,
) -> Scores:
    """Judge every completion by every component that applies to its row.

    A row that a reward model judges is not judged by a rule as well, unless the rule's `domains` name it (v2 3.2.2: rules for reasoning data,
    reward models for general data): a rule reads an answer out of a courteous reply less often than out of a bare one, and would train that.

    Args:
        specs: the components; a name may stand twice, the second is then called name#2.
        completions: one response a row.
        rows: what each response answers (r1pipe/text/rows.py); give `completion_ids` or `tokens` for the length reward.
        models: `helpful` and `harmless`, where specs name them. helpful is given the summary only, harmless the whole response.
        known: what need not be judged any more (score_early).

    Raises:
        ConfigError: an unknown reward, parameters it does not take, or a model that is not there.
    """
    assert len(completions) == len(rows), f"{len(completions)} completions for {len(rows)} rows"
    components: dict[str, list[float | None]] = {}
    applied = _applied(specs, rows)
    unjudged: dict[str, int] = {}
    totals: list[float | None] = [0.0] * len(rows)
    scorable = [False] * len(rows)
    for spec, name in zip(specs, component_names(specs), strict=True):
        found = (known or {}).get(name, {})
        values = _judge(
            spec, [yes and i not in found for i, yes in enumerate(applied[name])], completions, rows, models or {}
        )
        values |= {i: found[i] for i, yes in enumerate(applied[name]) if yes and i in found}
        components[name] = [None] * len(rows)
        unjudged[name] = sum(value is None for value in values.values())
        for i, value in values.items():
            components[name][i] = value
            total = totals[i]
            if value is None:
                totals[i] = None if is_required(spec) else total
            elif total is not None:
                totals[i] = total + spec.weight * value
            scorable[i] |= value is not None
    return Scores(
        components, [total if ok else None for total, ok in zip(totals, scorable, strict=True)], applied, unjudged
    )


def _applied(specs: Sequence[RewardSpec], rows: Sequence[Mapping[str, Any]]) -> dict[str, list[bool]]:
    """Of each component, the rows that it judges."""
    modelled = {
        i for i, row in enumerate(rows) if any(spec.name in MODEL_REWARDS and applies(spec, row) for spec in specs)
    }
    applied = {}
    for spec, name in zip(specs, component_names(specs), strict=True):
        left = modelled if spec.name in VERDICTS and spec.domains is None else set()
        applied[name] = [i not in left and applies(spec, row) for i, row in enumerate(rows)]
    return applied


def _judge(
    spec: RewardSpec,
    chosen: Sequence[bool],
    completions: Sequence[Completion],
    rows: Sequence[Mapping[str, Any]],
    models: Mapping[str, Scorer],
) -> dict[int, float | None]:
    """What the component says of the chosen completions, by their place."""
    places = [i for i, yes in enumerate(chosen) if yes]
    values = _values(spec, [completions[i] for i in places], [rows[i] for i in places], models) if places else []
    return dict(zip(places, values, strict=True))


def _values(
    spec: RewardSpec, completions: list[Completion], rows: list[Mapping[str, Any]], models: Mapping[str, Scorer]
) -> list[float | None]:
    if spec.name in MODEL_REWARDS:
        if spec.name not in models:
            raise ConfigError(
                f"the reward `{spec.name}` needs a reward model",
                fix=f"give the stage a `{spec.name}` reward model as input",
            )
        texts = [text_of(completion) for completion in completions]
        # v2 3.2.2: helpfulness is judged on the summary, safety on the whole response.
        judged = [split_response(text).summary for text in texts] if spec.name == "helpful" else texts
        values = list(models[spec.name]([prompt_of(row.get("prompt")) for row in rows], judged))
        return [None if value != value else float(value) for value in values]  # a model's NaN is no verdict
    reward = resolve(spec.name)
    parameters = signature(reward).parameters
    taken = {"completions", *spec.params}
    if spec.name in REWARDS:
        known = [*parameters, *(JudgeEndpoint.model_fields if spec.name == "judge" else ())]
        if unknown := [name for name in spec.params if name not in known]:  # it would pass for a column, without a word
            raise ConfigError(
                f"the reward `{spec.name}` does not take `{unknown[0]}`", fix=f"it takes {', '.join(known)}"
            )
        # In ours what is keyword-only is a parameter, and a column of that name, as `timeout`, is none.
        taken |= {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    names = {key: None for row in rows for key in row if key not in taken}
    columns = {key: [row.get(key) for row in rows] for key in names}
    try:
        values = reward(completions, **spec.params, **columns)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ConfigError(
            f"the reward `{spec.name}` does not take these parameters: {error}",
            fix="see its signature in r1pipe/rewards",
        ) from error
    assert len(values) == len(rows), f"{spec.name} returned {len(values)} rewards for {len(rows)} completions"
    return list(values)


def correct(completions: Sequence[Completion], rows: Sequence[Mapping[str, Any]]) -> list[bool | None]:
    """The verdict on each response: by the row's tests or scorer, else by its answer; None where neither is there or it cannot be judged.

    >>> correct(["<think>6*7</think>42", "hello"], [{"answer": "42"}, {}])
    [True, None]
    """
    rules = ({"name": "accuracy"}, {"name": "code"}, {"name": "reasoning_gym"})
    specs = [RewardSpec.model_validate(spec) for spec in rules]
    return [None if total is None else total == 1.0 for total in score(specs, completions, rows).totals]


__all__ = [
    "EARLY",
    "MODEL_PORTS",
    "MODEL_REWARDS",
    "REQUIRED",
    "REWARDS",
    "Completion",
    "Known",
    "Reward",
    "Scorer",
    "Scores",
    "applies",
    "component_names",
    "correct",
    "is_required",
    "resolve",
    "score",
    "score_early",
]
