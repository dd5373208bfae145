"""mix: the reasoning and the general chats as the one dataset that the second SFT and the students learn from (v2 B.3.3, Table 5).

Reads several datasets of chats. Writes one, shuffled, and card.json with the table of its domains. The paper's 804,745 rows are 78 %
reasoning and 22 % general.

    sft-mix:
      kind: mix
      inputs: {chats: {reasoning: reasoning-chats, general: general-chats}}
      outputs: {chats: sft-chats}
      shares: {reasoning: 0.78, general: 0.22}
      reviews: {general: general-reviews.jsonl}   # what people decided: `r1pipe data review r1/general-data --decisions general-reviews.jsonl`

Alone: `r1pipe run-stage sft-mix -c my.yaml`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from r1pipe.artifacts import Chats
from r1pipe.here import Here
from r1pipe.schema import Ports, StageConfig


class Inputs(Ports):
    chats: dict[str, Chats]


class Outputs(Ports):
    chats: Chats


class Config(StageConfig):
    shares: dict[str, float] | None = Field(default=None, description="input -> share of the rows; none = all rows of all (v2 Table 5: 0.78 reasoning)")
    max_rows: int | None = Field(default=None, ge=1, description="rows in all (804,745 in v2 Table 5); none = as many as there are")
    reviews: dict[str, Path] = Field(
        default_factory=dict, exclude_if=lambda value: not value, description="input -> the decisions of `r1pipe data review`: rejected rows out, edits in"
    )


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Read, draw, write."""
    import random

    from r1pipe.data.io import read_rows, write_rows
    from r1pipe.data.mix import composition, mix
    from r1pipe.data.review import apply_reviews

    if not here.main:
        return {}
    datasets = {name: read_rows(chats.path, Chats) for name, chats in inputs.chats.items()}
    datasets, rejected, reviews = apply_reviews(datasets, config.reviews)
    rows, counts = mix(datasets, config.shares, config.max_rows, random.Random(config.seed))
    write_rows(outputs.chats.path, rows, rejected, {"rows": len(rows), "sources": counts, "reviews": reviews, "domains": composition(rows)})
    return {"rows": len(rows), **{f"rows/{name}": count for name, count in counts.items()}}
