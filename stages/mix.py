"""mix: the reasoning and the general chats as the one dataset that the second SFT and the students learn from.

Reads     chats, several datasets of any size (rows stay on disk); tokenizer (optional, counts tokens for the card);
          before (optional): the mix of the round before, with which the card compares this one
          (r1pipe/data/mix_comparison.py)
Writes    chats; card.json and card.md with the table of its domains; dropped.jsonl with what was left out and why
Paper     v2 B.3.3, Table 5: 804,745 rows, 78 % reasoning and 22 % general; v2 D.1: decontamination by 10-grams
Alone     r1pipe run-stage sft-mix -c my.yaml

Removed, where the config says so, are rows that share a 10-gram with a benchmark, and near-duplicates of rows before
them in the order of the inputs. The others are drawn by input or by domain, and shuffled. With one input, a mix is
where people's decisions on that input take effect (stages/cold_start_data.py), and nothing else.

    sft-mix:
      kind: mix
      inputs: {chats: {reasoning: reasoning-chats, general: general-chats}, tokenizer: embedded:base}
      outputs: {chats: sft-chats}
      shares: {reasoning: 0.78, general: 0.22}
      # people's decisions, from `r1pipe data review r1/general-data --decisions general-reviews.jsonl`
      reviews: {general: general-reviews.jsonl}
      dedup: {threshold: 0.75}
      decontaminate: {against: [{path: data/gsm8k_test.jsonl.gz, columns: {prompt: problem}}]}
      format: parquet

      # or, in the place of `shares`:
      by: domain
      counts: {math: 395285, code: 211129, stem: 10124, logic: 10395, general: 177812}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from r1pipe.artifacts import Chats, Checkpoint
from r1pipe.data.mixture import Decontaminate, Dedup
from r1pipe.here import Here
from r1pipe.schema import Ordered, Ports, StageConfig

if TYPE_CHECKING:
    from r1pipe.data.scanning import Scan


class Inputs(Ports):
    chats: Annotated[dict[str, Chats], Ordered()]
    tokenizer: Checkpoint | None = None
    before: Chats | None = None


class Outputs(Ports):
    chats: Chats


class Config(StageConfig):
    shares: dict[str, float] | None = None
    """Input or domain -> share of the rows; none = all rows (v2 Table 5: 0.78 reasoning)."""

    max_rows: int | None = Field(default=None, ge=1)
    """Rows in all (804,745 in v2 Table 5); none = as many as there are."""

    reviews: dict[str, Path] = Field(default_factory=dict)
    """Input -> the decisions of `r1pipe data review`: rejected rows are left out, edited ones go in as edited."""

    by: Literal["input", "domain"] = "input"
    """What `shares` and `counts` name (v2 Table 5: domains)."""

    counts: dict[str, int] | None = None
    """Input or domain -> rows, in the place of `shares` (v2 Table 5)."""

    dedup: Dedup | None = None
    """Removes near-duplicates; none = keeps them (our choice)."""

    decontaminate: Decontaminate | None = None
    """Removes rows that share an n-gram with these benchmarks (v2 D.1); none = compares with none."""

    format: Literal["jsonl", "parquet"] = "jsonl"
    """One file to read by eye, or shards for large sets (our choice)."""

    shard_rows: int = Field(default=100_000, ge=1)
    """Rows of a Parquet shard (our choice)."""

    @model_validator(mode="after")
    def _check_amounts(self) -> Config:
        if self.counts is not None and (self.shares is not None or self.max_rows is not None):
            raise ValueError("`counts` says how many rows; leave out `shares` and `max_rows`")
        for amounts in (self.shares, self.counts):
            if amounts is not None and (min(amounts.values(), default=0) < 0 or not sum(amounts.values())):
                raise ValueError("shares and counts are at least 0, and one of them above")
        return self


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Read and measure, remove, draw, write."""
    import random

    import numpy as np

    from r1pipe.data.decontamination import Benchmarks
    from r1pipe.data.mixture import draw, quotas, write_dropped, write_mix
    from r1pipe.data.near_duplicates import near_duplicates
    from r1pipe.data.review import Reviews
    from r1pipe.data.scanning import Measure, scan

    if not here.main:
        return {}

    # Reading is the first half of the progress, writing the second.
    def show_read(done: int, total: int) -> None:
        here.progress(done, 2 * total, what="read")

    def show_compared(done: int, total: int) -> None:
        here.progress(len(left), 2 * len(left), what=f"near-duplicates {done}/{total}")

    def show_written(done: int, total: int) -> None:
        here.progress(total + done, 2 * total, what="written")

    # Read every row once; keep of each only the numbers that decide about it.
    reviews = Reviews(inputs.chats, config.reviews)
    benchmarks = Benchmarks.load(config.decontaminate, config.seed) if config.decontaminate else None
    measure = Measure(
        config.dedup.threshold if config.dedup else None,
        benchmarks,
        inputs.tokenizer.path if inputs.tokenizer else None,
    )
    paths = {name: chats.path for name, chats in inputs.chats.items()}
    rows = scan(paths, Chats, measure, here.workdir, progress=show_read, reviews=reviews)

    # Remove what overlaps a benchmark's row (its `owner`), then near-duplicates of what is left. What people rejected
    # was not even numbered by scan().
    left = rows.entries["owner"] < 0
    copies: dict[int, tuple[int, float]] = {}
    if config.dedup:
        copies = near_duplicates(
            rows.entries["bands"], left, rows.text, threshold=config.dedup.threshold, progress=show_compared
        )
        left[list(copies)] = False

    _check_left(left, copies, rows.entries["owner"] >= 0, len(reviews.rejected), here)

    # Draw.
    group_names = rows.inputs if config.by == "input" else rows.domains
    group_of_row = rows.entries[config.by]
    groups = {
        name: np.flatnonzero(left & (group_of_row == number)).tolist()
        for number, name in enumerate(group_names)
    }
    sizes = {name: len(members) for name, members in groups.items()}
    taken = quotas(sizes, shares=config.shares, counts=config.counts, max_rows=config.max_rows)
    order = draw(groups, taken, random.Random(config.seed))

    # Write.
    dropped = write_dropped(
        outputs.chats.path, rows, order, copies=copies, benchmarks=benchmarks, reviews=reviews
    )
    sources = {
        name: int((rows.entries["input"][order] == number).sum()) for number, name in enumerate(rows.inputs)
    }
    card: dict[str, Any] = {
        "rows": len(order),
        "sources": sources,
        "dropped": dropped,
        "reviews": reviews.summary(),
    }
    if benchmarks:
        card["benchmarks"] = {"rows": len(benchmarks.rows), "too short to match": benchmarks.too_short}
    rounds = _rounds(rows, order, inputs.before)
    if rounds:
        card["rounds"] = rounds
    shard_rows = config.shard_rows if config.format == "parquet" else None
    write_mix(outputs.chats.path, rows, order, card=card, shard_rows=shard_rows, progress=show_written)
    return {
        "rows": len(order),
        **{f"rows/{name}": n for name, n in sources.items()},
        **{f"dropped/{reason}": n for reason, n in dropped.items()},
        **{f"rounds/{name}": number for name, number in rounds.items()},
    }


def _rounds(rows: Scan, order: Sequence[int], before: Chats | None) -> dict[str, float]:
    """What this mix has in common with the one before."""
    from functools import partial

    from r1pipe.data.mix_comparison import chats_of, compare_rounds

    if before is None:
        return {}

    def mixed() -> Iterator[dict[str, Any]]:
        return (rows.row(number) for number in order)

    return compare_rounds(mixed, partial(chats_of, before.path))


def _check_left(
    left: Any, copies: dict[int, tuple[int, float]], contaminated: Any, rejected: int, here: Here
) -> None:
    """Raise if no row is left, with the reason that led."""
    from r1pipe.errors import InputError

    if left.any():
        return
    counts = {
        "share words with a benchmark": (
            int(contaminated.sum()),
            "see `decontaminate.against`, or raise its `ngram`",
        ),
        "are near-duplicates": (len(copies), "raise `dedup.threshold`"),
        "were rejected in review": (rejected, "review other rows, or leave `reviews` out"),
    }
    reason = max(counts, key=lambda name: counts[name][0])
    total = len(left) + rejected
    raise InputError(
        f"0 of {total} rows are left: {counts[reason][0]} of {total} {reason}",
        f"{here.stage}: " + ", ".join(f"{number} {name}" for name, (number, _) in counts.items()),
        counts[reason][1],
    )
