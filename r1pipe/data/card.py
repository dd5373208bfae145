"""A dataset's card: card.json for programs, card.md for people.

The table has the columns of the paper's table of its 800k rows (v2 Table 5).
"""

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
RESPONSE_COLUMNS = ("prompt", "chosen", "rejected", "response")

# Rows whose tokens are counted at a time: a tokenizer is fast with many texts at once.
_ROWS_AT_ONCE = 1000

TokenCounter = Callable[[Sequence[str]], list[int]]
"""texts -> the number of tokens of each"""


def texts_of(row: Mapping[str, Any]) -> list[str]:
    """The texts of a row that are counted: its messages, or its prompt and responses."""
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row[column] for column in RESPONSE_COLUMNS if isinstance(row.get(column), str)]


def rounds_of(row: Mapping[str, Any]) -> int:
    """The number of replies of the assistant; 1 if the row has no messages."""
    if "messages" not in row:
        return 1
    return sum(message["role"] == "assistant" for message in row["messages"])


@cache
def token_counter(checkpoint: Path) -> TokenCounter:
    """A TokenCounter with a checkpoint's tokenizer, without the tokens that its chat template adds."""
    from r1pipe.models.loading import load_tokenizer
    from r1pipe.text.tokenizing import token_ids

    tokenizer = load_tokenizer(checkpoint)

    def count(texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in token_ids(texts, tokenizer)]

    return count


def tokens_of(rows: Sequence[Sequence[str]], tokens: TokenCounter) -> list[int]:
    """The number of tokens of each row's texts together."""
    texts = [text for row in rows for text in row]
    counts = iter(tokens(texts))
    return [sum(islice(counts, len(row))) for row in rows]


class Counted:
    """Counts rows while they pass through, so that a dataset is read once.

    Args:
        tokens: counts tokens too; without it, only characters are counted.
    """

    def __init__(self, tokens: TokenCounter | None = None) -> None:
        self._tokens = tokens
        self._columns: dict[str, list[Any]] = {"domain": [], "rounds": [], "characters": []}
        if tokens:
            self._columns["tokens"] = []
        self._uncounted: list[list[str]] = []

    def watch(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """The same rows, counted."""
        for row in rows:
            texts = texts_of(row)
            self._columns["domain"].append(row.get("domain", "unknown"))
            self._columns["rounds"].append(rounds_of(row))
            self._columns["characters"].append(sum(map(len, texts)))
            if self._tokens:
                self._uncounted.append(texts)
                if len(self._uncounted) == _ROWS_AT_ONCE:
                    self._count_tokens()
            yield row

    def _count_tokens(self) -> None:
        if self._tokens and self._uncounted:
            self._columns["tokens"] += tokens_of(self._uncounted, self._tokens)
            self._uncounted.clear()

    def statistics(self) -> dict[str, Any]:
        """Statistics of the rows that have passed."""
        self._count_tokens()
        return statistics(**self._columns)


def statistics(*, domain: Any, rounds: Any, characters: Any, tokens: Any = None) -> dict[str, Any]:
    """Statistics of R rows, of which each argument is a column (R,), a list or an array.

    Returns:
        {"total": of all rows, "domains": {domain: of its rows}}, the largest domain first, each with rows, share,
        rounds (mean), and characters and tokens with their mean, percentiles and maximum.
    """
    import numpy as np

    domains, codes_R = np.unique(np.asarray(domain, dtype=np.str_), return_inverse=True)
    rounds_R = np.asarray(rounds)
    lengths = {"characters": np.asarray(characters)}
    if tokens is not None:
        lengths["tokens"] = np.asarray(tokens)

    def of(members_R: Any) -> dict[str, Any]:
        rows = int(np.count_nonzero(members_R))
        numbers: dict[str, Any] = {
            "rows": rows,
            # An empty dataset has a card too.
            "share": round(rows / max(len(codes_R), 1), 4),
            "rounds": 0.0,
        }
        if rows:
            numbers["rounds"] = round(float(rounds_R[members_R].mean()), 2)
            for name, lengths_R in lengths.items():
                numbers[name] = _spread(lengths_R[members_R])
        return numbers

    by_domain = {str(name): of(codes_R == code) for code, name in enumerate(domains)}
    largest_first = sorted(by_domain.items(), key=lambda item: -item[1]["rows"])
    return {"total": of(np.ones(len(codes_R), bool)), "domains": dict(largest_first)}


def _spread(lengths: Any) -> dict[str, float]:
    import numpy as np

    percentiles = np.percentile(lengths, PERCENTILES).round(1).tolist()
    spread = {"mean": round(float(lengths.mean()), 1)}
    for percentile, value in zip(PERCENTILES, percentiles, strict=True):
        spread[f"p{percentile}"] = value
    spread["max"] = int(lengths.max())
    return spread


def write_card(folder: Path, card: Mapping[str, Any], stats: Mapping[str, Any]) -> None:
    """Write both cards into a dataset's folder."""
    card = {"reviews": NOBODY, **card, "statistics": stats}
    (folder / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    (folder / TABLE).write_text(table(card), encoding="utf8")


def table(card: Mapping[str, Any]) -> str:
    """The card as Markdown: a line a domain, the dropped rows by reason, and whether people have reviewed the rows."""
    stats = card["statistics"]
    unit = "tokens" if "tokens" in stats["total"] else "characters"
    heads = ["Domain", "Samples", "Share", "Avg rounds", f"Avg {unit}"]
    heads += [f"p{percentile}" for percentile in PERCENTILES]
    heads.append("max")

    # Numbers are aligned to the right.
    lines = [_table_line(heads), "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, numbers in [*stats["domains"].items(), ("**Total**", stats["total"])]:
        cells = [name, f"{numbers['rows']:,}", f"{numbers['share']:.1%}", str(numbers["rounds"])]
        # A dataset without rows has no lengths.
        spread = numbers.get(unit, {})
        cells.append(" | ".join(f"{value:,}" for value in spread.values()))
        lines.append(_table_line(cells))

    dropped = card.get("dropped")
    if dropped:
        lines += ["", "| Dropped | Rows |", "| --- | ---: |"]
        lines += [f"| {reason} | {rows:,} |" for reason, rows in dropped.items()]
    if "rounds" in card:
        lines += ["", _compared(card["rounds"])]
    return "\n".join([*lines, "", *_reviewed(card["reviews"])]) + "\n"


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _compared(rounds: Mapping[str, float]) -> str:
    """How the mix differs from the one of the round before (r1pipe/data/mix_comparison.py), as a sentence or two."""
    text = (
        f"Of its rows {rounds['known_rows']:.1%} stand in the mix before, of its problems "
        f"{rounds['known_problems']:.1%}; a problem has {rounds['responses_a_problem']:.2f} different responses, "
        f"and had {rounds['responses_a_problem_before']:.2f}."
    )
    if "distinct_4_grams" in rounds:
        now, then = rounds["distinct_4_grams"], rounds["distinct_4_grams_before"]
        text += f" Of the word 4-grams of the same problems {now:.1%} are different, and were {then:.1%}."
    return text


def _reviewed(reviews: Any) -> list[str]:
    if not isinstance(reviews, Mapping) or all(counts == NOBODY for counts in reviews.values()):
        return [f"This dataset is {NOBODY}."]

    lines = ["Reviewed by people:", ""]
    for name, counts in reviews.items():
        shown = counts
        if counts != NOBODY:
            shown = ", ".join(f"{decision} {number:,}" for decision, number in counts.items())
        lines.append(f"- {name}: {shown}")
    return lines
