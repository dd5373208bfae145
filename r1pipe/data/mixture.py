"""The content of a mix and how it is written: declared shares, dropped rows with their reasons, rows in a new order."""

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

    threshold: float = Field(default=0.75, gt=0, le=1)
    """Jaccard index of the word 5-grams (Chinese: characters) of whole chats, from which the later chat is removed (our
    choice)"""


class Decontaminate(Model):
    """Removal of rows that share an n-gram with a benchmark (r1pipe/data/decontamination.py; v2 D.1)."""

    against: Sources
    """the benchmarks; `columns` says which columns hold the question (prompt) and the reference solution (solution or
    answer)"""

    ngram: int = Field(default=10, ge=2)
    """words in a row that two texts may not share (v2 D.1: 10; that it means words is our choice)"""

    ngram_characters: int = Field(default=16, ge=2)
    """the same for benchmarks in Chinese or Japanese; about 10 words (our choice)"""

    @model_validator(mode="after")
    def _compare_whole_benchmarks(self) -> Decontaminate:
        for source in self.sources:
            if source.generated:
                continue
            partial = source.count or source.shares or source.split not in ("train", "all")
            if partial or source.shape not in ("rows", "instruction"):
                raise ValueError(
                    f"{source.name}: a benchmark is compared whole, as rows or instructions; "
                    "leave out count, shares, split and other shapes"
                )
        return self

    @property
    def sources(self) -> list[Source]:
        return self.against if isinstance(self.against, list) else [self.against]


# --- how many rows, and which -----------------------------------------------------------------------------------------


def quotas(
    sizes: Mapping[str, int],
    *,
    shares: Mapping[str, float] | None,
    counts: Mapping[str, int] | None,
    max_rows: int | None,
) -> dict[str, int]:
    """The number of rows that each group gives.

    Args:
        sizes: group (an input, or a domain) -> its rows.
        shares: group -> share of the mix, which is as large as the groups allow; None takes all rows of all groups.
        counts: group -> rows, in the place of shares; a group that has fewer gives all, with a warning.
        max_rows: rows of the mix; None = as many as there are.

    Raises:
        InputError: shares or counts name other groups, or nothing would be left.
    """
    if shares is not None:
        _check_groups("shares", shares, sizes)
    if counts is not None:
        _check_groups("counts", counts, sizes)

    if counts is not None:
        taken = _by_counts(sizes, counts)
    elif shares:
        taken = _by_shares(sizes, shares, max_rows)
    else:
        taken = _by_sizes(sizes, max_rows)
    if not any(taken.values()):
        raise InputError("the mix is empty", str(dict(sizes)), "give rows, or other shares")
    return taken


def _check_groups(option: str, stated: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    if set(stated) != set(sizes):
        raise InputError(
            f"{option} are stated for {', '.join(sorted(stated))}",
            f"the rows are of {', '.join(sorted(sizes))}",
            f"state one of the {option} for each",
        )


def _by_counts(sizes: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, int]:
    taken = {name: min(size, counts[name]) for name, size in sizes.items()}
    for name, rows in taken.items():
        if rows < counts[name]:
            warnings.warn(f"{name} has {rows} rows, fewer than its count of {counts[name]}", stacklevel=3)
    return taken


def _by_shares(sizes: Mapping[str, int], shares: Mapping[str, float], max_rows: int | None) -> dict[str, int]:
    # The group that has the fewest rows for its share limits the mix.
    total_share = sum(shares.values())
    limits = [sizes[name] * total_share / share for name, share in shares.items() if share]
    mix_rows = min(limits, default=0)
    # Each group is rounded by itself, so the mix may have a few rows more or less than max_rows.
    if max_rows:
        mix_rows = min(mix_rows, max_rows)

    taken = {}
    for name, size in sizes.items():
        rows = round(mix_rows * (shares[name] / total_share))
        taken[name] = min(size, rows)
    return taken


def _by_sizes(sizes: Mapping[str, int], max_rows: int | None) -> dict[str, int]:
    total_rows = sum(sizes.values())
    mix_rows = min(total_rows, max_rows) if max_rows else total_rows
    if not total_rows:
        return {}

    taken = {}
    for name, size in sizes.items():
        rows = round(mix_rows * (size / total_rows))
        taken[name] = min(size, rows)
    return taken


def draw(groups: Mapping[str, Sequence[int]], taken: Mapping[str, int], rng: random.Random) -> list[int]:
    """Row numbers drawn from each group without replacement, shuffled."""
    mixed: list[int] = []
    for name, rows in groups.items():
        places = rng.sample(range(len(rows)), taken[name])
        mixed += [rows[place] for place in places]
    # Otherwise the groups would follow one after the other.
    rng.shuffle(mixed)
    return mixed


# --- writing ----------------------------------------------------------------------------------------------------------


def write_dropped(
    folder: Path,
    rows: Scan,
    order: Sequence[int],
    *,
    copies: Mapping[int, tuple[int, float]],
    benchmarks: Benchmarks | None,
    reviews: Reviews,
) -> dict[str, int]:
    """Write dropped.jsonl: a line for every row that is not in the mix, without its text, which is in its input.

    Args:
        order: the rows in the mix.
        copies: removed row -> the row that it duplicates, and their Jaccard index.

    Returns:
        reason -> rows
    """
    import numpy as np

    from r1pipe.data.io import DROPPED, atomic_file, json_line
    from r1pipe.data.review import REJECTED

    # A rejected row has no number in the scan, so it is reported by itself.
    left_out_R = np.ones(len(rows.entries), bool)
    left_out_R[order] = False
    if not left_out_R.any() and not reviews.rejected:
        return {}

    counts: Counter[str] = Counter()
    with atomic_file(folder / DROPPED) as stream:
        for name, row in reviews.rejected:
            counts[REJECTED] += 1
            line = {
                "id": row["id"],
                "input": name,
                "domain": row["domain"],
                "reason": REJECTED,
            }
            stream.write(json_line(line))
        for number in np.flatnonzero(left_out_R).tolist():
            row = rows.row(number)
            why = _why_dropped(rows, number, copies, benchmarks)
            counts[why["reason"]] += 1
            line = {
                "id": row["id"],
                "input": rows.input(number),
                "domain": row["domain"],
                **why,
            }
            stream.write(json_line(line))
    return dict(counts.most_common())


def _why_dropped(
    rows: Scan,
    number: int,
    copies: Mapping[int, tuple[int, float]],
    benchmarks: Benchmarks | None,
) -> dict[str, Any]:
    """The reason, and what shows that it is right."""
    from r1pipe.data.near_duplicates import shingle_words

    entry = rows.entries[number]
    if benchmarks and entry["owner"] >= 0:
        start = entry["at"]
        # The words are shown so that a person can judge the match.
        shared = shingle_words(rows.text(number))[start : start + entry["shared"]]
        return {
            "reason": "contaminated",
            "benchmark": benchmarks.rows[entry["owner"]],
            "shared": " ".join(shared),
        }
    if number in copies:
        original, overlap = copies[number]
        return {
            "reason": "near-duplicate",
            "of": rows.row(original)["id"],
            "jaccard": round(overlap, 4),
        }
    return {"reason": "enough rows"}


def write_mix(
    folder: Path,
    rows: Scan,
    order: Sequence[int],
    *,
    card: Mapping[str, Any],
    shard_rows: int | None,
    progress: Callable[[int, int], None],
) -> None:
    """Write the cards, then the rows in `order`.

    Args:
        shard_rows: rows of a Parquet shard; None writes one rows.jsonl.
        progress: called with (done, total), both in rows of the inputs.
    """
    import numpy as np

    from r1pipe.data.card import statistics, write_card
    from r1pipe.data.io import ROWS, atomic_file

    entries = rows.entries[order]
    measured = ["rounds", "characters"]
    if rows.counts_tokens:
        measured.append("tokens")
    domain = np.array(rows.domains)[entries["domain"]]
    write_card(folder, card, statistics(domain=domain, **{name: entries[name] for name in measured}))
    total = len(rows.entries)

    def lines() -> Iterator[bytes]:
        for done, number in enumerate(order):
            progress(done * total // len(order), total)
            yield rows.line(number)

    if shard_rows is None:
        with atomic_file(folder / ROWS) as stream:
            stream.writelines(lines())
    else:
        from r1pipe.data.shards import write_parquet

        write_parquet(folder, lines, len(order), shard_rows)
    progress(total, total)
