"""What goes into a mix and how it is written: declared shares, the rows left out with their reasons, the rows in their new order."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from r1pipe.data.sources import Source, Sources
from r1pipe.errors import InputError
from r1pipe.schema import Model

if TYPE_CHECKING:
    from r1pipe.data.decontamination import Benchmarks
    from r1pipe.data.review import Reviews
    from r1pipe.data.scanning import Scan


class Dedup(Model):
    """Removal of near-duplicates (r1pipe/data/near_duplicates.py)."""

    threshold: float = Field(
        default=0.75,
        gt=0,
        le=1,
        description="Jaccard index of the word 5-grams (Chinese: characters) of the whole chats, from which the later is removed (our choice)",
    )


class Decontaminate(Model):
    """Removal of rows that share an n-gram with a benchmark (r1pipe/data/decontamination.py; v2 D.1)."""

    against: Sources = Field(
        description="the benchmarks; `columns` says where question (prompt) and reference solution (solution or answer) stand"
    )
    ngram: int = Field(
        default=10,
        ge=2,
        description="words in a row that two texts may not share (v2 D.1: 10; that it means words is our choice)",
    )
    ngram_characters: int = Field(
        default=16, ge=2, description="the same for benchmarks in Chinese or Japanese; about 10 words (our choice)"
    )

    @model_validator(mode="after")
    def _whole(self) -> Decontaminate:
        for source in self.against if isinstance(self.against, list) else [self.against]:
            partial = source.count or source.shares or source.split not in ("train", "all")
            if (source.path or source.hub) and (partial or source.shape not in ("rows", "instruction")):
                raise ValueError(
                    f"{source.name}: a benchmark is compared whole, as rows or instructions; leave out count, shares, split and other shapes"
                )
        return self

    @property
    def sources(self) -> list[Source]:
        return self.against if isinstance(self.against, list) else [self.against]


def quotas(
    sizes: Mapping[str, int], shares: Mapping[str, float] | None, counts: Mapping[str, int] | None, max_rows: int | None
) -> dict[str, int]:
    """How many rows each group gives.

    Args:
        sizes: group (an input, or a domain) -> rows that there are.
        shares: group -> share of the mix, as many rows as allow it; None takes all rows of all.
        counts: group -> rows, in the place of shares; a group that has fewer gives all, with a warning.

    Raises:
        InputError: shares or counts name other groups, or nothing would be left.
    """
    stated = shares if shares is not None else counts
    if stated is not None and set(stated) != set(sizes):
        name = "shares" if shares is not None else "counts"
        raise InputError(
            f"{name} are stated for {', '.join(sorted(stated))}",
            f"the rows are of {', '.join(sorted(sizes))}",
            f"state one of the {name} for each",
        )
    if counts is not None:
        taken = {name: min(size, counts[name]) for name, size in sizes.items()}
        for name, rows in taken.items():
            if rows < counts[name]:
                warnings.warn(f"{counts[name]} rows of {name} were asked for and {rows} are there", stacklevel=2)
    else:
        every = sum(sizes.values())
        total = sum(shares.values()) if shares else 1.0
        whole = (
            min((sizes[name] * total / share for name, share in shares.items() if share), default=0)
            if shares
            else every
        )
        whole = min(whole, max_rows) if max_rows else whole
        taken = {
            name: min(size, round(whole * (shares[name] / total if shares else size / every)))
            for name, size in sizes.items()
            if every
        }
    if not any(taken.values()):
        raise InputError("the mix is empty", str(dict(sizes)), "give rows, or other shares")
    return taken


def draw(groups: Mapping[str, Sequence[int]], taken: Mapping[str, int], rng: random.Random) -> list[int]:
    """Row numbers drawn from each group without replacement, shuffled."""
    mixed = [rows[place] for name, rows in groups.items() for place in rng.sample(range(len(rows)), taken[name])]
    rng.shuffle(mixed)
    return mixed


def write_dropped(
    folder: Path,
    rows: Scan,
    order: Sequence[int],
    copies: Mapping[int, tuple[int, float]],
    benchmarks: Benchmarks | None,
    reviews: Reviews,
) -> dict[str, int]:
    """dropped.jsonl: a line for every row that is not in the mix, without its text, which stands in its input. Returns the counts by reason.

    Args:
        order: the rows in the mix.
        copies: removed row -> the row that it duplicates, and their Jaccard index.
    """
    import numpy as np

    from r1pipe.data.io import DROPPED, line, whole
    from r1pipe.data.near_duplicates import shingle_words
    from r1pipe.data.review import REJECTED

    out = np.ones(len(rows.entries), bool)
    out[order] = False
    if not out.any() and not reviews.rejected:
        return {}
    counts: Counter[str] = Counter()
    with whole(folder / DROPPED) as stream:
        for name, row in reviews.rejected:
            counts[REJECTED] += 1
            stream.write(line({"id": row["id"], "input": name, "domain": row["domain"], "reason": REJECTED}))
        for number in np.flatnonzero(out).tolist():
            row, entry = rows.row(number), rows.entries[number]
            why: dict[str, Any] = {"reason": "enough rows"}
            if benchmarks and entry["owner"] >= 0:
                shared = shingle_words(rows.text(number))[entry["at"] : entry["at"] + entry["shared"]]
                why = {
                    "reason": "contaminated",
                    "benchmark": benchmarks.rows[entry["owner"]],
                    "shared": " ".join(shared),
                }
            elif number in copies:
                why = {
                    "reason": "near-duplicate",
                    "of": rows.row(copies[number][0])["id"],
                    "jaccard": round(copies[number][1], 4),
                }
            counts[why["reason"]] += 1
            stream.write(line({"id": row["id"], "input": rows.input(number), "domain": row["domain"], **why}))
    return dict(counts.most_common())


def write_mix(
    folder: Path,
    rows: Scan,
    order: Sequence[int],
    card: Mapping[str, Any],
    shard_rows: int | None,
    tell: Callable[[int, int], None],
) -> None:
    """The cards, then the rows in `order`: as rows.jsonl, or as Parquet shards of `shard_rows`; tell(done, total) in rows of the inputs."""
    import numpy as np

    from r1pipe.data.card import statistics, write_card
    from r1pipe.data.io import ROWS, whole

    entries = rows.entries[order]
    lengths = {name: entries[name] for name in ("rounds", "characters", *(["tokens"] if rows.counts_tokens else []))}
    write_card(folder, card, statistics(domain=np.array(rows.domains)[entries["domain"]], **lengths))
    total = len(rows.entries)

    def lines() -> Iterator[bytes]:
        for done, number in enumerate(order):
            tell(done * total // len(order), total)
            yield rows.line(number)

    if shard_rows is None:
        with whole(folder / ROWS) as stream:
            stream.writelines(lines())
    else:
        from r1pipe.data.shards import write_parquet

        write_parquet(folder, lines, len(order), shard_rows)
    tell(total, total)
