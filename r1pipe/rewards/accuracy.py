"""Accuracy: is the final answer right? (v2 section 2.2: a rule, not a model.)

The answer is read behind the thinking, never inside it: the last \\boxed{...}; else the last <answer>...</answer>; else
the last plain number, choice letter or closing words of the summary, whichever kind the gold answer is (reading.py).
Plain answers are compared in answers.py, the rest by math-verify in processes of its own (symbolic.py), so an
expression that hangs costs only its own verdict.

None, which is not 0, means not judged: the row has no gold answer, the gold answer does not parse, or time ran out on
formulas with unknowns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1pipe.errors import ConfigError
from r1pipe.rewards import symbolic
from r1pipe.rewards.answers import compare, parse
from r1pipe.rewards.notation import to_latex
from r1pipe.rewards.reading import EXTRACT, extract
from r1pipe.rewards.texts import Completion, text_of

# One object: `list | tuple` in the loop would be made anew for each row.
_SEVERAL = (list, tuple)


def accuracy(
    completions: Sequence[Completion],
    answer: Sequence[Any] | None = None,
    *,
    prompt: Sequence[Any] | None = None,
    extract_from: Sequence[str] = EXTRACT,
    timeout: float = 1.0,
    **columns: Any,
) -> list[float | None]:
    """1.0 where the final answer equals the gold answer, 0.0 where not, None where it cannot be judged.

    Args:
        completions: responses, as strings or TRL's message lists.
        answer: gold answers, one for each completion; a list holds several accepted ones; None where the row has none.
        prompt: the questions, which an answer must not copy (also under TRL's name of the column, `prompts`).
        extract_from: where the answer may stand, in order (boxed, tags, last).
        timeout: seconds of CPU time for one symbolic comparison.
        columns: the row's other columns.

    Raises:
        ConfigError: `extract_from` holds something else.

    >>> accuracy(["<think>6*7</think>\\\\boxed{42}", "<answer>41</answer>"], answer=["42", "42"])
    [1.0, 0.0]
    """
    if isinstance(extract_from, str) or not set(extract_from) <= set(EXTRACT):
        raise ConfigError(f"extract_from is {extract_from!r}", fix=f"give a list of {', '.join(EXTRACT)}")
    if answer is None:
        return [None] * len(completions)

    prompts = prompt if prompt is not None else columns.get("prompts") or [None] * len(completions)

    verdicts: list[float | None] = []
    # Pairs (gold, answer) that need algebra, and the responses that wait for each; equal pairs are compared once.
    open_pairs: dict[tuple[str, str], list[int]] = {}
    for i, (completion, golds, question) in enumerate(zip(completions, answer, prompts, strict=True)):
        verdict: float | None = None
        text = completion if isinstance(completion, str) else text_of(completion)
        for accepted in golds if isinstance(golds, _SEVERAL) else (golds,):
            gold = accepted if isinstance(accepted, str) else _gold_text(accepted)
            kind = parse(gold).kind
            # A gold answer that does not parse says nothing; the row is judged by the others, if there are any.
            if kind == "broken":
                continue
            final = extract(text, kind, extract_from, gold)
            decided = 0.0 if final is None else compare(gold, final, question)
            if decided is None:
                open_pairs.setdefault((to_latex(gold), to_latex(final or "")), []).append(i)
            elif verdict is None or decided > verdict:
                verdict = decided
        verdicts.append(verdict)

    if open_pairs:
        # All at once, so that the processes work side by side.
        symbolic_verdicts = symbolic.equal(list(open_pairs), timeout=timeout)
        for places, verdict in zip(open_pairs.values(), symbolic_verdicts, strict=True):
            for i in places:
                verdicts[i] = _best(verdicts[i], verdict)
    return verdicts


def _gold_text(gold: Any) -> str:
    """A gold answer as a string; None, and NaN (a table's missing value), are no answer: ""."""
    is_nan = isinstance(gold, float) and gold != gold
    return "" if gold is None or is_nan else str(gold)


def _best(decided: float | None, by_algebra: float | None) -> float | None:
    """The better verdict of two accepted answers; an open comparison hides a failure (None) but not a success.

    Args:
        decided: verdict on the answers that came before; None where there is none.
        by_algebra: verdict on one more answer; None where it was not judged.
    """
    if 1.0 in (decided, by_algebra):
        return 1.0
    if decided is None or by_algebra is None:
        return by_algebra
    return max(decided, by_algebra)
