"""rejection-sampling: the reasoning rows of the second SFT, from the checkpoint of the first reasoning RL (v2 B.3.3, v1 2.3.3).

Reads dev2 and prompts. Samples several responses a prompt, keeps what is right - by rules; by a judge where no rule applies - and drops mixed
languages, long paragraphs and code blocks in the thinking, repetition, and what was cut off. At most `per_prompt` responses of a prompt go
in. Writes chats (about 600k in the paper), card.json with counts by source and reason and the share of right samples of every prompt,
and dropped.jsonl. `reuse` adds the rows' own solutions as a second source of candidates.

    rejection-sampling:
      kind: rejection-sampling
      inputs: {model: dev2, prompts: reasoning-train}
      outputs: {chats: reasoning-chats}
      sampling: {temperature: 1.0, top_p: 1.0, n: 4, max_tokens: 64}
      per_prompt: 2
      prefer: shortest

Alone: `r1pipe run-stage rejection-sampling -c my.yaml`.
"""

from __future__ import annotations

from pydantic import Field

from r1pipe.artifacts import Chats, Checkpoint, Prompts
from r1pipe.data.candidates import Prefer
from r1pipe.data.filters import Filters
from r1pipe.data.judges import JudgeName
from r1pipe.here import Here
from r1pipe.schema import Ports, Sampling, StageConfig, TemplateName


class Inputs(Ports):
    model: Checkpoint
    prompts: Prompts


class Outputs(Ports):
    chats: Chats


class Config(StageConfig):
    template: TemplateName = Field(default="chat", description="chat, or a template file: what the checkpoint was trained on")
    sampling: Sampling = Field(default=Sampling(temperature=1.0, top_p=1.0, n=4), description="number and temperature are not published; our choice")
    judge: JudgeName = Field(default="none", description="who says what is right where a row has neither answer nor tests (v2 B.3.3: V3)")
    reuse: bool = Field(default=False, description="take the rows' own `solution` as candidates as well")
    filters: Filters = Field(
        default=Filters(max_paragraph=2000, code_in_thinking=False), description="mixed languages, long paragraphs, code blocks (v2 B.3.3); thresholds ours"
    )
    per_prompt: int = Field(default=2, ge=1, description="rows kept of one prompt, samples before reuse (not published; our choice)")
    prefer: Prefer = Field(default="first", description="which of a prompt's right responses: shortest, first or random (our choice)")
    max_rows: int | None = Field(default=None, ge=1, description="rows in all (about 600k, v2 B.3.3); none = all that is kept")


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Sample, verify, filter, choose."""
    import random

    from r1pipe.data.candidates import Candidate, choose, read_prompts, reuse_candidates, screen, verify, write_chats
    from r1pipe.data.card import token_counter
    from r1pipe.data.judges import load_judge
    from r1pipe.generation import sample

    rows = read_prompts(inputs.prompts.path, here)
    completions = sample(inputs.model.path, rows, config.sampling, config.template, here, config.seed)
    if not here.main:
        return {}
    candidates = [Candidate(row, one.text, "sampled", one.tokens, one.finished) for row, samples in zip(rows, completions, strict=True) for one in samples]
    verified = verify(candidates + (reuse_candidates(rows) if config.reuse else []), load_judge(config.judge))
    right: dict[str, list[bool]] = {row["id"]: [] for row in rows}
    for candidate in verified[: len(candidates)]:
        right[candidate.row["id"]].append(not candidate.reason)
    pass_rates = {prompt: sum(verdicts) / len(verdicts) for prompt, verdicts in right.items()}

    chosen = choose(screen(verified, config.filters), config.per_prompt, config.prefer, random.Random(config.seed), config.max_rows)
    metrics = write_chats(outputs.chats.path, chosen, here.stage, card={"pass_rates": pass_rates}, tokens=token_counter(inputs.model.path))
    return {**metrics, "pass_rate": sum(pass_rates.values()) / len(pass_rates), "unsolved": sum(not rate for rate in pass_rates.values())}
