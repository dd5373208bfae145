"""Responses on their way into a dataset: each is verified, screened and chosen. A dropped one keeps its reason."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from r1pipe.artifacts import Prompts
from r1pipe.data.card import TokenCounter
from r1pipe.data.drop_reasons import REFUSED, count_by_source, nothing_kept
from r1pipe.data.files import Row
from r1pipe.data.filters import Filters, shape_reason, units
from r1pipe.data.io import read_rows, write_rows
from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.judges.judge import Judge
from r1pipe.text.rendering import render_prompt
from r1pipe.text.response import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    THINK_CLOSE,
    THINK_OPEN,
    join_response,
    split_response,
)

Prefer = Literal["shortest", "first", "random", "diverse"]

# The sentence around the answer of a reused solution, before and after it.
_ANSWER_SENTENCES = {"en": ("The answer is ", "."), "zh": ("答案是", "。")}


@dataclass(frozen=True)
class Candidate:
    """A response to a row, where it came from, and why it was dropped."""

    row: Row

    response: str

    source: str
    """zero-traces, sampled, reuse, ..."""

    tokens: int | None = None
    """of the response; None if no tokenizer counted"""

    finished: bool = True

    reason: str = ""
    """why it was dropped; empty while it is kept"""

    right: bool = False
    """it was verified, even if it was dropped later"""

    def drop(self, reason: str) -> Candidate:
        """The candidate with a reason; with an empty one, it is kept."""
        return replace(self, reason=reason)

    def record(self) -> dict[str, Any]:
        """A line of dropped.jsonl."""
        return {
            "id": self.row["id"],
            "source": self.source,
            "reason": self.reason,
            "prompt": self.row["prompt"],
            "response": self.response,
        }

    def verdict(self, drawn: str) -> dict[str, Any]:
        """The fields that settling has changed in a candidate whose response was drawn as `drawn`."""
        verdict: dict[str, Any] = {"reason": self.reason, "right": self.right}
        if self.response != drawn:
            verdict["response"] = self.response
        return verdict


# --- where candidates come from ---------------------------------------------------------------------------------------


def read_prompts(path: Path, here: Here) -> list[Row]:
    """The prompts of a dataset that this machine can verify.

    Without isolation, code is left out, and a warning says so.

    Raises:
        InputError: as read_rows; also if no prompt is left.
    """
    rows = read_rows(path, Prompts)
    # Verifying code runs programs that a model wrote, which is safe in isolation only.
    if here.isolation:
        return rows

    kept = [row for row in rows if "tests" not in row]
    if len(kept) < len(rows):
        warnings.warn(
            f"{here.stage}: {len(rows) - len(kept)} code rows are left out: no isolation", stacklevel=2
        )
    if not kept:
        raise InputError(
            "all rows are code, and nothing on this machine can isolate it",
            str(path),
            "install bubblewrap, or give other prompts",
        )
    return kept


def to_chat_form(response: str, row: Row) -> str:
    r"""R1-Zero's `<answer>42</answer>` as the summary of the chat form; anything else as it is.

    >>> to_chat_form("<think>6*7=42</think><answer>42</answer>", {"answer": "42"})
    '<think>6*7=42</think>\\boxed{42}'
    """
    head, opened, rest = response.rpartition(ANSWER_OPEN)
    if not opened or ANSWER_CLOSE not in rest or THINK_CLOSE not in head:
        return response
    head = head.rstrip()
    answer = rest.split(ANSWER_CLOSE)[0].strip()
    # In the chat form, \boxed{} marks the answer of a sentence. A program is not in a box.
    needs_box = "answer" in row and "tests" not in row and "\\boxed" not in answer
    return f"{head}\\boxed{{{answer}}}" if needs_box else f"{head}{answer}"


def reused(row: Row) -> str | None:
    """The row's own worked solution as a response; None if it has none.

    The text of the solution becomes the thinking, the row's answer the summary. A solution that already has thinking is
    taken as it is. The solution of a code row is the program, so it is the summary.
    """
    solution = row.get("solution")
    if not solution:
        return None
    if THINK_OPEN in solution:
        return solution
    if "tests" in row:
        program = solution if "```" in solution else f"```python\n{solution.strip()}\n```"
        return join_response("", program)
    if "answer" not in row:
        return join_response("", solution)
    language = "zh" if row.get("language") == "zh" else "en"
    before, after = _ANSWER_SENTENCES[language]
    answer = row["answer"] if isinstance(row["answer"], str) else row["answer"][0]
    return join_response(solution, f"{before}\\boxed{{{answer}}}{after}")


def reuse_candidates(rows: Iterable[Row]) -> list[Candidate]:
    """A candidate for every row that has a solution."""
    candidates = []
    for row in rows:
        response = reused(row)
        if response is not None:
            candidates.append(Candidate(row, response, "reuse"))
    return candidates


# --- what is dropped --------------------------------------------------------------------------------------------------


def screen(candidates: Sequence[Candidate], filters: Filters) -> list[Candidate]:
    """Each candidate, dropped with the first reason that applies.

    The order is: cut off, malformed, length, paragraphs, code, repetition, language.
    """
    from r1pipe.rewards.scoring import score
    from r1pipe.schema import RewardSpec

    screened = []
    for candidate in candidates:
        if not candidate.reason:
            candidate = candidate.drop(shape_reason(candidate.response, filters, candidate.finished))
        screened.append(candidate)
    if filters.min_language is None:
        return screened

    # Without thinking there is no language to measure.
    to_measure = [
        number
        for number, candidate in enumerate(screened)
        if not candidate.reason and split_response(candidate.response).thinking
    ]
    responses = [screened[number].response for number in to_measure]
    rows = [screened[number].row for number in to_measure]
    shares = score([RewardSpec(name="language")], responses, rows).components["language"]
    for number, share in zip(to_measure, shares, strict=True):
        if share is not None and share < filters.min_language:
            screened[number] = screened[number].drop("mixed or other language")
    return screened


def verify(candidates: Sequence[Candidate], judge: Judge | None = None) -> list[Candidate]:
    """Drop what is wrong: by the rules (answers, tests), or by the judge if no rule applies.

    What nobody can judge is dropped as well.
    """
    verified = list(candidates)
    for number, verdict in _verdicts(candidates, judge).items():
        candidate = candidates[number]
        if verdict:
            verified[number] = replace(candidate, right=True)
        elif verdict is not None:
            verified[number] = candidate.drop("wrong answer" if candidate.finished else "cut off")
        elif judge is not None or _has_rule(candidate):
            verified[number] = candidate.drop("not judged")
        else:
            verified[number] = candidate.drop("no rule and no judge")
    return verified


def _has_rule(candidate: Candidate) -> bool:
    return "tests" in candidate.row or "answer" in candidate.row


def _verdicts(candidates: Sequence[Candidate], judge: Judge | None) -> dict[int, bool | None]:
    """The verdict on each candidate that is not dropped yet, by its number; None if nobody can judge it."""
    from r1pipe.rewards.scoring import correct

    numbers = [number for number, candidate in enumerate(candidates) if not candidate.reason]
    responses = [candidates[number].response for number in numbers]
    rows = [candidates[number].row for number in numbers]
    by_rule = correct(responses, rows)
    verdicts: dict[int, bool | None] = dict(zip(numbers, by_rule, strict=True))

    # Where there is a rule, only the rule decides: a row with an answer or tests never goes to the judge.
    unjudged = [number for number in numbers if verdicts[number] is None]
    for_judge = [number for number in unjudged if not _has_rule(candidates[number])]
    if judge is not None and for_judge:

        def ask(number: int) -> bool | None:
            return judge.right(candidates[number].row, candidates[number].response)

        # A judge behind a service answers several questions at a time.
        with ThreadPoolExecutor(judge.max_in_flight) as threads:
            answers = threads.map(ask, for_judge)
            verdicts.update(zip(for_judge, answers, strict=True))
    return verdicts


def pass_rates(candidates: Iterable[Candidate]) -> dict[str, float]:
    """The share of right responses to each prompt, by its id.

    A response that a service refused to give does not count.
    """
    right: dict[str, list[bool]] = {}
    for candidate in candidates:
        if candidate.reason != REFUSED:
            right.setdefault(candidate.row["id"], []).append(candidate.right)
    return {prompt: sum(verdicts) / len(verdicts) for prompt, verdicts in right.items()}


# --- what is kept -----------------------------------------------------------------------------------------------------


def choose(
    candidates: Sequence[Candidate],
    *,
    per_prompt: int,
    prefer: Prefer,
    rng: random.Random,
    max_rows: int | None = None,
) -> list[Candidate]:
    """Keep some of the candidates, none twice; the rest is dropped with a reason.

    A prompt is its id and its text: ids of two datasets can be the same numbers. Samples always come before reuse.

    Args:
        per_prompt: the most candidates of a prompt.
        prefer: which candidates of a prompt come first: `shortest` (by tokens, else characters), `first`, `random`, or
            `diverse` (the first, then always the one whose nearest among those taken is farthest, by the overlap of
            their word 3-grams).
        max_rows: the most candidates in all; the rest is drawn to be dropped.
    """
    prompts: dict[tuple[str, str], list[int]] = {}
    for number, candidate in enumerate(candidates):
        if not candidate.reason:
            prompts.setdefault((candidate.row["id"], candidate.row["prompt"]), []).append(number)

    chosen = list(candidates)
    kept: list[int] = []
    for numbers in prompts.values():
        # `seen` counts different responses: a duplicate does not use up one of the prompt's places.
        seen: set[str] = set()
        for number in _preferred_first(candidates, numbers, prefer, rng):
            response = candidates[number].response
            if response in seen:
                chosen[number] = chosen[number].drop("duplicate")
            elif len(seen) == per_prompt:
                chosen[number] = chosen[number].drop("enough of this prompt")
            else:
                seen.add(response)
                kept.append(number)

    # Drawn and not cut from the end, so that the order of the prompts does not decide.
    if max_rows is not None:
        for number in rng.sample(kept, max(0, len(kept) - max_rows)):
            chosen[number] = chosen[number].drop("enough rows")
    return chosen


def _preferred_first(
    candidates: Sequence[Candidate],
    numbers: Sequence[int],
    prefer: Prefer,
    rng: random.Random,
) -> list[int]:
    """The numbers of one prompt's candidates, in the order of preference."""
    if prefer == "diverse":
        return _diverse_first({number: candidates[number] for number in numbers})
    if prefer == "random":
        order = {number: rng.random() for number in numbers}
    elif prefer == "shortest":
        order = {number: _size(candidates[number]) for number in numbers}
    else:
        order = dict.fromkeys(numbers, 0)
    return sorted(numbers, key=lambda number: (candidates[number].source == "reuse", order[number], number))


def _size(candidate: Candidate) -> int:
    return candidate.tokens if candidate.tokens is not None else len(candidate.response)


def _diverse_first(candidates: Mapping[int, Candidate]) -> list[int]:
    """The numbers in an order in which the next is always the one least like those before; samples before reuse."""
    grams: dict[int, set[tuple[str, str, str]]] = {}
    for number, candidate in candidates.items():
        words = units(candidate.response)
        grams[number] = set(zip(words, words[1:], words[2:], strict=False))

    # For each candidate that is left, its overlap with the nearest of those taken.
    nearest = dict.fromkeys(candidates, 0.0)
    order: list[int] = []

    def rank(number: int) -> tuple[bool, float, int]:
        return candidates[number].source == "reuse", nearest[number], number

    while nearest:
        taken = min(nearest, key=rank)
        order.append(taken)
        del nearest[taken]
        for number in nearest:
            shared = len(grams[number] & grams[taken])
            overlap = shared / max(1, len(grams[number] | grams[taken]))
            nearest[number] = max(nearest[number], overlap)
    return order


# --- writing ----------------------------------------------------------------------------------------------------------


def write_chats(
    folder: Path,
    candidates: Sequence[Candidate],
    stage: str,
    *,
    card: Mapping[str, Any] | None = None,
    tokens: TokenCounter | None = None,
    unread: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Write what was kept as chats, and the rest with its reasons.

    Args:
        card: what the cards contain beside the counts.
        tokens: counts tokens for the cards.
        unread: rows that a source left out, each with a `reason`.

    Returns:
        the stage's metrics

    Raises:
        InputError: nothing was kept; the error gives the reasons by source.
    """
    # The counts are part of the card, and of the message if nothing is kept.
    counts = count_by_source(candidates)
    kept = [candidate for candidate in candidates if not candidate.reason]
    if not kept:
        raise nothing_kept(stage, counts)

    rows = [as_chat(candidate, name) for candidate, name in zip(kept, chat_ids(kept), strict=True)]
    prompts = len({(candidate.row["id"], candidate.row["prompt"]) for candidate in kept})
    domains = dict(Counter(row["domain"] for row in rows))
    dropped = [*unread, *(candidate.record() for candidate in candidates if candidate.reason)]
    card = {"rows": len(rows), "prompts": prompts, "domains": domains, "sources": counts, **(card or {})}
    write_rows(folder, rows, dropped, card, tokens=tokens)

    metrics: dict[str, float] = {"candidates": len(candidates), "kept": len(rows), "prompts": prompts}
    for reason, number in Counter(row["reason"] for row in dropped).most_common():
        metrics[f"dropped/{reason}"] = number
    return metrics


def chat_ids(candidates: Sequence[Candidate]) -> list[str]:
    """Ids for a Chats dataset.

    The first response to a prompt has the prompt's id, further ones have ID#1, ID#2, ...; numbers that would give the
    id of another prompt are left out.
    """
    taken = {candidate.row["id"] for candidate in candidates}
    numbers: Counter[str] = Counter()
    names = []
    for candidate in candidates:
        # Prompts of two datasets may have one id; their responses are numbered together.
        prompt = candidate.row["id"]
        name = prompt
        if numbers[prompt]:
            name = f"{prompt}#{numbers[prompt]}"
            while name in taken:
                numbers[prompt] += 1
                name = f"{prompt}#{numbers[prompt]}"
        numbers[prompt] += 1
        taken.add(name)
        names.append(name)
    return names


def as_chat(candidate: Candidate, name: str) -> Row:
    """A row of a Chats dataset with the id `name`."""
    row = candidate.row
    question = row["messages"][:-1] if "messages" in row else render_prompt(row, None)
    messages = [*question, {"role": "assistant", "content": candidate.response}]
    tags = {column: row[column] for column in ("domain", "language", "level") if column in row}
    return {"id": name, "messages": messages, **tags, "source": candidate.source}
