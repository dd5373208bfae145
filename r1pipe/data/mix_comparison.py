"""What a dataset has in common with the one of the round before, and how varied the responses of both are.

A model that is trained on its own responses, again and again, tends to say the same in fewer ways. These numbers show
it (which ones is our choice; the paper makes one round and gives none).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from r1pipe.artifacts import Chats
from r1pipe.data.files import read_raw
from r1pipe.data.io import in_our_columns
from r1pipe.data.near_duplicates import shingle_words
from r1pipe.data.row_checks import Tally

Row = dict[str, Any]
Rows = Callable[[], Iterable[Row]]
"""Reads a dataset from its beginning: it is read several times, and is never in memory as a whole."""

Responses = dict[bytes, set[bytes]]
"""The hash of a problem -> the hashes of its responses."""

GRAM = 4
# Problems whose responses are compared by their words, so that memory does not grow with the dataset.
COMPARED = 10_000


def chats_of(folder: Path) -> Iterator[Row]:
    """The rows of a dataset of chats, one after the other."""
    tally = Tally()
    for where, row in read_raw(folder):
        yield in_our_columns(row, Chats, where, tally)


def compare_rounds(now: Rows, before: Rows) -> dict[str, float]:
    """Compare two datasets of chats.

    Returns:
        problems, problems_before: how many there are.
        known_problems: share of the problems that stand in the earlier dataset, too.
        known_rows: share of the rows whose problem and response both do.
        responses_a_problem, responses_a_problem_before: different ones, mean.
        distinct_4_grams, distinct_4_grams_before: different word 4-grams of the responses over all of them, from one
            response to each problem that both have (COMPARED of them at most); left out where they have none.
    """
    responses_before: Responses = {}
    for row in before():
        _add(row, responses_before)
    responses: Responses = {}
    rows = known = 0
    for row in now():
        problem, response = _add(row, responses)
        rows += 1
        known += response in responses_before.get(problem, set())
    common = responses.keys() & responses_before.keys()
    numbers: dict[str, float] = {
        "problems": len(responses),
        "problems_before": len(responses_before),
        "known_problems": len(common) / max(1, len(responses)),
        "known_rows": known / max(1, rows),
        "responses_a_problem": _mean_size(responses),
        "responses_a_problem_before": _mean_size(responses_before),
    }
    if common:
        compared = set(sorted(common)[:COMPARED])
        numbers["distinct_4_grams"] = _distinct_grams(now(), compared)
        numbers["distinct_4_grams_before"] = _distinct_grams(before(), compared)
    return {name: round(number, 4) for name, number in numbers.items()}


def _problem(row: Row) -> bytes:
    """The hash of everything that the last reply answers."""
    asked = [(message["role"], message["content"]) for message in row["messages"][:-1]]
    return _hash(repr(asked))


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf8", "surrogatepass"), digest_size=12).digest()


def _add(row: Row, responses: Responses) -> tuple[bytes, bytes]:
    """Enter a row's response; the hashes of its problem and of the response."""
    problem = _problem(row)
    response = _hash(row["messages"][-1]["content"])
    responses.setdefault(problem, set()).add(response)
    return problem, response


def _mean_size(responses: Responses) -> float:
    different = sum(len(of_problem) for of_problem in responses.values())
    return different / max(1, len(responses))


def _distinct_grams(rows: Iterable[Row], problems: set[bytes]) -> float:
    """The share of different word 4-grams, from the first response to each of these problems."""
    left = set(problems)
    seen: set[int] = set()
    total = 0
    for row in rows:
        problem = _problem(row)
        if problem not in left:
            continue
        left.remove(problem)
        words = shingle_words(row["messages"][-1]["content"])
        for start in range(len(words) - GRAM + 1):
            total += 1
            seen.add(hash(tuple(words[start : start + GRAM])))
    return len(seen) / max(1, total)
