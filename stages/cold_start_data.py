"""cold-start-data: thousands of readable long chains of thought.

Reads     model (R1-Zero; or none, with a model behind `sampling.endpoint`), prompts with answers or tests, and teachers
          where sources or the rewriter are checkpoints
Writes    chats, each with its `source`; dropped.jsonl; card.json with counts by source and reason and every prompt's
          share of right samples
Paper     v2 B.3.2, v1 2.3.1. People convert the first traces and check all of them there; not done here, see below
Alone     r1pipe run-stage cold-start-data -c my.yaml

Several responses are sampled to a prompt at temperature 1.0; what is right and readable is kept while others are
sampled. R1-Zero's own traces are rewritten: thinking in the question's language, short for simple problems, and a
summary that shows the solution where R1-Zero's holds only the answer. What was rewritten is verified again.
`stop_after` saves samples that would not be needed.

`sources` says where candidates come from (the ways of v1 2.3.1). Without it they are zero-traces and, with
`reuse: true`, the rows' own solutions.

    zero-traces    the model of `inputs.model` or `sampling`, prompted as `template` says, then rewritten
    few-shot       a teacher that is shown long chains of thought
    direct         a teacher that is asked for reflection and verification
    reuse          the rows' own solutions, verified

If more than `per_prompt` rows of a prompt would be kept, the source that is named first goes first, and reuse last. The
teachers are services (`sampling`) or checkpoints (`inputs.teachers`), a different one for each source; so is a rewriter
that is a model. It works on one rank, on the traces that were chosen.

Whoever has people lets them decide with `r1pipe data review` and puts a `mix` of this one input between here and
cold-start, which leaves out what they rejected and takes what they edited.

    cold-start-data:
      kind: cold-start-data
      inputs: {model: zero, prompts: reasoning-train}
      outputs: {chats: cold-start-chats}
      template: templates/r1-zero.txt
      sampling: {n: 4, max_tokens: 64}
      rewriter: world

      # or, with teachers (inputs.teachers: {few-shot: ./v3}; the others are services):
      sources:
        zero-traces: {}
        few-shot: {examples: {path: traces.jsonl}, sampling: {n: 2}}
        direct: {sampling: {backend: openai, endpoint: {base_url: http://127.0.0.1:8000/v1, model: v3}}}
      rewriter:
        guidelines: {file: style.txt}
        sampling: {n: 2, backend: openai, endpoint: {base_url: http://127.0.0.1:8000/v1, model: v3}}

    reviewed:
      kind: mix
      inputs: {chats: {traces: cold-start-chats}}
      outputs: {chats: reviewed-chats}  # what cold-start reads then
      # written by `r1pipe data review RUN/cold-start-data --decisions traces-reviews.jsonl`
      reviews: {traces: traces-reviews.jsonl}
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from r1pipe.artifacts import Chats, Checkpoint, Prompts
from r1pipe.data.filters import Filters
from r1pipe.data.writers import WriterName
from r1pipe.generation.teachers import Rewriter, TeacherSource
from r1pipe.here import Here
from r1pipe.schema import Ordered, Ports, Sampling, SamplingConfig, TemplateName

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate
    from r1pipe.data.writers import ProgramWriter

Row = dict[str, Any]
Source = Literal["zero-traces", "few-shot", "direct", "reuse"]

ZERO: Source = "zero-traces"
REUSE: Source = "reuse"
TAUGHT: tuple[Source, ...] = ("few-shot", "direct")
"""The sources that have a teacher."""


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: Prompts
    teachers: dict[str, Checkpoint] | None = None


class Outputs(Ports):
    chats: Chats


class Config(SamplingConfig):
    template: TemplateName = "chat"
    """How the model is prompted: R1-Zero's template file, or `chat`."""

    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, n=4)
    """Temperature 1.0 (v2 B.3.2); 'multiple' responses, 4 is our choice."""

    reuse: bool = False
    """Take the rows' own `solution` as candidates as well."""

    sources: Annotated[dict[Source, TeacherSource] | None, Ordered()] = None
    """Where candidates come from (v1 2.3.1); none = zero-traces, and reuse if it is set."""

    filters: Filters = Filters(form="auto", min_language=0.3)
    """Before rewriting, which can translate, so language is only looked at loosely (our choice)."""

    rewriter: WriterName | Rewriter = "none"
    """Who makes zero-traces readable (v2 B.3.2: V3): a named writer, or a model; none = only the answer's tags go."""

    after: Filters = Filters(min_language=0.95)
    """What the rewritten must look like (our choice)."""

    max_rows: int | None = Field(default=None, ge=1)
    """Rows in all ('thousands', v2 B.3.2); none = all that is kept."""

    @field_validator("sources", mode="before")
    @classmethod
    def _read_bare_names(cls, value: Any) -> Any:
        """`direct:` with nothing behind it is `direct: {}`."""
        if not isinstance(value, dict):
            return value
        return {name: {} if source is None else source for name, source in value.items()}

    @model_validator(mode="after")
    def _check_sources(self) -> Config:
        if self.sources is None:
            return self
        if not self.sources:
            raise ValueError("sources is empty; leave it out, or name zero-traces, few-shot, direct or reuse")
        if self.reuse:
            raise ValueError(
                "with `sources`, reuse is one of them: write `reuse: {}` there and leave out `reuse: true`"
            )
        for name, source in self.sources.items():
            if name not in TAUGHT and source != TeacherSource():
                raise ValueError(f"sources.{name} takes no settings: the stage's own fields are its settings")
            if name == "direct" and (source.examples is not None or source.shots != TeacherSource().shots):
                raise ValueError("examples are shown by few-shot, not by direct")
        return self

    def all_sources(self) -> dict[Source, TeacherSource]:
        """The sources in the order in which their candidates are preferred."""
        if self.sources is not None:
            return self.sources
        sources: dict[Source, TeacherSource] = {ZERO: TeacherSource()}
        if self.reuse:
            sources[REUSE] = TeacherSource()
        return sources

    def mismatch(self, given: set[str]) -> str:
        return self._teacher_mismatch(given) or self._zero_mismatch(given)

    def _teacher_mismatch(self, given: set[str]) -> str:
        """Every teacher, and a rewriter that is a model, is exactly one of a checkpoint and a service."""
        teachers = {name: source.sampling for name, source in self.all_sources().items() if name in TAUGHT}
        fields = {name: f"sources.{name}" for name in teachers}
        if isinstance(self.rewriter, Rewriter):
            teachers["rewriter"] = self.rewriter.sampling
            fields["rewriter"] = "rewriter"

        checkpoints = {name.removeprefix("teachers.") for name in given if name.startswith("teachers.")}
        for name, sampling in teachers.items():
            served = sampling.endpoint is not None
            if served and name in checkpoints:
                return f"{fields[name]} has two models: inputs.teachers.{name}, and its sampling.endpoint"
            if not served and name not in checkpoints:
                return f"{fields[name]} has no model: give inputs.teachers.{name} or its sampling.endpoint"

        unused = sorted(checkpoints - set(teachers))
        if unused:
            users = ", ".join(teachers) or "few-shot, direct and rewriter"
            return f"nothing asks inputs.teachers.{unused[0]}; it would be one of {users}"
        return ""

    def _zero_mismatch(self, given: set[str]) -> str:
        """What is for zero-traces goes with zero-traces."""
        if ZERO in self.all_sources():
            return self.sampling.mismatch("model" in given)
        if self.rewriter != "none":
            return "the rewriter works on zero-traces, and `sources` does not name them"
        if "model" in given or self.changed(["sampling", "template"]):
            return "inputs.model, sampling and template are for zero-traces, and `sources` does not name them"
        return ""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample from each source, verify and filter meanwhile; rewrite and verify again; choose."""
    import random

    from r1pipe.data.candidates import choose, pass_rates, read_prompts, reuse_candidates, write_chats
    from r1pipe.data.card import token_counter

    rows = read_prompts(inputs.prompts.path, here)
    model = inputs.model.path if inputs.model else None
    teachers = {name: checkpoint.path for name, checkpoint in (inputs.teachers or {}).items()}

    candidates = _sample_all(config, rows, model, teachers, here)
    if not here.main:
        return {}

    # The rates are the models' own, so they are taken before the rows' solutions join.
    rates = pass_rates(candidates)
    if REUSE in config.all_sources():
        candidates += _verify_drawn(config, reuse_candidates(rows))
    if isinstance(config.rewriter, Rewriter):
        candidates = _rewrite_by_model(config, config.rewriter, candidates, teachers.get("rewriter"), here)

    candidates = choose(
        candidates,
        per_prompt=config.per_prompt,
        prefer="first",
        rng=random.Random(config.seed),
        max_rows=config.max_rows,
    )
    return write_chats(
        outputs.chats.path,
        candidates,
        here.stage,
        card={"pass_rates": rates},
        tokens=token_counter(model) if model else None,
    )


# --- sampling ---------------------------------------------------------------------------------------------------------


def _sample_all(
    config: Config, rows: list[Row], model: Path | None, teachers: dict[str, Path], here: Here
) -> list[Candidate]:
    """Sample from zero-traces and from every teacher, in the order of the sources; verified, on rank 0."""
    from functools import partial

    from r1pipe.generation.sampling import sample_and_verify
    from r1pipe.generation.teachers import check_teacher, prompt_rows

    sources = config.all_sources()
    taught = {name: source for name, source in sources.items() if name in TAUGHT}
    # What is wrong with any of them is an error now, not after hours of sampling.
    prompts = {name: prompt_rows(source, name, rows, config.seed) for name, source in taught.items()}
    for name, source in taught.items():
        check_teacher(source, name)
    if isinstance(config.rewriter, Rewriter):
        check_teacher(config.rewriter, "rewrite")

    verify_drawn = partial(_verify_drawn, config)
    candidates: list[Candidate] = []
    for name, source in sources.items():
        if name == ZERO:
            drawn = sample_and_verify(
                model,
                rows,
                config.sampling,
                config.template,
                here=here,
                seed=config.seed,
                source=name,
                verify=verify_drawn,
                stop_after=config.stop_after,
                engine=config.engine,
            )
        elif name in TAUGHT:
            stop_after = config.stop_after
            if stop_after is not None:
                stop_after = min(stop_after, source.sampling.n)
            drawn = sample_and_verify(
                teachers.get(name),
                rows,
                source.sampling,
                source.template,
                here=here,
                seed=config.seed,
                source=name,
                verify=verify_drawn,
                stop_after=stop_after,
                prompt_rows=prompts[name],
                label=f"samples-{name}",
                engine=config.engine,
            )
        else:
            continue
        candidates += [candidate for of_row in drawn for candidate in of_row]
    return candidates


def _verify_drawn(config: Config, candidates: list[Candidate]) -> list[Candidate]:
    """Verify and screen; make readable, and verify again.

    Runs in a thread or on another machine. Zero-traces wait if a model rewrites them: it is paid for those that may be
    kept, which is known when all are there.
    """
    from r1pipe.data.candidates import screen, verify
    from r1pipe.data.writers import load_writer

    screened = screen(verify([_unwrap(candidate) for candidate in candidates]), config.filters)
    if isinstance(config.rewriter, Rewriter):
        program = None
        waiting = [candidate.source == ZERO for candidate in screened]
    else:
        program = load_writer(config.rewriter)
        waiting = [False] * len(screened)

    readable = [
        _make_readable(candidate, program)
        for candidate, waits in zip(screened, waiting, strict=True)
        if not waits
    ]
    checked = iter(_verify_readable(config, readable))
    return [candidate if waits else next(checked) for candidate, waits in zip(screened, waiting, strict=True)]


def _verify_readable(config: Config, candidates: list[Candidate]) -> list[Candidate]:
    from r1pipe.data.candidates import screen, verify

    return screen(verify(candidates), config.after)


def _unwrap(candidate: Candidate) -> Candidate:
    """What a teacher was asked to write, without what it thought before it wrote."""
    from dataclasses import replace

    from r1pipe.generation.teachers import written_response

    if candidate.source not in TAUGHT:
        return candidate
    return replace(candidate, response=written_response(candidate.response))


# --- rewriting --------------------------------------------------------------------------------------------------------


def _make_readable(candidate: Candidate, writer: ProgramWriter | None) -> Candidate:
    """The readable version of a zero-trace; of other sources, and without a writer, only the form changes."""
    from dataclasses import replace

    from r1pipe.data.candidates import to_chat_form
    from r1pipe.text.response import join_response, split_response

    # A row's own solution is left as it is.
    if candidate.reason or candidate.source == REUSE:
        return candidate
    if writer is None or candidate.source in TAUGHT:
        return replace(candidate, response=to_chat_form(candidate.response, candidate.row))
    readable = writer.rewrite(candidate.row, split_response(candidate.response).thinking or "")
    if readable is None:
        return candidate.drop("the rewriter could not follow")
    thinking, summary = readable
    return replace(candidate, response=join_response(thinking, summary))


def _rewrite_by_model(
    config: Config, rewriter: Rewriter, candidates: list[Candidate], checkpoint: Path | None, here: Here
) -> list[Candidate]:
    """All candidates in their order, zero-traces rewritten by a model and verified again."""
    import random
    from functools import partial

    from r1pipe.data.candidates import choose
    from r1pipe.generation.teachers import rewrite_all

    traces = [candidate for candidate in candidates if candidate.source == ZERO]
    # A rewriter is paid, so it gets only what may be kept.
    traces = choose(traces, per_prompt=config.per_prompt, prefer="first", rng=random.Random(config.seed))
    rewritten = iter(
        rewrite_all(
            traces,
            rewriter,
            checkpoint,
            here=here,
            seed=config.seed,
            verify=partial(_verify_readable, config),
            engine=config.engine,
        )
    )
    return [next(rewritten) if candidate.source == ZERO else candidate for candidate in candidates]
