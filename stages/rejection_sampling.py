"""rejection-sampling: the reasoning rows of the second SFT, from the checkpoint of the first reasoning RL.

Reads     model (dev2; or none, with a model behind `sampling.endpoint`), prompts
Writes    chats, with dropped.jsonl and card.json: counts by source and reason, every prompt's share of right samples
Paper     v2 B.3.3, v1 2.3.3: about 600k rows
Alone     r1pipe run-stage rejection-sampling -c my.yaml

Several responses are sampled to a prompt. Kept is what is right: by rules, or by a judge where no rule applies.
Dropped are mixed languages, long paragraphs and code blocks in the thinking, repetition, and what was cut off. Both
happen while others are sampled. At most `per_prompt` responses of a prompt are kept; `stop_after` saves samples that
would not be needed. `reuse` adds the rows' own solutions as a second source of candidates.

    rejection-sampling:
      kind: rejection-sampling
      inputs: {model: dev2, prompts: reasoning-train}
      outputs: {chats: reasoning-chats}
      sampling: {temperature: 1.0, top_p: 1.0, n: 4, max_tokens: 64}
      per_prompt: 2
      prefer: shortest

      # or from a service, in the place of inputs.model:
      sampling:
        n: 16
        backend: openai
        endpoint: {base_url: http://127.0.0.1:8000/v1, model: my-teacher, budget_tokens: 50000000}
      stop_after: 2
      engine: ray   # over the machines of a Ray cluster: r1pipe/generation/ray_cluster.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from r1pipe.artifacts import Chats, Checkpoint, Prompts
from r1pipe.data.candidates import Prefer
from r1pipe.data.filters import Filters
from r1pipe.here import Here
from r1pipe.judges.judge import JudgeName
from r1pipe.schema import JudgeEndpoint, Ports, Sampling, SamplingConfig, TemplateName

if TYPE_CHECKING:
    from r1pipe.data.candidates import Candidate


class Inputs(Ports):
    model: Checkpoint | None = None
    prompts: Prompts


class Outputs(Ports):
    chats: Chats


class Config(SamplingConfig):
    template: TemplateName = "chat"
    """`chat`, or a template file: the one that the checkpoint was trained with."""

    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, n=4)
    """Number and temperature are not published (our choice)."""

    judge: JudgeName | JudgeEndpoint = "none"
    """Who says what is right where a row has neither answer nor tests (v2 B.3.3: V3)."""

    reuse: bool = False
    """Take the rows' own `solution` as candidates as well."""

    filters: Filters = Filters(max_paragraph=2000, code_in_thinking=False)
    """Mixed languages, long paragraphs, code blocks (v2 B.3.3); the thresholds are our choice."""

    per_prompt: int = Field(default=2, ge=1)
    """Rows kept of one prompt, samples before reuse (not published; our choice)."""

    prefer: Prefer = "first"
    """Which of a prompt's right responses: shortest, first, random, diverse (our choice)."""

    max_rows: int | None = Field(default=None, ge=1)
    """Rows in all (about 600k, v2 B.3.3); none = all that is kept."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample, verify and filter meanwhile, choose."""
    import random
    from functools import partial

    from r1pipe.data.candidates import choose, pass_rates, read_prompts, reuse_candidates, write_chats
    from r1pipe.data.card import token_counter
    from r1pipe.generation.sampling import sample_and_verify
    from r1pipe.judges.judge import load_judge

    rows = read_prompts(inputs.prompts.path, here)
    model = inputs.model.path if inputs.model else None
    # A judge without its address or key is an error now, not when the first sample is verified.
    load_judge(config.judge)

    verify_drawn = partial(_verify_drawn, config)
    drawn = sample_and_verify(
        model,
        rows,
        config.sampling,
        config.template,
        here=here,
        seed=config.seed,
        source="sampled",
        verify=verify_drawn,
        stop_after=config.stop_after,
        engine=config.engine,
    )
    if not here.main:
        return {}
    candidates = [candidate for of_row in drawn for candidate in of_row]

    # The rates are the model's own, so they are taken before the rows' solutions join.
    rates = pass_rates(candidates)
    if config.reuse:
        candidates += verify_drawn(reuse_candidates(rows))

    candidates = choose(
        candidates,
        per_prompt=config.per_prompt,
        prefer=config.prefer,
        rng=random.Random(config.seed),
        max_rows=config.max_rows,
    )
    metrics = write_chats(
        outputs.chats.path,
        candidates,
        here.stage,
        card={"pass_rates": rates},
        tokens=token_counter(model) if model else None,
    )
    return {
        **metrics,
        "pass_rate": sum(rates.values()) / len(rates),
        "unsolved": sum(not rate for rate in rates.values()),
    }


def _verify_drawn(config: Config, candidates: list[Candidate]) -> list[Candidate]:
    """Verify and screen. Runs in a thread or on another machine, so the judge is loaded here."""
    from r1pipe.data.candidates import screen, verify
    from r1pipe.judges.judge import load_judge

    verified = verify(candidates, load_judge(config.judge))
    return screen(verified, config.filters)
