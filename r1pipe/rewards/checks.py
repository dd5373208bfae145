"""The audit: do the rewards say what they should? Run before they train anything.

Every reward scores each prompt's own solution, and responses made to win it without deserving to (adversarial.py lists
them, and DESERVES_ZERO which of them must get 0). The limits are schema.AuditParams. The audit also looks at gold
answers that do not parse, rows that a required reward cannot judge, the time, and where accuracy and TRL's
accuracy_reward differ.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from r1pipe.errors import GateError
from r1pipe.rewards import MODEL_REWARDS
from r1pipe.rewards.adversarial import DESERVES_ZERO, Row, gold_answers, variants
from r1pipe.rewards.answers import parse
from r1pipe.rewards.scoring import Scorer, component_names, is_required, score
from r1pipe.rewards.texts import after_thinking
from r1pipe.schema import AuditParams, Phase, RewardSpec

# The variant of responses that models gave, beside those of adversarial.py.
STORED = "stored"
# Rewards that the gold solution must win.
MUST_KNOW = ("accuracy", "code")
# Rows kept with their text, of all rewards together.
MAX_WORST_ROWS = 200


@dataclass
class Cell:
    """The scores of one reward on the responses of one variant.

    Attributes:
        n: number of responses that the reward applies to.
        mean: mean score of those that it judged.
        none: share of those that it returned None for.
        ms: milliseconds for each response.
        unjudged: number of responses that a required reward did not judge, without those whose gold answer does not
            parse, which are counted elsewhere.
    """

    n: int = 0
    mean: float | None = None
    none: float = 0.0
    ms: float = 0.0
    unjudged: int = 0


@dataclass
class Audit:
    """The result of auditing one stage.

    Attributes:
        stage: name of the stage.
        prompts: number of its prompts.
        sampled: number of prompts whose variants were scored.
        gold: number of gold answers.
        unparseable: ids of the rows whose gold answer does not parse.
        cells: reward -> variant -> scores.
        compared: responses on which accuracy was compared with TRL's accuracy_reward.
        disagreements: responses on which the two differ.
        worst: rows that got a score they should not, with their text; at most MAX_WORST_ROWS.
        notes: what was left out, and why.
        failures: a sentence for every limit that was not met; an audit without failures passed.
        seconds: wall time.
    """

    stage: str
    prompts: int = 0
    sampled: int = 0
    gold: int = 0
    unparseable: list[str] = field(default_factory=list)
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    compared: int = 0
    disagreements: int = 0
    worst: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def line(self) -> str:
        """In one line."""
        parts = [f"{self.gold - len(self.unparseable)} of {self.gold} gold answers parse"]

        gold_cells = [row["gold"] for name, row in self.cells.items() if name in MUST_KNOW and "gold" in row]
        gold_means = [cell.mean for cell in gold_cells if cell.mean is not None]
        if gold_means:
            parts.append(f"gold solutions score {min(gold_means):.3f}")

        undeserved = [
            (cell.mean, f"{name} on {variant}")
            for name, variant, cell in self._cells_that_deserve_zero()
            if cell.mean is not None
        ]
        highest, where = max(undeserved, default=(0.0, ""))
        parts.append(f"undeserved at most {highest:.3f} ({where})" if highest else "nothing undeserved")
        return (
            f"rewards on {self.sampled} of {self.prompts} prompts: {', '.join(parts)}; {self.seconds:.1f} s"
        )

    def keep(
        self,
        reward: str,
        variant: str,
        why: str,
        value: float | None,
        row: Row,
        response: str,
    ) -> None:
        """Keep a row that got a score it should not, while there is room."""
        if len(self.worst) >= MAX_WORST_ROWS:
            return
        # A row without an answer is one of code: show its tests.
        gold = row["answer"] if row.get("answer") is not None else row.get("tests") or ""
        self.worst.append(
            {
                "reward": reward,
                "variant": variant,
                "why": why,
                "score": value,
                "id": row["id"],
                "gold": str(gold),
                "response": response,
            }
        )

    def _cells_that_deserve_zero(self) -> Iterator[tuple[str, str, Cell]]:
        for name, row in self.cells.items():
            # The second component of a name is called name#2.
            reward = name.partition("#")[0]
            for variant, cell in row.items():
                if variant in DESERVES_ZERO.get(reward, ()):
                    yield name, variant, cell


def specs_of(phases: Sequence[Phase]) -> list[RewardSpec]:
    """The rewards of all phases, each once."""
    specs: list[RewardSpec] = []
    for phase in phases:
        for spec in phase.rewards:
            if spec not in specs:
                specs.append(spec)
    return specs


def spread(rows: Sequence[Row], n: int) -> list[Row]:
    """At most n rows, the same number of each domain as far as there are enough, drawn the same each time."""
    # One row of each domain in turn: a sample of all rows could miss a small domain, whose reward may be the broken
    # one.
    by_domain: dict[Any, list[Row]] = {}
    for row in random.Random(0).sample(list(rows), len(rows)):
        by_domain.setdefault(row.get("domain"), []).append(row)
    turns = itertools.zip_longest(*by_domain.values())
    drawn = [row for turn in turns for row in turn if row is not None]
    return drawn[:n]


def audit(
    stage: str,
    specs: Sequence[RewardSpec],
    rows: Sequence[Row],
    limits: AuditParams,
    *,
    sample: int,
    stored: Sequence[tuple[Row, str]] = (),
    models: Mapping[str, Scorer] | None = None,
    thorough: bool = True,
) -> Audit:
    """Score variants of `sample` prompts and stored responses by every reward, and compare the means with the limits.

    Args:
        specs: components; those that need a model which `models` lacks are left out with a note.
        rows: all prompts; every gold answer is parsed.
        sample: number of prompts whose variants are scored, of all domains alike.
        stored: responses that models gave, with their rows.
        thorough: also score the variants that no limit looks at, and compare accuracy with TRL's accuracy_reward.

    Raises:
        ConfigError: a reward that does not exist, or parameters that it does not take.
    """
    started = time.perf_counter()
    result = Audit(stage, prompts=len(rows))
    has_accuracy = any(spec.name == "accuracy" for spec in specs)
    if has_accuracy:
        answered = [row for row in rows if _judged_by_answer(row)]
        result.gold = len(answered)
        result.unparseable = [str(row["id"]) for row in answered if not _parses(row)]

    sampled = spread(rows, sample)
    result.sampled = len(sampled)
    # The responses are written in the form that the format reward asks for; it would give every other form a 0.
    form = next((str(spec.params.get("form")) for spec in specs if spec.name == "format"), "r1")
    responses = variants(sampled, rows, form)
    if stored:
        responses[STORED] = list(stored)

    for name, spec in zip(component_names(specs), specs, strict=True):
        if spec.name in MODEL_REWARDS and spec.name not in (models or {}):
            result.notes.append(f"{name} was not audited: its model is not here")
            continue
        # The variants whose means are compared with a limit.
        with_limits = {"gold", *DESERVES_ZERO.get(spec.name, ())}
        result.cells[name] = {
            variant: _score(
                result,
                name,
                spec,
                variant,
                pairs,
                models,
            )
            for variant, pairs in responses.items()
            if pairs and (thorough or variant in with_limits)
        }
    if thorough and has_accuracy:
        compared_variants = ("gold", "wrong-answer", STORED)
        _compare(result, [pair for variant in compared_variants for pair in responses.get(variant, [])])
    result.seconds = time.perf_counter() - started
    result.failures = _failures(result, specs, limits)
    return result


def _judged_by_answer(row: Row) -> bool:
    return row.get("answer") is not None and not row.get("tests") and not row.get("gym")


def _parses(row: Row) -> bool:
    """Whether one of the accepted answers parses."""
    return any(parse(str(gold)).kind != "broken" for gold in gold_answers(row))


# --- the scores -------------------------------------------------------------------------------------------------------


def _score(
    result: Audit,
    name: str,
    spec: RewardSpec,
    variant: str,
    pairs: Sequence[tuple[Row, str]],
    models: Mapping[str, Scorer] | None,
) -> Cell:
    """Score one variant by one reward; keep the rows whose score is not as it should be."""
    # The length reward reads `tokens`. Four characters a token will do: no tokenizer is loaded for an audit.
    rows = [{"tokens": len(text) // 4, **row} for row, text in pairs]
    texts = [text for _, text in pairs]
    started = time.perf_counter()
    scores = score([spec], texts, rows, models)
    seconds = time.perf_counter() - started

    applied = scores.applied[spec.name]
    values = scores.components[spec.name]
    unparseable = set(result.unparseable)
    unjudged = 0
    for (row, text), value, applies in zip(pairs, values, applied, strict=True):
        if not applies:
            continue
        if value is None:
            # A gold answer that does not parse is reported once, as such.
            if is_required(spec) and str(row["id"]) not in unparseable:
                unjudged += 1
                result.keep(
                    name,
                    variant,
                    "not judged",
                    value,
                    row,
                    text,
                )
        elif variant == "gold" and spec.name in MUST_KNOW and value != 1.0:
            result.keep(
                name,
                variant,
                "the gold solution is not right",
                value,
                row,
                text,
            )
        elif variant in DESERVES_ZERO.get(spec.name, ()) and value:
            result.keep(
                name,
                variant,
                "deserves 0",
                value,
                row,
                text,
            )

    n = sum(applied)
    # No response, no share.
    if not n:
        return Cell()
    judged = [value for value, applies in zip(values, applied, strict=True) if applies and value is not None]
    return Cell(
        n=n,
        mean=sum(judged) / len(judged) if judged else None,
        none=1 - len(judged) / n,
        ms=1000 * seconds / n,
        unjudged=unjudged,
    )


def _compare(result: Audit, pairs: Sequence[tuple[Row, str]]) -> None:
    """Compare our accuracy with TRL's accuracy_reward on the same summaries, where both can judge."""
    # TRL imports torch, which nothing else here needs.
    from trl.rewards import accuracy_reward

    from r1pipe.rewards.accuracy import accuracy

    comparable = [
        (row, text) for row, text in pairs if _judged_by_answer(row) and _trl_can_read(row["answer"])
    ]
    if not comparable:
        return
    answers = [str(row["answer"]) for row, _ in comparable]
    ours = accuracy([text for _, text in comparable], answer=answers)
    messages = [[{"role": "assistant", "content": _boxed_summary(text)}] for _, text in comparable]
    theirs = accuracy_reward(messages, answers)

    for (row, text), our_value, trl_value in zip(comparable, ours, theirs, strict=True):
        # None is no verdict, with which one could disagree.
        if our_value is None or trl_value is None:
            continue
        result.compared += 1
        if our_value != trl_value:
            result.disagreements += 1
            result.keep(
                "accuracy",
                "",
                f"TRL's accuracy_reward says {trl_value:g}",
                our_value,
                row,
                text,
            )


def _trl_can_read(answer: Any) -> bool:
    """Whether TRL's verifier reads such an answer: one answer, and neither words nor a choice letter."""
    if isinstance(answer, list | tuple):
        return False
    return parse(str(answer)).kind not in ("letter", "words", "broken")


def _boxed_summary(text: str) -> str:
    """The summary, with <answer> tags, which TRL's verifier does not read, as boxes."""
    return re.sub(r"<answer>((?:(?!\\boxed).)*?)</answer>", r"\\boxed{\1}", after_thinking(text))


# --- the limits -------------------------------------------------------------------------------------------------------


def _failures(
    result: Audit,
    specs: Sequence[RewardSpec],
    limits: AuditParams,
) -> list[str]:
    """A sentence for every limit that was not met."""
    failures: list[str] = []

    def check_at_most(
        what: str,
        value: float,
        limit: float,
    ) -> None:
        if value > limit:
            failures.append(f"{what}: {value:.3f}, at most {limit:g}")

    if result.gold:
        ids = ", ".join(result.unparseable[:3]) + (", ..." if len(result.unparseable) > 3 else "")
        share = len(result.unparseable) / result.gold
        check_at_most(f"gold answers that do not parse ({ids})", share, limits.max_unparseable)

    for name, spec in zip(component_names(specs), specs, strict=True):
        cells = result.cells.get(name, {})
        gold_mean = cells["gold"].mean if "gold" in cells else None
        if spec.name in MUST_KNOW and gold_mean is not None and gold_mean < limits.min_gold:
            failures.append(f"{name} on gold solutions: {gold_mean:.3f}, at least {limits.min_gold:g}")
        for variant, cell in cells.items():
            if variant in DESERVES_ZERO.get(spec.name, ()) and cell.mean is not None:
                check_at_most(f"{name} on {variant}", cell.mean, limits.max_adversarial)
            if cell.n:
                check_at_most(f"{name} on {variant}, not judged", cell.unjudged / cell.n, limits.max_unjudged)

    if result.compared:
        share = result.disagreements / result.compared
        check_at_most("accuracy differs from TRL's accuracy_reward", share, limits.max_disagreement)
    return failures


# --- before training --------------------------------------------------------------------------------------------------


def audit_before_training(
    stage: str,
    phases: Sequence[Phase],
    rows: Sequence[Row],
    limits: AuditParams,
) -> Audit:
    """The cheap part of the audit, a few seconds at most: a small sample, without models, services and comparison.

    Raises:
        GateError: the audit did not pass.
    """
    cheap_specs = [spec for spec in specs_of(phases) if _is_cheap(spec)]
    result = audit(
        stage,
        cheap_specs,
        rows,
        limits,
        sample=limits.sample,
        thorough=False,
    )
    if result.failures:
        raise GateError(
            f"the rewards of {stage} are not fit to train on: {'; '.join(result.failures)}",
            result.line(),
            f"`r1pipe audit rewards CONFIG --stage {stage}` shows the rows; "
            "correct the rows or the rewards, or change the limits under `audit:`",
        )
    return result


def _is_cheap(spec: RewardSpec) -> bool:
    # Services cost time and money, reward models memory: `r1pipe audit rewards` tries these.
    asks_a_service = spec.name == "judge" or "executor" in spec.params
    return spec.name not in MODEL_REWARDS and not asks_a_service


__all__ = ["Audit", "Cell", "audit", "audit_before_training", "specs_of"]
