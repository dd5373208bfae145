"""general-data: the rows of the second SFT that are not reasoning (v2 B.3.3, v1 2.3.3).

Reads     prompts (general, harmful, look-alike) for a writer to answer; `reuse` sources that have replies of their own
Writes    chats, with card.json and dropped.jsonl
Paper     about 200k rows, written by DeepSeek-V3; people check the accuracy of all of them. No people here: a judge
          takes their place where the config names one
Alone     r1pipe run-stage general-data -c my.yaml

The writer is a named one, which is a program (r1pipe/data/writers.py), or a model: `inputs.model`, or a model behind
`writer.sampling.endpoint`. A model is asked to think first where that helps, and for the reply alone to a greeting
(`writer.thinking`, r1pipe/generation/teachers.py). What people wrote for other purposes has empty thinking. A model's
replies are screened by `filters` and then shown to the judge; without a judge nobody says whether they are right.

Refusals are few (`refusal_share`), so that the preference stage has work; the paper gives no number. Of a harmful
request only a reply that the judge calls safe is kept, so without a judge a model gets no harmful request.

    general-data:
      kind: general-data
      inputs: {prompts: general-train}
      outputs: {chats: general-chats}
      writer: world
      judge: world
      careful: 0.5
      reuse:
        - {path: data/seed_tasks.jsonl.gz, shape: instruction}
        - {path: data/identity.jsonl.gz, shape: instruction}
      identity: {name: R1-tiny, author: us}

      # or, a model as the writer and another as the judge:
      writer:
        sampling:
          n: 2
          max_tokens: 4096
          backend: openai
          endpoint: {base_url: http://127.0.0.1:8000/v1, model: v3, budget_tokens: 50000000}
        thinking: {simple_words: 3, without: {kind: [greeting]}}
        guidelines: {file: style.txt}
      judge: {base_url: http://127.0.0.1:8001/v1, model: judge}
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
    from r1pipe.judges.judge import Judge

Row = dict[str, Any]


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: Prompts | None = None


class Outputs(Ports):
    chats: Chats


class Config(EngineConfig):
    writer: WriterName | Writer = "none"
    """Who answers the prompts (v2 B.3.3: V3): a named writer, a model ({sampling: ...}), or nobody."""

    careful: float = Field(default=1.0, ge=0, le=1)
    """Of a named writer: share of replies written with care, the others are sloppy (our choice)."""

    refusal_share: float = Field(default=0.02, ge=0, lt=1)
    """At most this share of the written rows refuses a harmful request (our choice)."""

    judge: JudgeName | JudgeEndpoint = "none"
    """Who drops written replies that are not right (v2 B.3.3: people)."""

    reuse: Sources | None = None
    """Chats or instructions with replies of their own."""

    identity: dict[str, str] = Field(default_factory=dict)
    """Fills {{name}} and {{author}} in reused rows."""

    filters: Filters = Filters(min_language=None)
    """What a reply must look like if it is reused or a model wrote it (our choice)."""

    max_rows: int | None = Field(default=None, ge=1)
    """Rows in all (about 200k, v1 2.3.3); none = all."""

    def mismatch(self, given: set[str]) -> str:
        if isinstance(self.writer, Writer):
            problem = self.writer.sampling.mismatch("model" in given)
            if not problem and "prompts" not in given:
                problem = "the writer has nothing to answer: give inputs.prompts"
            return problem
        if "model" in given:
            return f"inputs.model would not be asked: the writer is {self.writer}"
        return ""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Write, judge, add what is reused and readable."""
    from r1pipe.data.candidates import Candidate, choose, screen, write_chats
    from r1pipe.data.card import token_counter
    from r1pipe.data.io import read_rows
    from r1pipe.data.sources import Loaded, load
    from r1pipe.data.writers import load_writer
    from r1pipe.text.response import split_response

    _check_ports(config, inputs, here)
    rows = read_rows(inputs.prompts.path, Prompts) if inputs.prompts else []
    model = inputs.model.path if inputs.model else None

    # A model's replies are drawn by all ranks; everything else is the work of rank 0.
    candidates: list[Candidate] = []
    if isinstance(config.writer, Writer):
        candidates = _written_by_model(rows, model, config, config.writer, here)
    if not here.main:
        return {}
    if not isinstance(config.writer, Writer):
        program = load_writer(config.writer)
        if program is not None:
            candidates = _written_by_program(rows, program, config, here)

    # Only these are screened here: a model's replies were screened before they were judged, and how a named writer
    # words its replies is decided by `careful`.
    reused = load(config.reuse, Chats, config.seed, fill=config.identity) if config.reuse else Loaded()
    from_files = [
        Candidate({**row, "prompt": row["messages"][0]["content"]}, row["messages"][-1]["content"], "reuse")
        for row in reused.rows
    ]
    candidates += screen(from_files, config.filters)

    candidates = choose(
        candidates,
        per_prompt=1,
        prefer="first",
        rng=random.Random(config.seed),
        max_rows=config.max_rows,
    )
    kept = [candidate for candidate in candidates if not candidate.reason]
    with_thinking = sum(bool(split_response(candidate.response).thinking) for candidate in kept)
    return write_chats(
        outputs.chats.path,
        candidates,
        here.stage,
        card={"with thinking": with_thinking},
        tokens=token_counter(model) if model else None,
        unread=reused.dropped,
    )


def _check_ports(config: Config, inputs: Inputs, here: Here) -> None:
    from r1pipe.errors import ConfigError

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


def _allowed_refusals(rows: list[Row], config: Config) -> int:
    """How many harmful requests may be declined in the written rows."""
    from r1pipe.text.rows import HARMFUL_DOMAIN

    benign = sum(row["domain"] != HARMFUL_DOMAIN for row in rows)
    return round(benign * config.refusal_share / (1 - config.refusal_share))


# --- a model as the writer --------------------------------------------------------------------------------------------


def _written_by_model(
    rows: list[Row], model: Path | None, config: Config, writer: Writer, here: Here
) -> list[Candidate]:
    """A model's replies, on rank 0. It gets only as many harmful requests as there may be refusals."""
    from functools import partial

    from r1pipe.data.candidates import Candidate
    from r1pipe.generation.sampling import sample_and_verify
    from r1pipe.judges.judge import load_judge
    from r1pipe.text.rows import HARMFUL_DOMAIN

    judge = load_judge(config.judge)
    harmful = [row for row in rows if row["domain"] == HARMFUL_DOMAIN]
    allowed = {row["id"] for row in harmful[: _allowed_refusals(rows, config)]} if judge else set()
    prompts = [row for row in rows if row["domain"] != HARMFUL_DOMAIN or row["id"] in allowed]

    drawn = sample_and_verify(
        model,
        prompts,
        writer.sampling,
        writer.template,
        here=here,
        seed=config.seed,
        source="written",
        verify=partial(_verify_drawn, config, writer),
        stop_after=1,
        prompt_rows=writer.prompt_rows(prompts),
        engine=config.engine,
    )
    candidates = [candidate for of_row in drawn for candidate in of_row]

    reason = "enough refusals" if judge else "no judge for a harmful request"
    return candidates + [
        Candidate(row, "", "written", reason=reason) for row in harmful if row["id"] not in allowed
    ]


def _verify_drawn(config: Config, writer: Writer, candidates: list[Candidate]) -> list[Candidate]:
    """Screen a model's replies, then judge them. Runs in a thread or on another machine, while others are sampled."""
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace
    from functools import partial

    from r1pipe.data.candidates import screen
    from r1pipe.judges.judge import load_judge

    replies = [
        replace(candidate, response=writer.response(candidate.row, candidate.response))
        for candidate in candidates
    ]
    screened = screen(replies, config.filters)
    judge = load_judge(config.judge)
    if judge is None:
        return screened
    with ThreadPoolExecutor(judge.max_in_flight) as threads:
        return list(threads.map(partial(_judged, judge), screened))


def _judged(judge: Judge, candidate: Candidate) -> Candidate:
    """Drop a reply that is not right; of a harmful request, one that is not safe."""
    from dataclasses import replace

    from r1pipe.text.rows import HARMFUL_DOMAIN

    if candidate.reason:
        return candidate
    harmful = candidate.row["domain"] == HARMFUL_DOMAIN
    if harmful:
        verdict = judge.safe(candidate.row, candidate.response)
    else:
        verdict = judge.right(candidate.row, candidate.response)
    if verdict is None:
        return candidate.drop("not judged")
    if not verdict:
        return candidate.drop("unsafe by the judge" if harmful else "wrong by the judge")
    return replace(candidate, right=True)


# --- a program as the writer ------------------------------------------------------------------------------------------


def _written_by_program(
    rows: list[Row], writer: ProgramWriter, config: Config, here: Here
) -> list[Candidate]:
    """A reply to every prompt, judged where there is a judge; of the refusals only as many as the config allows."""
    from r1pipe.data.candidates import Candidate
    from r1pipe.judges.judge import load_judge
    from r1pipe.text.rows import HARMFUL_DOMAIN

    refusals_left = _allowed_refusals(rows, config)
    candidates: list[Candidate] = []
    for row in rows:
        harmful = row["domain"] == HARMFUL_DOMAIN
        rng = random.Random(f"{config.seed}:{row['id']}")
        quality = "careful" if rng.random() < config.careful else "sloppy"
        # By itself a sloppy writer would help with what is harmful; such replies are not for training.
        candidate = Candidate(row, writer.write(row, rng, quality, True if harmful else None), "written")
        if harmful and refusals_left == 0:
            candidate = candidate.drop("enough refusals")
        elif harmful:
            refusals_left -= 1
        candidates.append(candidate)

    judge = load_judge(config.judge)
    if judge is not None:
        _drop_wrong(candidates, judge, here)
    return candidates


def _drop_wrong(candidates: list[Candidate], judge: Judge, here: Here) -> None:
    """Drop, in place, the replies that the judge calls wrong. A reply that it does not judge stays.

    Verdicts are kept in workdir, so a kill does not cost the questions that were answered.
    """
    from functools import partial

    from r1pipe.generation.journal import Job, digest_of, do_once
    from r1pipe.text.rows import HARMFUL_DOMAIN

    def judged(candidate: Candidate) -> tuple[dict[str, Any], bool]:
        verdict = judge.right(candidate.row, candidate.response)
        return {"right": verdict}, verdict is not None

    benign = [
        number for number, candidate in enumerate(candidates) if candidate.row["domain"] != HARMFUL_DOMAIN
    ]
    jobs = []
    for number in benign:
        candidate = candidates[number]
        digest = digest_of(candidate.row["prompt"], candidate.response)
        jobs.append(Job((candidate.row["id"],), digest, partial(judged, candidate)))
    for number, record in zip(benign, do_once(here, "judged", jobs, judge.max_in_flight), strict=True):
        if record["right"] is False:
            candidates[number] = candidates[number].drop("wrong by the judge")
