"""Do the rewards say what they should? Asked before they train anything.

Every reward is given each prompt's own solution and responses made to win it without deserving to (adversarial.py).
What it must answer to them is in DESERVES; thresholds are schema.AuditParams. Beside that: gold answers that do not parse, rows that a
required reward cannot judge, time, and where accuracy and TRL's accuracy_reward differ.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from r1pipe.rewards import MODEL_REWARDS
from r1pipe.rewards.adversarial import DESERVES, Row, gold_answers, variants
from r1pipe.rewards.answers import parse
from r1pipe.rewards.scoring import Scorer, component_names, is_required, score
from r1pipe.rewards.texts import after_thinking
from r1pipe.schema import AuditParams, Phase, RewardSpec

STORED = "stored"
MUST_KNOW = ("accuracy", "code")  # rewards that the gold solution must win
WORST = 200  # rows kept with their text


@dataclass
class Cell:
    """What a reward said to the responses of one variant: their number, mean score, share of None, milliseconds a response.

    `unjudged` are those that a required reward should have judged and did not; a gold answer that does not parse is counted elsewhere.
    """

    n: int = 0
    mean: float | None = None
    none: float = 0.0
    ms: float = 0.0
    unjudged: int = 0


@dataclass
class Audit:
    """What was found. `failures` are the thresholds that were passed, each a sentence; empty is well."""

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
        known = [
            cell.mean
            for name, row in self.cells.items()
            if name in MUST_KNOW and (cell := row.get("gold")) and cell.mean is not None
        ]
        tried = [(cell.mean, f"{name} on {variant}") for name, variant, cell in self._cheats() if cell.mean is not None]
        high, where = max(tried, default=(0.0, ""))
        parts = [f"{self.gold - len(self.unparseable)} of {self.gold} gold answers parse"]
        parts += [f"gold solutions score {min(known):.3f}"] if known else []
        parts += [f"undeserved at most {high:.3f} ({where})" if high else "nothing undeserved"]
        return f"rewards on {self.sampled} of {self.prompts} prompts: {', '.join(parts)}; {self.seconds:.1f} s"

    def _cheats(self) -> Iterable[tuple[str, str, Cell]]:
        for name, row in self.cells.items():
            yield from (
                (name, variant, cell)
                for variant, cell in row.items()
                if variant in DESERVES.get(name.partition("#")[0], ())
            )


def specs_of(phases: Sequence[Phase]) -> list[RewardSpec]:
    """The rewards of all phases, each once."""
    found: list[RewardSpec] = []
    for spec in (spec for phase in phases for spec in phase.rewards):
        if spec not in found:
            found.append(spec)
    return found


def spread(rows: Sequence[Row], n: int) -> list[Row]:
    """At most n rows, as many of each domain as there are, drawn the same each time."""
    by_domain: dict[Any, list[Row]] = {}
    for row in random.Random(0).sample(list(rows), len(rows)):
        by_domain.setdefault(row.get("domain"), []).append(row)
    turns = itertools.zip_longest(*by_domain.values())
    return [row for turn in turns for row in turn if row is not None][:n]


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
    """Score the variants of `sample` prompts and the stored responses by every reward, and hold the means against the thresholds.

    Args:
        specs: components; those that need a model which `models` lacks are passed over with a note.
        rows: all prompts; every gold answer is parsed.
        sample: prompts whose variants are scored, of all domains alike.
        stored: responses that models gave, with their rows.
        thorough: also the variants that no threshold looks at, and accuracy against TRL's accuracy_reward.

    Raises:
        ConfigError: a reward that is not there, or parameters that it does not take.
    """
    started = time.perf_counter()
    found = Audit(stage, prompts=len(rows))
    if any(spec.name == "accuracy" for spec in specs):
        answered = [row for row in rows if row.get("answer") is not None and not (row.get("tests") or row.get("gym"))]
        found.gold = len(answered)
        found.unparseable = [
            str(row["id"]) for row in answered if all(parse(str(gold)).kind == "broken" for gold in gold_answers(row))
        ]
    chosen = spread(rows, sample)
    found.sampled = len(chosen)
    form = next((str(spec.params.get("form")) for spec in specs if spec.name == "format"), "r1")
    made = variants(chosen, rows, form)
    if stored:
        made[STORED] = [(row, text) for row, text in stored]
    for name, spec in zip(component_names(specs), specs, strict=True):
        if spec.name in MODEL_REWARDS and spec.name not in (models or {}):
            found.notes.append(f"{name} was not audited: its model is not here")
            continue
        asked = (
            made
            if thorough
            else {
                variant: pairs for variant, pairs in made.items() if variant in {"gold", *DESERVES.get(spec.name, ())}
            }
        )
        found.cells[name] = {
            variant: _score(found, name, spec, variant, pairs, models) for variant, pairs in asked.items() if pairs
        }
    if thorough and any(spec.name == "accuracy" for spec in specs):
        _compare(found, [pair for variant in ("gold", "wrong-answer", STORED) for pair in made.get(variant, [])])
    found.seconds = time.perf_counter() - started
    _judge(found, specs, limits)
    return found


# --- the scores ---------------------------------------------------------------------------------------------------------


def _score(
    found: Audit,
    name: str,
    spec: RewardSpec,
    variant: str,
    pairs: Sequence[tuple[Row, str]],
    models: Mapping[str, Scorer] | None,
) -> Cell:
    """One reward on one variant; what it should not have said is kept with its text."""
    rows = [
        {"tokens": len(text) // 4, **row} for row, text in pairs
    ]  # the length reward's, roughly: no tokenizer is asked
    started = time.perf_counter()
    scores = score([spec], [text for _, text in pairs], rows, models)
    spent = time.perf_counter() - started
    applied, values = scores.applied[spec.name], scores.components[spec.name]
    judged = [value for value, yes in zip(values, applied, strict=True) if yes and value is not None]
    n = sum(applied)
    broken, unjudged = set(found.unparseable), 0
    for (row, text), value, yes in zip(pairs, values, applied, strict=True):
        why = ""
        if yes and value is None:
            why = "not judged" if is_required(spec) and str(row["id"]) not in broken else ""
            unjudged += bool(why)
        elif yes and variant == "gold" and spec.name in MUST_KNOW and value != 1.0:
            why = "the gold solution is not right"
        elif yes and variant in DESERVES.get(spec.name, ()) and value:
            why = "deserves 0"
        if why and len(found.worst) < WORST:
            found.worst.append(
                {
                    "reward": name,
                    "variant": variant,
                    "why": why,
                    "score": value,
                    "id": row["id"],
                    "gold": _shown(row),
                    "response": text,
                }
            )
    return Cell(
        n,
        sum(judged) / len(judged) if judged else None,
        1 - len(judged) / n if n else 0.0,
        1000 * spent / n if n else 0.0,
        unjudged,
    )


def _shown(row: Row) -> str:
    return str(row["answer"]) if row.get("answer") is not None else str(row.get("tests") or "")


def _compare(found: Audit, pairs: Sequence[tuple[Row, str]]) -> None:
    """Our accuracy against TRL's accuracy_reward on the same summaries; rows that either cannot judge are no disagreement."""
    from trl.rewards import accuracy_reward

    from r1pipe.rewards.accuracy import accuracy

    asked = [
        (row, text)
        for row, text in pairs
        if row.get("answer") is not None and not isinstance(row["answer"], list | tuple)
    ]
    asked = [(row, text) for row, text in asked if not (row.get("tests") or row.get("gym"))]
    asked = [
        (row, text) for row, text in asked if parse(str(row["answer"])).kind not in ("letter", "words", "broken")
    ]  # math-verify reads no words
    if not asked:
        return
    answers = [str(row["answer"]) for row, _ in asked]
    ours = accuracy([text for _, text in asked], answer=answers)
    summaries = [
        re.sub(r"<answer>((?:(?!\\boxed).)*?)</answer>", r"\\boxed{\1}", after_thinking(text)) for _, text in asked
    ]
    theirs = accuracy_reward([[{"role": "assistant", "content": text}] for text in summaries], answers)
    for (row, text), mine, other in zip(asked, ours, theirs, strict=True):
        if mine is None or other is None:
            continue
        found.compared += 1
        if mine != other:
            found.disagreements += 1
            if len(found.worst) < WORST:
                why = f"TRL's accuracy_reward says {other:g}"
                found.worst.append(
                    {
                        "reward": "accuracy",
                        "variant": "",
                        "why": why,
                        "score": mine,
                        "id": row["id"],
                        "gold": _shown(row),
                        "response": text,
                    }
                )


def _judge(found: Audit, specs: Sequence[RewardSpec], limits: AuditParams) -> None:
    """Every threshold that was passed, as a sentence."""

    def over(what: str, value: float, limit: float) -> None:
        found.failures.append(f"{what}: {value:.3f}, at most {limit:g}")

    if found.gold and len(found.unparseable) / found.gold > limits.max_unparseable:
        rows = ", ".join(found.unparseable[:3]) + (", ..." if len(found.unparseable) > 3 else "")
        over(f"gold answers that do not parse ({rows})", len(found.unparseable) / found.gold, limits.max_unparseable)
    for name, spec in zip(component_names(specs), specs, strict=True):
        row = found.cells.get(name, {})
        if (
            spec.name in MUST_KNOW
            and (cell := row.get("gold"))
            and cell.mean is not None
            and cell.mean < limits.min_gold
        ):
            found.failures.append(f"{name} on gold solutions: {cell.mean:.3f}, at least {limits.min_gold:g}")
        for variant, cell in row.items():
            if variant in DESERVES.get(spec.name, ()) and cell.mean is not None and cell.mean > limits.max_adversarial:
                over(f"{name} on {variant}", cell.mean, limits.max_adversarial)
            if cell.n and cell.unjudged / cell.n > limits.max_unjudged:
                over(f"{name} on {variant}, not judged", cell.unjudged / cell.n, limits.max_unjudged)
    if found.compared and found.disagreements / found.compared > limits.max_disagreement:
        over(
            "accuracy differs from TRL's accuracy_reward", found.disagreements / found.compared, limits.max_disagreement
        )


# --- before training ----------------------------------------------------------------------------------------------------


def audit_before_training(stage: str, phases: Sequence[Phase], rows: Sequence[Row], limits: AuditParams) -> Audit:
    """The cheap part: no models, no services, no comparison, a small sample; seconds at most.

    Raises:
        GateError: a threshold was passed.
    """
    from r1pipe.errors import GateError

    cheap = [
        spec
        for spec in specs_of(phases)
        if spec.name not in MODEL_REWARDS and spec.name != "judge" and "executor" not in spec.params
    ]
    found = audit(stage, cheap, rows, limits, sample=limits.sample, thorough=False)
    if found.failures:
        what = f"the rewards of {stage} are not fit to train on: " + "; ".join(found.failures)
        raise GateError(
            what,
            found.line(),
            f"`r1pipe audit rewards CONFIG --stage {stage}` shows the rows; mend them or the rewards, or move `audit:` thresholds",
        )
    return found


__all__ = ["Audit", "Cell", "audit", "audit_before_training", "specs_of"]
