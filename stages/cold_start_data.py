"""cold-start-data: thousands of readable long chains of thought (v2 B.3.2, v1 2.3.1).

Reads R1-Zero's checkpoint (or none: `sampling.endpoint` is a model behind a service) and prompts with answers or tests. Samples several
responses a prompt at temperature 1.0 and, while others are sampled, keeps what is right and readable. R1-Zero's own traces are rewritten:
thinking in the question's language (translated where need be; the world's rewriter leaves the last of several steps) and short for simple
problems, and a summary that shows the solution where R1-Zero's holds only the answer. What was rewritten is verified again. Writes chats,
each with its `source`, card.json with counts by source and reason and the share of right samples of every prompt, and dropped.jsonl.
`stop_after` saves what need not be sampled.

`sources` says where candidates come from (the ways of v1 2.3.1; without it zero-traces, and with `reuse: true` the rows' own solutions too):
    zero-traces    the model of `inputs.model` or `sampling`, prompted as `template` says, then rewritten
    few-shot       a teacher that is shown long chains of thought
    direct         a teacher that is asked for reflection and verification
    reuse          the rows' own solutions, verified
Of a prompt of which more than `per_prompt` rows are kept, the source that is named first comes first, and reuse last.
The teachers are services (`sampling`) or checkpoints (`inputs.teachers`), each source its own; so is the rewriter, where it is a model. It works
on one rank, on the traces that were chosen.
Not done here: people, who convert the first traces and check all of them in the paper. Who has people lets them decide with `r1pipe data review`,
and puts a `mix` of this one input between here and cold-start, which leaves out what they rejected and takes what they edited.

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
      rewriter: {guidelines: {file: style.txt}, sampling: {n: 2, backend: openai, endpoint: {base_url: http://127.0.0.1:8000/v1, model: v3}}}

    reviewed:
      kind: mix
      inputs: {chats: {traces: cold-start-chats}}
      outputs: {chats: reviewed-chats}         # what cold-start reads then
      reviews: {traces: traces-reviews.jsonl}  # of `r1pipe data review RUN/cold-start-data --decisions traces-reviews.jsonl`

Alone: `r1pipe run-stage cold-start-data -c my.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from r1pipe.artifacts import Chats, Checkpoint, Prompts
from r1pipe.data.filters import Filters
from r1pipe.data.writers import WriterName
from r1pipe.generation.teachers import Prompted, Rewriter
from r1pipe.here import Here
from r1pipe.schema import Ordered, Ports, Sampling, SamplingConfig, TemplateName

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate
    from r1pipe.data.writers import ProgramWriter


Source = Literal["zero-traces", "few-shot", "direct", "reuse"]
ZERO: Source = "zero-traces"
SHOWN: tuple[Source, ...] = ("few-shot", "direct")


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: Prompts
    teachers: dict[str, Checkpoint] | None = None


class Outputs(Ports):
    chats: Chats


class Config(SamplingConfig):
    template: TemplateName = Field(
        default="chat", description="how the model is prompted: R1-Zero's template file, or chat"
    )
    sampling: Sampling = Field(
        default=Sampling(temperature=1.0, top_p=1.0, n=4),
        description="temperature 1.0 (v2 B.3.2); 'multiple' responses, 4 is our choice",
    )
    reuse: bool = Field(default=False, description="take the rows' own `solution` as candidates as well")
    sources: Annotated[dict[Source, Prompted] | None, Ordered()] = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="where candidates come from (v1 2.3.1); none = zero-traces, and reuse if it is set",
    )
    filters: Filters = Field(
        default=Filters(form="auto", min_language=0.3),
        description="before rewriting, which can translate (so language is looked at loosely)",
    )
    rewriter: WriterName | Rewriter = Field(
        default="none",
        description="who makes zero-traces readable (v2 B.3.2: V3): a named writer, a model, or none, which only moves the answer out of its tags",
    )
    after: Filters = Field(default=Filters(min_language=0.95), description="what the rewritten must look like")
    max_rows: int | None = Field(
        default=None, ge=1, description="rows in all ('thousands', v2 B.3.2); none = all that is kept"
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _named_alone(cls, value: Any) -> Any:
        return (
            {name: {} if source is None else source for name, source in value.items()}
            if isinstance(value, dict)
            else value
        )

    @model_validator(mode="after")
    def _said_once(self) -> Config:
        if self.sources is None:
            return self
        if not self.sources:
            raise ValueError("sources is empty; leave it out, or name zero-traces, few-shot, direct or reuse")
        if self.reuse:
            raise ValueError(
                "with `sources`, reuse is one of them: write `reuse: {}` there and leave out `reuse: true`"
            )
        for name, source in self.sources.items():
            if name not in SHOWN and source != Prompted():
                raise ValueError(f"sources.{name} takes no settings: it is as the stage's own fields say")
            if name == "direct" and (source.examples, source.shots) != (None, Prompted().shots):
                raise ValueError("examples are shown by few-shot, not by direct")
        return self

    def mismatch(self, given: set[str]) -> str:
        sources = {ZERO: None} if self.sources is None else self.sources
        teachers = {name: source.sampling for name, source in sources.items() if source is not None and name in SHOWN}
        if isinstance(self.rewriter, Rewriter):
            teachers["rewriter"] = self.rewriter.sampling
        for name, sampling in teachers.items():
            here, what = f"teachers.{name}" in given, "rewriter" if name == "rewriter" else f"sources.{name}"
            if here == (sampling.endpoint is not None):
                given_ = (
                    f"two models: inputs.teachers.{name}, and its sampling.endpoint"
                    if here
                    else f"no model: give inputs.teachers.{name} or its sampling.endpoint"
                )
                return f"{what} has {given_}"
        if unused := sorted(
            name for name in given if name.startswith("teachers.") and name.removeprefix("teachers.") not in teachers
        ):
            return f"nothing asks inputs.{unused[0]}; it would be one of {', '.join(teachers) or 'few-shot, direct and rewriter'}"
        if ZERO in sources:
            return self.sampling.mismatch("model" in given)
        if self.rewriter != "none":
            return "the rewriter works on zero-traces, which are none of the sources"
        if "model" in given or any(
            getattr(self, name) != type(self).model_fields[name].default for name in ("sampling", "template")
        ):
            return "inputs.model, sampling and template are asked for zero-traces, which are none of the sources"
        return ""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample from each source; meanwhile verify and filter; rewrite and verify again; choose."""
    import random
    from functools import partial

    from r1pipe.data.candidates import choose, pass_rates, read_prompts, reuse_candidates, write_chats
    from r1pipe.data.card import token_counter
    from r1pipe.generation import sample_and_settle
    from r1pipe.generation.teachers import Teacher, check, prompted, rewrite_all

    rows, model = read_prompts(inputs.prompts.path, here), inputs.model.path if inputs.model else None
    teachers = {name: checkpoint.path for name, checkpoint in (inputs.teachers or {}).items()}
    sources = config.sources or {ZERO: Prompted(), **({"reuse": Prompted()} if config.reuse else {})}
    asked = {name: prompted(source, name, rows, config.seed) for name, source in sources.items() if name in SHOWN}
    for name, source in [*sources.items(), ("rewrite", config.rewriter)]:
        if name in (*SHOWN, "rewrite") and isinstance(source, Teacher):
            check(source, name)
    settle, candidates = partial(_settle, config), []
    for name, source in sources.items():
        if name == ZERO:
            drawn = sample_and_settle(
                model,
                rows,
                config.sampling,
                config.template,
                here,
                config.seed,
                name,
                settle,
                config.stop_after,
                engine=config.engine,
            )
        elif name in SHOWN:
            stop = config.stop_after and min(config.stop_after, source.sampling.n)
            drawn = sample_and_settle(
                teachers.get(name),
                rows,
                source.sampling,
                source.template,
                here,
                config.seed,
                name,
                settle,
                stop,
                asked[name],
                f"samples-{name}",
                config.engine,
            )
        else:
            continue
        candidates += [candidate for of_row in drawn for candidate in of_row]
    if not here.main:
        return {}
    rates = pass_rates(candidates)
    if "reuse" in sources:
        candidates += settle(reuse_candidates(rows))
    if isinstance(config.rewriter, Rewriter):
        traces = [candidate for candidate in candidates if candidate.source == ZERO]
        traces = choose(
            traces, config.per_prompt, "first", random.Random(config.seed)
        )  # a rewriter is paid for what may be kept
        readable = iter(
            rewrite_all(
                traces,
                config.rewriter,
                teachers.get("rewriter"),
                here,
                config.seed,
                partial(_check, config),
                config.engine,
            )
        )
        candidates = [next(readable) if candidate.source == ZERO else candidate for candidate in candidates]
    candidates = choose(candidates, config.per_prompt, "first", random.Random(config.seed), config.max_rows)
    return write_chats(
        outputs.chats.path, candidates, here.stage, {"pass_rates": rates}, token_counter(model) if model else None
    )


def _check(config: Config, candidates: list[Candidate]) -> list[Candidate]:
    from r1pipe.data.candidates import screen, verify

    return screen(verify(candidates), config.after)


def _settle(config: Config, candidates: list[Candidate]) -> list[Candidate]:
    """Verified and screened; what need not wait for a rewriter that is a model is made readable and verified again."""
    from r1pipe.data.candidates import screen, verify
    from r1pipe.data.writers import load_writer

    found = screen(verify([_own(candidate) for candidate in candidates]), config.filters)
    if isinstance(config.rewriter, Rewriter):
        waiting = [candidate.source == ZERO for candidate in found]
        rest = iter(
            _check(
                config,
                [_rewrite(candidate, None) for candidate, waits in zip(found, waiting, strict=True) if not waits],
            )
        )
        return [candidate if waits else next(rest) for candidate, waits in zip(found, waiting, strict=True)]
    rewriter = load_writer(config.rewriter)
    return _check(config, [_rewrite(candidate, rewriter) for candidate in found])


def _own(candidate: Candidate) -> Candidate:
    """What a teacher wrote, without what it thought apart."""
    from dataclasses import replace

    from r1pipe.generation.teachers import written

    return replace(candidate, response=written(candidate.response)) if candidate.source in SHOWN else candidate


def _rewrite(candidate: Candidate, rewriter: ProgramWriter | None) -> Candidate:
    """The readable version; a solution of the rows' own is left as it is."""
    from dataclasses import replace

    from r1pipe.data.candidates import to_chat_form
    from r1pipe.text.response import join_response, split_response

    if candidate.reason or candidate.source == "reuse":
        return candidate
    if rewriter is None or candidate.source in SHOWN:
        return replace(candidate, response=to_chat_form(candidate.response, candidate.row))
    readable = rewriter.rewrite(candidate.row, split_response(candidate.response).thinking or "")
    return (
        replace(candidate, response=join_response(*readable))
        if readable
        else candidate.drop("the rewriter could not follow")
    )
