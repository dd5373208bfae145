"""One rollout: the responses drawn with one policy, and everything known about them until their updates begin.

A Rollout is made by R1GRPOTrainer._generate_and_score_completions, which puts it into `trainer.rollout` while TRL's
method of that name runs. Each of its fields is written once, by the override named beside it, and read as often as
needed.

Shapes: B responses on this rank, A responses on all ranks, R rewards, C completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import torch

from r1pipe.rewards.scoring import Scores
from r1pipe.schema import Phase
from r1pipe.training.grpo.early_rewards import EarlyRewards


class OldLogProbs(Enum):
    """Where the log-probs of the policy that drew come from; the loss compares the updated policy with them."""

    NOT_NEEDED = "the rollout is one update: the update's own forward pass has them"
    AS_DRAWN = "the sampling loop keeps them (`drawn_logps`); computed all the same where it could not"
    RECOMPUTE = "a forward pass over the rollout"


class Judged(NamedTuple):
    """The rewards of this rank's responses.

    Attributes:
        scores: per component, before weighting, with what applied and what could not be judged.
        rewards_BR: the same as TRL wants it: NaN where a reward does not apply, a row of NaN where a response cannot
            be scored.
    """

    scores: Scores
    rewards_BR: torch.Tensor


@dataclass
class Rollout:
    """The responses to B examples on this rank.

    The lists are those that TRL works on, not copies: what `replace_group` writes into them, TRL trains on.

    Attributes:
        examples: for each response the dataset's `prompt` and `row` (an index into the trainer's `rows`).
        phase: the phase whose rewards, temperature and length apply.
        old_log_probs: what to do when TRL asks for the old log-probs.
        prefill: the beginning of every response that the prompt has already written.
        early: the rewards computed while responses are still drawn; None where nothing is judged early.
        drawn_logps: the policy's log-probs of each response's tokens, as they were drawn; empty unless they were
            kept.
        prompts: the rendered prompt of each response.
        prompt_ids, completion_ids: token ids of each prompt and each response.
        completions: the text of each response, or TRL's list of messages.
        vllm_logps: vLLM's log-probs of each response's tokens; None where vLLM did not draw.
        judged: the rewards of this rank.
        rewards_AR: the rewards of all ranks.
    """

    examples: list[dict[str, Any]]
    phase: Phase
    old_log_probs: OldLogProbs
    prefill: str = ""

    # written by _generate_single_turn
    early: EarlyRewards | None = None
    drawn_logps: list[list[float]] = field(default_factory=list)

    # written by _generate
    prompts: list[Any] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_ids: list[list[int]] = field(default_factory=list)
    completions: list[Any] = field(default_factory=list)
    vllm_logps: list[list[float]] | None = None

    # written by _generate where silent groups are replaced, else by _calculate_rewards
    judged: Judged | None = None

    # written by _calculate_rewards
    rewards_AR: torch.Tensor | None = None

    @property
    def texts(self) -> list[str]:
        """The text of each response, from its beginning."""
        return [
            self.prefill + (completion if isinstance(completion, str) else completion[-1]["content"])
            for completion in self.completions
        ]

    def keep_responses(self, prompts: list[Any], generated: tuple[Any, ...]) -> None:
        """Write down what TRL's `_generate` returned for these prompts."""
        prompt_ids, completion_ids, _tool_mask, completions, vllm_logps, *_ = generated
        self.prompts = prompts
        self.prompt_ids = prompt_ids
        self.completion_ids = completion_ids
        self.completions = completions
        self.vllm_logps = vllm_logps

    def kept_logps(self, width: int) -> torch.Tensor | None:
        """The old log-probs without a forward pass, (B, C), zero after each response's end; None where one is needed.

        NaN stands for log-probs that are not needed: a use of them would be noticed.

        Args:
            width: C.
        """
        if self.old_log_probs is OldLogProbs.NOT_NEEDED:
            return torch.full((len(self.completion_ids), width), torch.nan)
        # Some caches (sliding windows, state spaces) are drawn from by transformers' loop, which keeps none.
        if self.old_log_probs is OldLogProbs.RECOMPUTE or not self.drawn_logps:
            return None
        assert len(self.drawn_logps) == len(self.completion_ids), "one list of log-probs per response"
        return torch.tensor([logps + [0.0] * (width - len(logps)) for logps in self.drawn_logps])

    def replace_group(
        self,
        group: int,
        other: Rollout,
        other_group: int,
        *,
        size: int,
    ) -> None:
        """Put a group of another rollout, which was drawn and judged in the same way, in the place of this one.

        Args:
            size: responses in a group.
        """
        assert self.judged is not None and other.judged is not None, "both were judged to be compared"
        for i in range(size):
            place = group * size + i
            source = other_group * size + i

            # columns of the dataset that the spare prompts lack stay as they were
            self.examples[place] = {**self.examples[place], **other.examples[source]}
            self.prompts[place] = other.prompts[source]
            self.prompt_ids[place] = other.prompt_ids[source]
            self.completion_ids[place] = other.completion_ids[source]
            self.completions[place] = other.completions[source]
            if self.vllm_logps is not None and other.vllm_logps is not None:
                self.vllm_logps[place] = other.vllm_logps[source]
            if self.drawn_logps and other.drawn_logps:
                self.drawn_logps[place] = other.drawn_logps[source]

            # the totals and the counts for the log come along
            self.judged.rewards_BR[place] = other.judged.rewards_BR[source]
            self.judged.scores.replace(place, other.judged.scores, source)
