"""Several datasets of chats as one, in stated shares."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from r1pipe.errors import InputError

Rows = list[dict[str, Any]]


def mix(
    datasets: Mapping[str, Sequence[dict[str, Any]]], shares: Mapping[str, float] | None, max_rows: int | None, rng: random.Random
) -> tuple[Rows, dict[str, int]]:
    """Draw rows without replacement and shuffle them.

    Args:
        datasets: name -> rows. An id that two datasets use gets the second one's name behind it.
        shares: name -> share of the mix, as many rows as allow it; None takes all rows of all.

    Returns:
        the rows, and how many each dataset gave.

    Raises:
        InputError: shares and datasets have different names, or a share would leave nothing.
    """
    if shares is not None and set(shares) != set(datasets):
        raise InputError(f"shares are stated for {', '.join(sorted(shares))}", f"the datasets are {', '.join(sorted(datasets))}", "state one share a dataset")
    total = sum(shares.values()) if shares else 1.0
    whole = min(len(datasets[name]) * total / share for name, share in shares.items() if share) if shares else sum(map(len, datasets.values()))
    whole = min(whole, max_rows) if max_rows else whole
    mixed: Rows = []
    counts: dict[str, int] = {}
    seen: set[str] = set()
    for name, rows in datasets.items():
        part = shares[name] / total if shares else len(rows) / sum(map(len, datasets.values()))
        counts[name] = min(len(rows), round(whole * part))
        for row in rng.sample(list(rows), counts[name]):
            number = row["id"] if row["id"] not in seen else f"{row['id']}@{name}"
            seen.add(number)
            mixed.append({**row, "id": number})
    if not mixed:
        raise InputError("the mix is empty", str({name: len(rows) for name, rows in datasets.items()}), "give rows, or other shares")
    rng.shuffle(mixed)
    return mixed, counts


def composition(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """{domain: rows, share, rounds, characters}: the columns of the paper's table of its 800k (v2 Table 5), with characters for tokens."""
    table: dict[str, dict[str, float]] = {}
    for domain, count in Counter(row["domain"] for row in rows).most_common():
        members = [row["messages"] for row in rows if row["domain"] == domain]
        table[domain] = {
            "rows": count,
            "share": round(count / len(rows), 4),
            "rounds": round(sum(message["role"] == "assistant" for messages in members for message in messages) / count, 2),
            "characters": round(sum(len(message["content"]) for messages in members for message in messages) / count, 1),
        }
    return table
