"""Scores responses by several rewards at once and adds them up: the one place that combines rewards.

A reward returns None where it cannot judge. TRL alone would add that up as 0, and a timeout would punish the policy
without anyone noticing. `score` therefore keeps two cases apart:

- not applicable: the row lacks what the reward reads, or is of another domain. The component is None and the row is
  scored without it.
- not judged: the reward applies and returned None. If the component is required, the whole row is unscorable and its
  total is None.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, cast

from r1pipe.errors import ConfigError, InputError, place_in_users_code
from r1pipe.rewards import MODEL_REWARDS, REWARDS, Reward
from r1pipe.rewards.own_rewards import called, checked
from r1pipe.rewards.texts import Completion, prompt_of, text_of
from r1pipe.schema import JudgeEndpoint, RewardSpec
from r1pipe.text.response import split_response

# Verdicts on the final answer; a row that a reward model judges is left out of them unless their spec names its domain.
VERDICT_REWARDS = frozenset({"accuracy", "code", "reasoning_gym"})
# Rewards that judge each response by itself, in other processes or on other machines (`score_early`).
EARLY_REWARDS = frozenset({"accuracy", "code", "judge"})
# Rewards whose None makes a row unscorable, unless the spec says otherwise.
REQUIRED_REWARDS = VERDICT_REWARDS | {"judge", *MODEL_REWARDS}

Row = Mapping[str, Any]
# component name -> {index of a response: its reward}
EarlyScores = Mapping[str, Mapping[int, float | None]]
# (prompts, responses) -> rewards of a reward model, already calibrated
Scorer = Callable[[list[str], list[str]], list[float]]


@dataclass(frozen=True)
class Scores:
    """The scores of a batch of responses.

    Attributes:
        components: name -> a reward for each response, before weighting; None = not applicable or not judged.
        totals: the weighted sum for each response; None = unscorable: a required component could not judge, or none
            applied.
        applied: name -> for each response, whether the component applies to its row.
        unjudged: name -> the number of responses that the component applies to and returned None for.
    """

    components: dict[str, list[float | None]]
    totals: list[float | None]
    applied: dict[str, list[bool]] = field(default_factory=dict)
    unjudged: dict[str, int] = field(default_factory=dict)

    def replace(
        self,
        place: int,
        other: Scores,
        other_place: int,
    ) -> None:
        """Overwrite the scores of one response by those of a response of another batch, scored by the same specs."""
        self.totals[place] = other.totals[other_place]
        for name, values in self.components.items():
            self.unjudged[name] += other._is_unjudged(name, other_place) - self._is_unjudged(name, place)
            values[place] = other.components[name][other_place]
            self.applied[name][place] = other.applied[name][other_place]

    def _is_unjudged(self, name: str, place: int) -> int:
        return int(self.applied[name][place] and self.components[name][place] is None)


def resolve(name: str) -> Reward:
    """The reward function of that name: a key of REWARDS, or package.module:function.

    Raises:
        ConfigError: there is no such function.
    """
    if name in REWARDS:
        return REWARDS[name]
    module, colon, function_name = name.partition(":")
    if colon:
        # A reward of the user's own, which is imported only here: its mistakes must not break other stages.
        try:
            function = getattr(importlib.import_module(module), function_name)
        except Exception as error:
            raise ConfigError(
                f"reward `{name}` cannot be imported: {error}",
                place_in_users_code(error),
                "give package.module:function of something on the Python path",
            ) from error
        if callable(function):
            return cast(Reward, function)
    known = ", ".join([*REWARDS, *MODEL_REWARDS])
    raise ConfigError(f"there is no reward `{name}`", fix=f"use one of {known}, or package.module:function")


def component_names(specs: Sequence[RewardSpec]) -> list[str]:
    """The name of each component: that of its reward, with #2 behind it where a name occurs for the second time.

    >>> component_names([RewardSpec(name="format"), RewardSpec(name="format")])
    ['format', 'format#2']
    """
    names: list[str] = []
    for spec in specs:
        name = spec.name
        copies = 2
        while name in names:
            name = f"{spec.name}#{copies}"
            copies += 1
        names.append(name)
    return names


def is_required(spec: RewardSpec) -> bool:
    """Whether a row that the component cannot judge is unscorable as a whole."""
    return spec.name in REQUIRED_REWARDS if spec.required is None else spec.required


def applies(spec: RewardSpec, row: Row) -> bool:
    """Whether the component can judge a response to this row.

    Accuracy needs an `answer`, code needs `tests`, reasoning_gym needs `gym`; a row with `tests` or `gym` is judged by
    these alone. A judge needs a `reference` or an `answer`.
    """
    domain = row.get("domain")
    # `domains` of the spec come before the reward's own.
    if spec.domains is not None:
        if domain not in spec.domains:
            return False
    elif spec.name in MODEL_REWARDS:
        return domain in MODEL_REWARDS[spec.name]

    if spec.name == "accuracy":
        # Tests and scorers know more right answers than the one in the row.
        is_judged_otherwise = bool(row.get("tests") or row.get("gym"))
        return row.get("answer") is not None and not is_judged_otherwise
    if spec.name == "code":
        return bool(row.get("tests"))
    if spec.name == "reasoning_gym":
        return bool(row.get("gym"))
    if spec.name == "judge":
        return row.get("reference") is not None or row.get("answer") is not None
    return True


def score_early(
    specs: Sequence[RewardSpec],
    completions: Sequence[Completion],
    rows: Sequence[Row],
) -> EarlyScores:
    """Score these responses by the EARLY_REWARDS among the components; `score` takes the result as `early`."""
    applied = where_applied(specs, rows)
    scores: dict[str, Mapping[int, float | None]] = {}
    for spec, name in zip(specs, component_names(specs), strict=True):
        if spec.name in EARLY_REWARDS:
            scores[name] = _judge(
                spec,
                _places(applied[name]),
                completions,
                rows,
                {},
            )
    return scores


def score(
    specs: Sequence[RewardSpec],
    completions: Sequence[Completion],
    rows: Sequence[Row],
    models: Mapping[str, Scorer] | None = None,
    early: EarlyScores | None = None,
) -> Scores:
    """Score every response by every component that applies to its row.

    A row that a reward model judges is not judged by a rule as well, unless the rule's `domains` name it (v2 3.2.2:
    rules for reasoning data, reward models for general data). A rule reads an answer out of a courteous reply less
    often than out of a bare one, and would train the policy to drop the courtesy.

    Args:
        specs: the components; the second of two with one name is called name#2.
        completions: one response for each row.
        rows: the rows that are answered (r1pipe/text/rows.py); the length reward reads `completion_ids` or `tokens`.
        models: `helpful` and `harmless`, where specs name them. helpful reads the summary only, harmless the whole
            response.
        early: scores that need not be computed again (`score_early`).

    Raises:
        ConfigError: an unknown reward, parameters that it does not take, or a reward model that is missing.
        UserCodeError: a reward of the user's own raised, or returned something else than a number or None a response.
        InputError: a reward model gave a number that is not finite.
    """
    assert len(completions) == len(rows), f"{len(completions)} completions for {len(rows)} rows"
    components: dict[str, list[float | None]] = {}
    applied = where_applied(specs, rows)
    unjudged: dict[str, int] = {}
    totals: list[float | None] = [0.0] * len(rows)
    scorable = [False] * len(rows)

    for spec, name in zip(specs, component_names(specs), strict=True):
        known = (early or {}).get(name, {})
        places = _places(applied[name])
        open_places = [i for i in places if i not in known]
        values = _judge(
            spec,
            open_places,
            completions,
            rows,
            models or {},
        )
        values |= {i: known[i] for i in places if i in known}

        components[name] = [None] * len(rows)
        unjudged[name] = sum(value is None for value in values.values())
        for i, value in values.items():
            components[name][i] = value
            total = totals[i]
            if value is not None:
                scorable[i] = True
                # A total that is None stays so, whatever the components behind say.
                if total is not None:
                    totals[i] = total + spec.weight * value
            elif is_required(spec):
                totals[i] = None

    # A sum of nothing is not 0: a row to which no component applies would be compared with rows that failed.
    totals = [total if has_reward else None for total, has_reward in zip(totals, scorable, strict=True)]
    return Scores(components, totals, applied, unjudged)


def where_applied(specs: Sequence[RewardSpec], rows: Sequence[Row]) -> dict[str, list[bool]]:
    """Component name -> for each row, whether the component judges it."""
    # See `score`: rules leave the rows of reward models alone.
    model_specs = [spec for spec in specs if spec.name in MODEL_REWARDS]
    judged_by_model = {i for i, row in enumerate(rows) if any(applies(spec, row) for spec in model_specs)}
    applied = {}
    for spec, name in zip(specs, component_names(specs), strict=True):
        left_out = judged_by_model if spec.name in VERDICT_REWARDS and spec.domains is None else set()
        applied[name] = [i not in left_out and applies(spec, row) for i, row in enumerate(rows)]
    return applied


def _places(mask: Sequence[bool]) -> list[int]:
    return [i for i, is_set in enumerate(mask) if is_set]


def _judge(
    spec: RewardSpec,
    places: Sequence[int],
    completions: Sequence[Completion],
    rows: Sequence[Row],
    models: Mapping[str, Scorer],
) -> dict[int, float | None]:
    """Index -> reward by one component, of the responses at these places only."""
    if not places:
        return {}
    selected_completions = [completions[i] for i in places]
    selected_rows = [rows[i] for i in places]
    if spec.name in MODEL_REWARDS:
        values = _model_values(spec, selected_completions, selected_rows, models)
    else:
        values = _function_values(spec, selected_completions, selected_rows)
    return dict(zip(places, values, strict=True))


def _model_values(
    spec: RewardSpec,
    completions: list[Completion],
    rows: list[Row],
    models: Mapping[str, Scorer],
) -> list[float | None]:
    if spec.name not in models:
        raise ConfigError(
            f"the reward `{spec.name}` needs a reward model",
            fix=f"give the stage a `{spec.name}` reward model as input",
        )
    prompts = [prompt_of(row.get("prompt")) for row in rows]
    texts = [text_of(completion) for completion in completions]
    # v2 3.2.2: helpfulness is judged on the summary, safety on the whole response.
    if spec.name == "helpful":
        texts = [split_response(text).summary for text in texts]
    values = models[spec.name](prompts, texts)
    for value in values:
        if not math.isfinite(value):
            raise InputError(
                f"the reward model of `{spec.name}` gave {value}",
                fix="its weights or its calibration.json are broken: evaluate it, or train it again",
            )
    return list(map(float, values))


def _function_values(
    spec: RewardSpec,
    completions: list[Completion],
    rows: list[Row],
) -> list[float | None]:
    reward = resolve(spec.name)
    parameters = signature(reward).parameters
    not_columns = {"completions", *spec.params}
    if spec.name in REWARDS:
        _check_params(spec, list(parameters))
        # In our own rewards a keyword-only argument is a parameter: a column that has its name (`timeout`) must not
        # reach it.
        not_columns |= {
            name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY
        }

    # Rows may have different columns; a reward gets None where a row lacks one.
    column_names = dict.fromkeys(key for row in rows for key in row if key not in not_columns)
    columns = {name: [row.get(name) for row in rows] for name in column_names}
    if spec.name in REWARDS:
        try:
            values = reward(completions, **spec.params, **columns)
        except TypeError as error:
            # "got an unexpected keyword argument" is the config's mistake, any other TypeError the reward's own.
            if "argument" not in str(error):
                raise
            raise ConfigError(
                f"the reward `{spec.name}` does not take these parameters: {error}",
                fix="see its signature in r1pipe/rewards",
            ) from error
    else:
        values = called(reward, spec.name, completions, {**spec.params, **columns})
    return checked(values, len(rows), spec.name, reward)


def _check_params(spec: RewardSpec, parameters: list[str]) -> None:
    """Refuse a misspelled parameter: the reward would take it for a column and ignore it."""
    known = parameters
    if spec.name == "judge":
        known = [*parameters, *JudgeEndpoint.model_fields]
    unknown = [name for name in spec.params if name not in known]
    if unknown:
        raise ConfigError(
            f"the reward `{spec.name}` does not take `{unknown[0]}`", fix=f"it takes {', '.join(known)}"
        )


def correct(completions: Sequence[Completion], rows: Sequence[Row]) -> list[bool | None]:
    """Whether each response is right, by the row's tests or scorer, else by its answer.

    Returns:
        a verdict for each response; None where the row has neither, or the response cannot be judged.

    >>> correct(["<think>6*7</think>42", "hello"], [{"answer": "42"}, {}])
    [True, None]
    """
    # At most one of the three applies to a row, so the total is its verdict.
    specs = [RewardSpec(name="accuracy"), RewardSpec(name="code"), RewardSpec(name="reasoning_gym")]
    totals = score(specs, completions, rows).totals
    return [None if total is None else total == 1.0 for total in totals]


__all__ = [
    "EARLY_REWARDS",
    "REQUIRED_REWARDS",
    "Completion",
    "EarlyScores",
    "Scorer",
    "Scores",
    "applies",
    "component_names",
    "correct",
    "is_required",
    "resolve",
    "score",
    "score_early",
    "where_applied",
]
