"""A dataset's card: card.json for programs, card.md for people, with the columns of the paper's table of its 800k (v2 Table 5)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

CARD, TABLE = "card.json", "card.md"
NOBODY = "not reviewed by people"
PERCENTILES = (50, 90, 99)
TokenCounter = Callable[[Sequence[str]], list[int]]


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """What is counted of a row: its messages, or its prompt and responses."""
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row[column] for column in ("prompt", "chosen", "rejected", "response") if isinstance(row.get(column), str)]


def rounds_of(row: Mapping[str, Any]) -> int:
    """Replies of the assistant; 1 where there are no messages."""
    return sum(message["role"] == "assistant" for message in row["messages"]) if "messages" in row else 1


@cache
def token_counter(checkpoint: Path) -> TokenCounter:
    """texts -> tokens of each, by a checkpoint's tokenizer, without the marks of its chat template."""
    from r1pipe.models.loading import load_tokenizer

    tokenizer = load_tokenizer(checkpoint)
    return lambda texts: [
        len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    ]


class Counted:
    """Counts rows while they pass by, so that a dataset is read once.

    Args:
        tokens: counts tokens too; None counts characters alone.
    """

    def __init__(self, tokens: TokenCounter | None = None) -> None:
        self._tokens = tokens
        self._columns: dict[str, list[Any]] = {
            "domain": [],
            "rounds": [],
            "characters": [],
            **({"tokens": []} if tokens else {}),
        }
        self._open: list[
            list[str]
        ] = []  # texts whose tokens are not counted yet: a tokenizer is fast with many at once

    def watch(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            texts = texts_of(row)
            self._columns["domain"].append(row.get("domain", "unknown"))
            self._columns["rounds"].append(rounds_of(row))
            self._columns["characters"].append(sum(map(len, texts)))
            if self._tokens:
                self._open.append(texts)
                if len(self._open) == 1000:
                    self._count()
            yield row

    def _count(self) -> None:
        if self._tokens and self._open:
            self._columns["tokens"] += tokens_of(self._open, self._tokens)
            self._open.clear()

    def statistics(self) -> dict[str, Any]:
        self._count()
        return statistics(**self._columns)


def tokens_of(rows: Sequence[Sequence[str]], tokens: TokenCounter) -> list[int]:
    """The tokens of each row's texts together."""
    counts = iter(tokens([text for row in rows for text in row]))
    return [sum(islice(counts, len(row))) for row in rows]


def statistics(domain: Any, rounds: Any, characters: Any, tokens: Any = None) -> dict[str, Any]:
    """Statistics of R rows, of which each argument is a column (R,), a list or an array.

    Returns:
        {"total": of all rows, "domains": {domain: of its rows}}, largest first, each with rows, share, rounds (mean), and characters and tokens
        with their mean, percentiles and maximum.
    """
    import numpy as np

    names, codes = np.unique(np.asarray(domain, dtype=np.str_), return_inverse=True)
    lengths = {
        name: np.asarray(column)
        for name, column in (("characters", characters), ("tokens", tokens))
        if column is not None
    }

    def of(members: Any) -> dict[str, Any]:
        rows = int(np.count_nonzero(members))
        return {
            "rows": rows,
            "share": round(rows / max(len(codes), 1), 4),
            "rounds": round(float(np.asarray(rounds)[members].mean()), 2) if rows else 0.0,
            **{name: _spread(column[members]) for name, column in lengths.items() if rows},
        }

    table = {str(name): of(codes == code) for code, name in enumerate(names)}
    return {
        "total": of(np.ones(len(codes), bool)),
        "domains": dict(sorted(table.items(), key=lambda item: -item[1]["rows"])),
    }


def _spread(column: Any) -> dict[str, float]:
    import numpy as np

    percentiles = np.percentile(column, PERCENTILES).round(1).tolist()
    return {
        "mean": round(float(column.mean()), 1),
        **{f"p{p}": value for p, value in zip(PERCENTILES, percentiles, strict=True)},
        "max": int(column.max()),
    }


def write_card(folder: Path, card: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
    """Write both cards into a dataset's folder."""
    card = {"reviews": NOBODY, **card, "statistics": stats}
    (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    (folder / TABLE).write_text(table(card), encoding="utf8")


def table(card: Mapping[str, Any]) -> str:
    """The card as Markdown: a line a domain, what was dropped, and who has looked at it."""
    stats = card["statistics"]
    unit = "tokens" if "tokens" in stats["total"] else "characters"
    heads = ["Domain", "Samples", "Share", "Avg rounds", f"Avg {unit}", *(f"p{p}" for p in PERCENTILES), "max"]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, of in [*stats["domains"].items(), ("**Total**", stats["total"])]:
        spread = of.get(unit, {})
        lines.append(
            f"| {name} | {of['rows']:,} | {of['share']:.1%} | {of['rounds']} | {' | '.join(f'{value:,}' for value in spread.values())} |"
        )
    if dropped := card.get("dropped"):
        lines += [
            "",
            "| Dropped | Rows |",
            "| --- | ---: |",
            *(f"| {reason} | {rows:,} |" for reason, rows in dropped.items()),
        ]
    return "\n".join([*lines, "", *_reviewed(card["reviews"])]) + "\n"


def _reviewed(reviews: Any) -> list[str]:
    if not isinstance(reviews, Mapping) or all(counts == NOBODY for counts in reviews.values()):
        return [f"This dataset is {NOBODY}."]
    shown = {
        name: counts if counts == NOBODY else ", ".join(f"{decision} {n:,}" for decision, n in counts.items())
        for name, counts in reviews.items()
    }
    return ["Reviewed by people:", "", *(f"- {name}: {counts}" for name, counts in shown.items())]
