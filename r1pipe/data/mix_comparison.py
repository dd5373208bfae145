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
    responses, rows = _responses(now())
    responses_before, _ = _responses(before())
    common = responses.keys() & responses_before.keys()
    numbers: dict[str, float] = {
        "problems": len(responses),
        "problems_before": len(responses_before),
        "known_problems": len(common) / max(1, len(responses)),
        "known_rows": _known(now(), responses_before) / max(1, rows),
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


def _response(row: Row) -> bytes:
    return _hash(row["messages"][-1]["content"])


def _hash(text: str) -> bytes:
    return blake2b(text.encode("utf8", "surrogatepass"), digest_size=12).digest()


def _responses(rows: Iterable[Row]) -> tuple[Responses, int]:
    """The responses by problem, and the number of rows."""
    responses: Responses = {}
    number = 0
    for row in rows:
        number += 1
        of_problem = responses.setdefault(_problem(row), set())
        of_problem.add(_response(row))
    return responses, number


def _known(rows: Iterable[Row], responses_before: Responses) -> int:
    known = 0
    for row in rows:
        earlier = responses_before.get(_problem(row), set())
        known += _response(row) in earlier
    return known


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
