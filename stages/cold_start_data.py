"""cold-start-data: thousands of readable long chains of thought from R1-Zero's own (v2 B.3.2, v1 2.3.1).

Reads R1-Zero's checkpoint (or none: `sampling.endpoint` is a model behind a service) and prompts with answers or tests. Samples several
responses a prompt at temperature 1.0 and, while others are sampled, keeps what is right and readable and has it rewritten: thinking in the
question's language (translated where need be) and short for simple problems, and a summary that shows the solution where R1-Zero's holds only
the answer. What was rewritten is verified again. Writes chats, card.json with counts by source and reason and the share of right samples of
every prompt, and dropped.jsonl. `stop_after` saves what need not be sampled, `reuse` adds the rows' own solutions as a second source of
candidates.
Not done here: people, who convert the first traces and check all of them in the paper.

    cold-start-data:
      kind: cold-start-data
      inputs: {model: zero, prompts: reasoning-train}
      outputs: {chats: cold-start-chats}
      template: templates/r1-zero.txt
      sampling: {n: 4, max_tokens: 64}
      rewriter: world

Alone: `r1pipe run-stage cold-start-data -c my.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from r1pipe.artifacts import Chats, Checkpoint, Prompts
from r1pipe.data.filters import Filters
from r1pipe.here import Here
from r1pipe.schema import Ports, Sampling, SamplingConfig, TemplateName

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: Prompts


class Outputs(Ports):
    chats: Chats


class Config(SamplingConfig):
    template: TemplateName = Field(default="chat", description="how the model is prompted: R1-Zero's template file, or chat")
    sampling: Sampling = Field(
        default=Sampling(temperature=1.0, top_p=1.0, n=4), description="temperature 1.0 (v2 B.3.2); 'multiple' responses, 4 is our choice"
    )
    reuse: bool = Field(default=False, description="take the rows' own `solution` as candidates as well")
    filters: Filters = Field(
        default=Filters(form="auto", min_language=0.3), description="before rewriting, which can translate (so language is looked at loosely)"
    )
    rewriter: Literal["world", "none"] = Field(default="none", description="who makes traces readable; none only moves the answer out of its tags")
    after: Filters = Field(default=Filters(min_language=0.95), description="what the rewritten must look like")
    max_rows: int | None = Field(default=None, ge=1, description="rows in all ('thousands', v2 B.3.2); none = all that is kept")


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample; meanwhile verify, filter, rewrite and verify again; choose."""
    import random

    from r1pipe.data.candidates import choose, pass_rates, read_prompts, reuse_candidates, screen, verify, write_chats
    from r1pipe.data.card import token_counter
    from r1pipe.generation import sample_and_settle

    def settle(candidates: list[Candidate]) -> list[Candidate]:
        readable = [_rewrite(candidate, config.rewriter) for candidate in screen(verify(candidates), config.filters)]
        return screen(verify(readable), config.after)

    rows, model = read_prompts(inputs.prompts.path, here), inputs.model.path if inputs.model else None
    candidates = sample_and_settle(model, rows, config.sampling, config.template, here, config.seed, "zero-traces", settle, config.stop_after)
    if not here.main:
        return {}
    rates = pass_rates(candidates)
    if config.reuse:
        candidates += settle(reuse_candidates(rows))
    candidates = choose(candidates, config.per_prompt, "first", random.Random(config.seed), config.max_rows)
    return write_chats(outputs.chats.path, candidates, here.stage, {"pass_rates": rates}, token_counter(model) if model else None)


def _rewrite(candidate: Candidate, rewriter: str) -> Candidate:
    """The readable version; a solution of the rows' own is left as it is."""
    from dataclasses import replace

    from r1pipe.data.candidates import to_chat_form
    from r1pipe.data.response import join_response, split_response

    if candidate.reason or candidate.source == "reuse":
        return candidate
    if rewriter == "none":
        return replace(candidate, response=to_chat_form(candidate.response, candidate.row))
    from r1pipe.embedded.oracle import rewrite

    readable = rewrite(candidate.row, split_response(candidate.response).thinking or "")
    return replace(candidate, response=join_response(*readable)) if readable else candidate.drop("the rewriter could not follow")
