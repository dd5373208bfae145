"""Why responses were dropped, counted, and what to do where none was kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from r1pipe.errors import InputError

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate

REFUSED = "refused by the service"

# Reason -> what to do where it led.
_REMEDIES = {
    "cut off": "responses do not end before max_tokens: see whether they end at all (`r1pipe chat`): "
    "if not, the end token or the `template` is not the one that the checkpoint was trained with, else "
    "raise `sampling.max_tokens`",
    "malformed": "responses lack the form that `filters.form` asks for: `template` is the one that the checkpoint was "
    "trained with, and `form: auto` takes either form",
    "wrong answer": "a checkpoint that is never right gives nothing to imitate: train it longer, give easier prompts, "
    "or raise `sampling.n`",
    "not judged": "answers or tests could not be judged: `r1pipe audit rewards` shows gold answers that do not parse; "
    "a judge behind a service may not have answered",
    "no rule and no judge": "the rows have neither answers nor tests: name a `judge`, or map the column with the "
    "answers in the `prompts` stage (`columns: {answer: THEIRS}`)",
    "mixed or other language": "lower `filters.min_language`, or see that the rows' `language` is right",
    "repetition": "raise `filters.max_repetition`; a checkpoint that repeats itself was trained too long or samples "
    "too coldly (`sampling.temperature`)",
    "thinking too short": "lower `filters.min_thinking`",
    "thinking too long": "raise `filters.max_thinking`",
    "long paragraph": "raise `filters.max_paragraph`",
    "code block in the thinking": "set `filters.code_in_thinking: true`",
    "the rewriter could not follow": "use another `rewriter`, or none",
    "wrong by the judge": "ask another judge, or give another writer",
    "unsafe by the judge": "give prompts that are not harmful, or another writer",
    "no judge for a harmful request": "name a `judge`",
    "enough refusals": "raise `refusal_share`, or give prompts that are not harmful",
    REFUSED: "the service declined to answer: ask another model, or give other prompts",
}
_ANY = "or `reuse` the rows' own solutions, if they have any"


def count_by_source(candidates: Iterable[Candidate]) -> dict[str, dict[str, int]]:
    """{source: {"kept": n, reason: n, ...}}, for card.json."""
    counts: dict[str, Counter[str]] = {}
    for candidate in candidates:
        counts.setdefault(candidate.source, Counter())[candidate.reason or "kept"] += 1
    return {source: dict(counter.most_common()) for source, counter in counts.items()}


def describe(counts: Mapping[str, Mapping[str, int]]) -> str:
    """`zero-traces: wrong answer 40, cut off 24; reuse: ...`."""
    sources = []
    for source, reasons in counts.items():
        listed = ", ".join(f"{reason} {number}" for reason, number in reasons.items())
        sources.append(f"{source}: {listed}")
    return "; ".join(sources)


def nothing_kept(stage: str, counts: Mapping[str, Mapping[str, int]]) -> InputError:
    """The error of a stage that kept no response: it names the reason that led, and what helps against it.

    Args:
        counts: of count_by_source; nothing is kept.
    """
    totals: Counter[str] = Counter()
    for reasons in counts.values():
        totals.update(reasons)
    number = sum(totals.values())
    if not totals:
        return InputError(
            "0 of 0 responses kept", stage, "there were no prompts to answer, and nothing to reuse"
        )
    reason, most = totals.most_common(1)[0]
    fix = _REMEDIES.get(reason, "loosen the filters")
    if "reuse" not in counts:
        fix += f"\n{_ANY}"
    return InputError(
        f"0 of {number} responses kept: {most} of {number} {_as_verb(reason)}",
        f"{stage}: {describe(counts)}",
        fix,
    )


def _as_verb(reason: str) -> str:
    """A reason behind a number of responses."""
    return f"were dropped as `{reason}`" if reason != "cut off" else "were cut off at max_tokens"
