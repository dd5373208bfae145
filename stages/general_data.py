"""general-data: the rows of the second SFT that are not reasoning (v2 B.3.3, v1 2.3.3): about 200k in the paper, written by DeepSeek-V3.

Reads prompts (general, harmful, look-alike), to be answered by a writer, and `reuse` sources with replies of their own. Writes chats,
card.json and dropped.jsonl. The writer is the embedded world's oracle, or a model: `inputs.model`, or one behind `writer.sampling.endpoint`. It is
asked to think first where that helps, and for a reply alone to a greeting (`writer.thinking`, r1pipe/generation/teachers.py); what people wrote for other
purposes has empty thinking. What a model writes is screened by `filters` and then shown to the judge; without one nobody says whether it is right.
Refusals are few (`refusal_share`), so that the preference stage has work: our choice, the paper does not say. To a harmful request only a reply that
the judge calls safe is kept, so without a judge a model is not asked one.
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

      # or, a model as the writer and another as the judge:
      writer:
        sampling: {n: 2, max_tokens: 4096, backend: openai, endpoint: {base_url: http://127.0.0.1:8000/v1, model: v3, budget_tokens: 50000000}}
        thinking: {simple_words: 3, without: {kind: [greeting]}}
        guidelines: {file: style.txt}
      judge: {base_url: http://127.0.0.1:8001/v1, model: judge}

Alone: `r1pipe run-stage general-data -c my.yaml`.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from r1pipe.artifacts import Chats, Checkpoint, Prompts
from r1pipe.data.filters import Filters
from r1pipe.data.sources import Sources
from r1pipe.data.writers import WriterName
from r1pipe.generation.teachers import Writer
from r1pipe.here import Here
from r1pipe.judges.judge import JudgeName
from r1pipe.schema import EngineConfig, JudgeEndpoint, Ports

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate
    from r1pipe.data.writers import ProgramWriter


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: Prompts | None = None


class Outputs(Ports):
    chats: Chats


class Config(EngineConfig):
    writer: WriterName | Writer = Field(
        default="none",
        description="who answers the prompts (v2 B.3.3: V3): a named writer, a model ({sampling: ...}), or nobody",
    )
    careful: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="of a named writer: share of replies written with care, the others are sloppy (our choice)",
    )
    refusal_share: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="at most this share of the written rows refuses a harmful request (our choice)",
    )
    judge: JudgeName | JudgeEndpoint = Field(
        default="none", description="who drops written replies that are not right (v2 B.3.3: people)"
    )
    reuse: Sources | None = Field(default=None, description="chats or instructions with replies of their own")
    identity: dict[str, str] = Field(default_factory=dict, description="fills {{name}} and {{author}} in reused rows")
    filters: Filters = Field(
        default=Filters(min_language=None),
        description="what a reused reply, or one that a model wrote, must look like (our choice)",
    )
    max_rows: int | None = Field(default=None, ge=1, description="rows in all (about 200k, v1 2.3.3); none = all")

    def mismatch(self, given: set[str]) -> str:
        if isinstance(self.writer, Writer):
            return self.writer.sampling.mismatch("model" in given) or (
                "" if "prompts" in given else "the writer has nothing to answer: give inputs.prompts"
            )
        return f"inputs.model would not be asked: the writer is {self.writer}" if "model" in given else ""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Write, judge, add what is reused and readable."""
    from r1pipe.data.candidates import Candidate, choose, screen, write_chats
    from r1pipe.data.card import token_counter
    from r1pipe.data.io import read_rows
    from r1pipe.data.sources import Loaded, load
    from r1pipe.data.writers import load_writer
    from r1pipe.errors import ConfigError
    from r1pipe.text.response import split_response

    if (inputs.prompts is None) != (config.writer == "none"):
        raise ConfigError(
            "a writer and prompts go together, and one of them is missing",
            here.stage,
            "give both `writer` and `inputs.prompts`, or neither",
        )
    if inputs.prompts is None and config.reuse is None:
        raise ConfigError(
            "there is nothing to write and nothing to reuse",
            here.stage,
            "give `writer` and `inputs.prompts`, or `reuse`",
        )
    rows, model = (
        read_rows(inputs.prompts.path, Prompts) if inputs.prompts else [],
        inputs.model.path if inputs.model else None,
    )
    if isinstance(config.writer, Writer):
        candidates = _asked(rows, model, config, config.writer, here)
        writer = None
    else:
        candidates = []
        writer = load_writer(config.writer)
    if not here.main:
        return {}
    if writer is not None:
        candidates = _written(rows, writer, config, here)
    reused = load(config.reuse, Chats, config.seed, fill=config.identity) if config.reuse else Loaded()
    from_files = [
        Candidate({**row, "prompt": row["messages"][0]["content"]}, row["messages"][-1]["content"], "reuse")
        for row in reused.rows
    ]
    candidates += screen(from_files, config.filters)  # a named writer's habits are what `careful` says, and stay
    candidates = choose(candidates, 1, "first", random.Random(config.seed), config.max_rows)
    card = {
        "with thinking": sum(
            bool(split_response(candidate.response).thinking) for candidate in candidates if not candidate.reason
        )
    }
    return write_chats(
        outputs.chats.path, candidates, here.stage, card, token_counter(model) if model else None, reused.dropped
    )


def _refusals(rows: list[dict[str, Any]], config: Config) -> int:
    """How many harmful requests may be declined in the written rows."""
    from r1pipe.text.rows import HARMFUL_DOMAIN

    benign = sum(row["domain"] != HARMFUL_DOMAIN for row in rows)
    return round(benign * config.refusal_share / (1 - config.refusal_share))


def _asked(
    rows: list[dict[str, Any]], model: Path | None, config: Config, writer: Writer, here: Here
) -> list[Candidate]:
    """A model's replies, on rank 0; harmful requests are asked only as often as there may be refusals."""
    from functools import partial

    from r1pipe.data.candidates import Candidate
    from r1pipe.generation import sample_and_settle
    from r1pipe.judges.judge import load_judge
    from r1pipe.text.rows import HARMFUL_DOMAIN

    judge = load_judge(config.judge)
    harmful = [row for row in rows if row["domain"] == HARMFUL_DOMAIN]
    allowed = {row["id"] for row in harmful[: _refusals(rows, config)]} if judge else set()
    asked = [row for row in rows if row["domain"] != HARMFUL_DOMAIN or row["id"] in allowed]
    settle = partial(_settle, config, writer)
    drawn = sample_and_settle(
        model,
        asked,
        writer.sampling,
        writer.template,
        here,
        config.seed,
        "written",
        settle,
        1,
        writer.asked(asked),
        engine=config.engine,
    )
    why = "enough refusals" if judge else "no judge for a harmful request"
    left = [Candidate(row, "", "written", reason=why) for row in harmful if row["id"] not in allowed]
    return [candidate for of_row in drawn for candidate in of_row] + left


def _settle(config: Config, writer: Writer, candidates: list[Candidate]) -> list[Candidate]:
    """Screened, then judged: whether they are right, and of harmful requests whether they are safe."""
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace

    from r1pipe.data.candidates import screen
    from r1pipe.judges.judge import load_judge
    from r1pipe.text.rows import HARMFUL_DOMAIN

    found = screen(
        [replace(candidate, response=writer.response(candidate.row, candidate.response)) for candidate in candidates],
        config.filters,
    )
    if (judge := load_judge(config.judge)) is None:
        return found

    def judged(candidate: Candidate) -> Candidate:
        if candidate.reason:
            return candidate
        harmful = candidate.row["domain"] == HARMFUL_DOMAIN
        verdict = (judge.safe if harmful else judge.right)(candidate.row, candidate.response)
        if verdict:
            return replace(candidate, right=True)
        return candidate.drop(
            "not judged" if verdict is None else "unsafe by the judge" if harmful else "wrong by the judge"
        )

    with ThreadPoolExecutor(judge.max_in_flight) as threads:
        return list(threads.map(judged, found))


def _written(rows: list[dict[str, Any]], writer: ProgramWriter, config: Config, here: Here) -> list[Candidate]:
    """A reply to every prompt; of the refusals only as many as the config wants."""
    from functools import partial

    from r1pipe.data.candidates import Candidate
    from r1pipe.generation.journal import Job, digest_of, do_once
    from r1pipe.judges.judge import load_judge
    from r1pipe.text.rows import HARMFUL_DOMAIN

    judge = load_judge(config.judge)
    refusals = _refusals(rows, config)
    candidates: list[Candidate] = []
    for row in rows:
        rng = random.Random(f"{config.seed}:{row['id']}")
        refuse = (
            True if row["domain"] == HARMFUL_DOMAIN else None
        )  # what harms is declined by a sloppy writer too, or not answered here
        candidate = Candidate(
            row, writer.write(row, rng, "careful" if rng.random() < config.careful else "sloppy", refuse), "written"
        )
        if row["domain"] == HARMFUL_DOMAIN:
            refusals -= 1
            candidate = candidate if refusals >= 0 else candidate.drop("enough refusals")
        candidates.append(candidate)
    if judge is None:
        return candidates

    def judged(candidate: Candidate) -> tuple[dict[str, Any], bool]:
        verdict = judge.right(candidate.row, candidate.response)
        return {"right": verdict}, verdict is not None

    asked = [number for number, candidate in enumerate(candidates) if candidate.row["domain"] != HARMFUL_DOMAIN]
    jobs = [
        Job((one.row["id"],), digest_of(one.row["prompt"], one.response), partial(judged, one))
        for one in map(candidates.__getitem__, asked)
    ]
    for number, record in zip(asked, do_once(here, "judged", jobs, judge.max_in_flight), strict=True):
        if record["right"] is False:
            candidates[number] = candidates[number].drop("wrong by the judge")
    return candidates
