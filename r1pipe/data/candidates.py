"""Responses on their way into a dataset: each is verified, screened and chosen, and one that is dropped keeps its reason."""

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
from r1pipe.data.filters import Filters, shape_reason, units
from r1pipe.data.io import read_rows, write_rows
from r1pipe.errors import InputError
from r1pipe.here import Here
from r1pipe.judges.judge import Judge
from r1pipe.text.response import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, join_response, split_response

REFUSED = "refused by the service"
Prefer = Literal["shortest", "first", "random", "diverse"]


@dataclass(frozen=True)
class Candidate:
    """A response to a row, where it came from, and why it was dropped (empty while it is kept)."""

    row: dict[str, Any]
    response: str
    source: str  # zero-traces, sampled, reuse, ...
    tokens: int | None = None  # of the response; None where no tokenizer counted
    finished: bool = True
    reason: str = ""
    right: bool = False  # it was verified, whatever became of it then

    def drop(self, reason: str) -> Candidate:
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
        """What settling made of a candidate that was drawn as the text `drawn`: the fields to replace."""
        return {
            "reason": self.reason,
            "right": self.right,
            **({"response": self.response} if self.response != drawn else {}),
        }


def read_prompts(path: Path, here: Here) -> list[dict[str, Any]]:
    """The prompts of a dataset that this machine can verify: without isolation, code is left out, and a warning says so."""
    rows = read_rows(path, Prompts)
    kept = rows if here.isolation else [row for row in rows if "tests" not in row]
    if len(kept) < len(rows):
        warnings.warn(f"{here.stage}: {len(rows) - len(kept)} code rows are left out: no isolation", stacklevel=2)
    if not kept:
        raise InputError(
            "all rows are code, which nothing here can isolate", str(path), "install bubblewrap, or give other prompts"
        )
    return kept


def to_chat_form(response: str, row: dict[str, Any]) -> str:
    r"""R1-Zero's `<answer>42</answer>` as the summary of the chat form; anything else as it is.

    >>> to_chat_form("<think>6*7=42</think><answer>42</answer>", {"answer": "42"})
    '<think>6*7=42</think>\\boxed{42}'
    """
    head, opened, rest = response.rpartition(ANSWER_OPEN)
    if not opened or ANSWER_CLOSE not in rest or THINK_CLOSE not in head:
        return response
    answer = rest.split(ANSWER_CLOSE)[0].strip()
    bare = "tests" not in row and "\\boxed" not in answer and "answer" in row
    return f"{head.rstrip()}\\boxed{{{answer}}}" if bare else f"{head.rstrip()}{answer}"


def reused(row: dict[str, Any]) -> str | None:
    """The row's own worked solution as a response: its text becomes the thinking, its answer the summary; None where there is none.

    A solution that already has thinking is taken as it is. Of a code row the solution is the program, so it is the summary.
    """
    solution = row.get("solution")
    if not solution:
        return None
    if THINK_OPEN in solution:
        return solution
    if "tests" in row:
        return join_response("", solution if "```" in solution else f"```python\n{solution.strip()}\n```")
    if "answer" not in row:
        return join_response("", solution)
    says = "答案是" if row.get("language") == "zh" else "The answer is "
    stop = "。" if row.get("language") == "zh" else "."
    return join_response(solution, f"{says}\\boxed{{{row['answer']}}}{stop}")


def reuse_candidates(rows: Iterable[dict[str, Any]]) -> list[Candidate]:
    """A candidate for every row that brings a solution."""
    return [Candidate(row, response, "reuse") for row in rows if (response := reused(row)) is not None]


def screen(candidates: Sequence[Candidate], filters: Filters) -> list[Candidate]:
    """Each candidate, dropped with the first reason that applies: cut off, malformed, length, paragraphs, code, repetition, language."""
    from r1pipe.rewards.scoring import score
    from r1pipe.schema import RewardSpec

    screened = [
        candidate if candidate.reason else candidate.drop(shape_reason(candidate.response, filters, candidate.finished))
        for candidate in candidates
    ]
    if filters.min_language is None:
        return screened
    asked = [
        number
        for number, candidate in enumerate(screened)
        if not candidate.reason and (split_response(candidate.response).thinking or "")
    ]
    texts = [screened[number].response for number in asked]
    shares = score([RewardSpec(name="language")], texts, [screened[number].row for number in asked]).components[
        "language"
    ]
    for number, share in zip(asked, shares, strict=True):
        if share is not None and share < filters.min_language:
            screened[number] = screened[number].drop("mixed or other language")
    return screened


def verify(candidates: Sequence[Candidate], judge: Judge | None = None) -> list[Candidate]:
    """Drop what is wrong by the rules (answers, tests), or by the judge where no rule applies; what nobody can judge is dropped as well."""
    from r1pipe.rewards.scoring import correct

    open_ = [number for number, candidate in enumerate(candidates) if not candidate.reason]
    verdicts = dict(
        zip(
            open_,
            correct([candidates[number].response for number in open_], [candidates[number].row for number in open_]),
            strict=True,
        )
    )
    checkable = {number for number in open_ if "tests" in candidates[number].row or "answer" in candidates[number].row}
    asked = [number for number in open_ if verdicts[number] is None and number not in checkable]
    if judge is not None and asked:
        with ThreadPoolExecutor(judge.max_in_flight) as threads:
            verdicts.update(
                zip(
                    asked,
                    threads.map(lambda number: judge.right(candidates[number].row, candidates[number].response), asked),
                    strict=True,
                )
            )
    verified = list(candidates)
    for number, verdict in verdicts.items():
        candidate = candidates[number]
        if verdict is None:
            verified[number] = candidate.drop(
                "not judged" if number in checkable or judge is not None else "no rule and no judge"
            )
        elif not verdict:
            verified[number] = candidate.drop("wrong answer" if candidate.finished else "cut off")
        else:
            verified[number] = replace(candidate, right=True)
    return verified


def pass_rates(candidates: Iterable[Candidate]) -> dict[str, float]:
    """The share of right responses of every prompt, by its id; what a service refused to answer is no response."""
    right: dict[str, list[bool]] = {}
    for candidate in candidates:
        if candidate.reason == REFUSED:
            continue
        right.setdefault(candidate.row["id"], []).append(candidate.right)
    return {prompt: sum(verdicts) / len(verdicts) for prompt, verdicts in right.items()}


def choose(
    candidates: Sequence[Candidate], per_prompt: int, prefer: Prefer, rng: random.Random, max_rows: int | None = None
) -> list[Candidate]:
    """At most `per_prompt` of each prompt's kept candidates, none twice, and at most `max_rows` in all; the rest is dropped with a reason.

    A prompt is its id and its text: ids of two datasets can be the same numbers.

    Args:
        prefer: of one prompt: `shortest` (by tokens, else characters), `first`, `random`, or `diverse` (the first, then again and again the one
            whose nearest among those taken is farthest, by the overlap of their word 3-grams); samples always come before reuse.
    """
    chosen = list(candidates)
    prompts: dict[tuple[str, str], list[int]] = {}
    for number, candidate in enumerate(candidates):
        if not candidate.reason:
            prompts.setdefault((candidate.row["id"], candidate.row["prompt"]), []).append(number)
    kept: list[int] = []
    for numbers in prompts.values():
        if prefer == "diverse":
            order: dict[int, float] = _spread({number: candidates[number] for number in numbers})
        else:
            order = {
                number: (
                    rng.random() if prefer == "random" else _size(candidates[number]) if prefer == "shortest" else 0
                )
                for number in numbers
            }
        seen: set[str] = set()
        for number in sorted(numbers, key=lambda number: (candidates[number].source == "reuse", order[number], number)):
            if candidates[number].response in seen:
                chosen[number] = chosen[number].drop("duplicate")
            elif len(seen) == per_prompt:
                chosen[number] = chosen[number].drop("enough of this prompt")
            else:
                seen.add(candidates[number].response)
                kept.append(number)
    if max_rows is not None:
        for number in rng.sample(kept, max(0, len(kept) - max_rows)):
            chosen[number] = chosen[number].drop("enough rows")
    return chosen


def _size(candidate: Candidate) -> int:
    return candidate.tokens if candidate.tokens is not None else len(candidate.response)


def _spread(candidates: Mapping[int, Candidate]) -> dict[int, float]:
    """Each number's place when the next is always the one least like those before; samples before reuse."""
    words = {number: units(candidate.response) for number, candidate in candidates.items()}
    grams = {number: set(zip(found, found[1:], found[2:], strict=False)) for number, found in words.items()}
    nearest = dict.fromkeys(candidates, 0.0)
    places: dict[int, float] = {}
    while nearest:
        taken = min(nearest, key=lambda number: (candidates[number].source == "reuse", nearest[number], number))
        places[taken] = len(places)
        del nearest[taken]
        for number in nearest:
            nearest[number] = max(
                nearest[number], len(grams[number] & grams[taken]) / max(1, len(grams[number] | grams[taken]))
            )
    return places


def write_chats(
    folder: Path,
    candidates: Sequence[Candidate],
    stage: str,
    card: Mapping[str, Any] | None = None,
    tokens: TokenCounter | None = None,
    unread: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Write what was kept as chats and the rest with its reasons, rows that a source left `unread` included; returns the metrics.

    `tokens` counts tokens for the cards.

    Raises:
        InputError: nothing was kept; says why, by source.
    """
    counts = count_by_source(candidates)
    kept = [candidate for candidate in candidates if not candidate.reason]
    if not kept:
        raise InputError(
            f"0 of {len(candidates)} responses kept",
            f"{stage}: {describe(counts)}",
            "a checkpoint that is never right gives nothing to imitate: train it longer, loosen the filters, or set `reuse: true` if the rows have solutions",
        )
    rows = [as_chat(candidate, name) for candidate, name in zip(kept, chat_ids(kept), strict=True)]
    prompts = len({(candidate.row["id"], candidate.row["prompt"]) for candidate in kept})
    dropped = [*unread, *(candidate.record() for candidate in candidates if candidate.reason)]
    domains = dict(Counter(row["domain"] for row in rows))
    write_rows(
        folder,
        rows,
        dropped,
        {"rows": len(rows), "prompts": prompts, "domains": domains, "sources": counts, **(card or {})},
        tokens,
    )
    reasons = Counter(row["reason"] for row in dropped)
    metrics: dict[str, float] = {"candidates": len(candidates), "kept": len(rows), "prompts": prompts}
    return metrics | {f"dropped/{reason}": n for reason, n in reasons.most_common()}


def count_by_source(candidates: Iterable[Candidate]) -> dict[str, dict[str, int]]:
    """{source: {"kept": n, reason: n, ...}}, for card.json."""
    counts: dict[str, Counter[str]] = {}
    for candidate in candidates:
        counts.setdefault(candidate.source, Counter())[candidate.reason or "kept"] += 1
    return {source: dict(counter.most_common()) for source, counter in counts.items()}


def describe(counts: dict[str, dict[str, int]]) -> str:
    """`zero-traces: wrong answer 40, cut off 24; reuse: ...`, for the message that nothing was kept."""
    return "; ".join(
        f"{source}: " + ", ".join(f"{reason} {n}" for reason, n in reasons.items())
        for source, reasons in counts.items()
    )


def chat_ids(candidates: Sequence[Candidate]) -> list[str]:
    """Ids for a Chats dataset: the first response to a prompt has its id, further ones have ID#1, ID#2, ..., leaving out what is another prompt's id."""
    taken = {candidate.row["id"] for candidate in candidates}
    numbers: Counter[str] = Counter()
    names = []
    for candidate in candidates:
        own = name = candidate.row["id"]
        if numbers[own]:
            while (name := f"{own}#{numbers[own]}") in taken:
                numbers[own] += 1
        numbers[own] += 1
        taken.add(name)
        names.append(name)
    return names


def as_chat(candidate: Candidate, name: str) -> dict[str, Any]:
    """A row of a Chats dataset."""
    row = candidate.row
    before = row["messages"][:-1] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    messages = [*before, {"role": "assistant", "content": candidate.response}]
    kept = {name: row[name] for name in ("domain", "language", "level") if name in row}
    return {"id": name, "messages": messages, **kept, "source": candidate.source}
