"""general-data: the rows of the second SFT that are not reasoning (v2 B.3.3, v1 2.3.3): about 200k in the paper, written by DeepSeek-V3.

Reads prompts (general, harmful, look-alike), to be answered by a writer, and `reuse` sources with replies of their own. Writes chats,
card.json and dropped.jsonl. Prompts that need it get a chain of thought before the reply, a greeting gets none; what people wrote for other
purposes has empty thinking. Refusals are few (`refusal_share`), so that the preference stage has work: our choice, the paper does not say.
Not done here: people, who check the accuracy of all rows in the paper; a judge takes that place where the config names one.

    general-data:
      kind: general-data
      inputs: {prompts: general-train}
      outputs: {chats: general-chats}
      writer: world
      judge: world
      careful: 0.5
      reuse: [{path: data/seed_tasks.jsonl.gz, shape: instruction}, {path: data/identity.jsonl.gz, shape: instruction}]
      identity: {name: R1-tiny, author: us}

Alone: `r1pipe run-stage general-data -c my.yaml`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from r1pipe.artifacts import Chats, Prompts
from r1pipe.data.filters import Filters
from r1pipe.data.judges import JudgeName
from r1pipe.data.sources import Sources
from r1pipe.here import Here
from r1pipe.schema import Ports, StageConfig

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate


class Inputs(Ports):
    prompts: Prompts | None = None


class Outputs(Ports):
    chats: Chats


class Config(StageConfig):
    writer: Literal["world", "none"] = Field(default="none", description="who answers the prompts: the embedded world's oracle, or nobody")
    careful: float = Field(default=1.0, ge=0, le=1, description="of the world's writer: share of replies written with care, the others are sloppy (our choice)")
    refusal_share: float = Field(default=0.02, ge=0, lt=1, description="at most this share of the written rows refuses a harmful request (our choice)")
    judge: JudgeName = Field(default="none", description="who drops written replies that are not right (v2 B.3.3: people)")
    reuse: Sources | None = Field(default=None, description="chats or instructions with replies of their own")
    identity: dict[str, str] = Field(default_factory=dict, description="fills {{name}} and {{author}} in reused rows")
    filters: Filters = Field(default=Filters(min_language=None), description="what a reused reply must look like (our choice)")
    max_rows: int | None = Field(default=None, ge=1, description="rows in all (about 200k, v1 2.3.3); none = all")


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Write, judge, add what is reused and readable."""
    from r1pipe.data.candidates import Candidate, choose, screen, write_chats
    from r1pipe.data.io import read_rows
    from r1pipe.data.sources import Loaded, load
    from r1pipe.errors import ConfigError

    if (inputs.prompts is None) != (config.writer == "none"):
        raise ConfigError(
            "a writer and prompts go together, and one of them is missing", here.stage, "give both `writer: world` and `inputs.prompts`, or neither"
        )
    if inputs.prompts is None and config.reuse is None:
        raise ConfigError("there is nothing to write and nothing to reuse", here.stage, "give `writer` and `inputs.prompts`, or `reuse`")
    if not here.main:
        return {}
    candidates = _written(read_rows(inputs.prompts.path, Prompts), config) if inputs.prompts else []
    reused = load(config.reuse, Chats, config.seed, fill=config.identity) if config.reuse else Loaded()
    from_files = [Candidate({**row, "prompt": row["messages"][0]["content"]}, row["messages"][-1]["content"], "reuse") for row in reused.rows]
    candidates += screen(from_files, config.filters)  # the writer's habits are what `careful` says, and stay
    candidates = choose(candidates, 1, "first", random.Random(config.seed), config.max_rows)
    return write_chats(outputs.chats.path, candidates, here.stage, unread=reused.dropped)


def _written(rows: list[dict[str, Any]], config: Config) -> list[Candidate]:
    """A reply to every prompt; of the refusals only as many as the config wants."""
    from r1pipe.data.candidates import Candidate
    from r1pipe.data.judges import load_judge
    from r1pipe.data.rows import HARMFUL_DOMAIN
    from r1pipe.embedded.oracle import write

    judge = load_judge(config.judge)
    benign = sum(row["domain"] != HARMFUL_DOMAIN for row in rows)
    refusals = round(benign * config.refusal_share / (1 - config.refusal_share))
    candidates: list[Candidate] = []
    for row in rows:
        rng = random.Random(f"{config.seed}:{row['id']}")
        refuse = True if row["domain"] == HARMFUL_DOMAIN else None  # what harms is declined by a sloppy writer too, or not answered here
        candidate = Candidate(row, write(row, rng, "careful" if rng.random() < config.careful else "sloppy", refuse), "written")
        if row["domain"] == HARMFUL_DOMAIN:
            refusals -= 1
            candidate = candidate if refusals >= 0 else candidate.drop("enough refusals")
        elif judge is not None and judge.right(row, candidate.response) is False:
            candidate = candidate.drop("wrong by the judge")
        candidates.append(candidate)
    return candidates
