"""The rewards of a rollout, and what the log and the guards read of its responses.

TRL would take a reward of None for 0. Here None stays apart: a response that a required reward could not judge is left
out of its group.

Shapes: B responses on this rank, G groups of n responses, R rewards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from trl import GRPOTrainer

from r1pipe.generation.token_sampling import OnEnded
from r1pipe.rewards.language import thinking_words
from r1pipe.rewards.repetition import repeated_share
from r1pipe.rewards.scoring import EARLY_REWARDS, Scorer, Scores, component_names, score
from r1pipe.schema import GRPOParams, Phase
from r1pipe.text.reflection import reflective_words
from r1pipe.text.response import split_response
from r1pipe.training.grpo.early_rewards import EarlyRewards
from r1pipe.training.grpo.rollout import Judged, Rollout
from r1pipe.training.stopwatch import Stopwatch

# How much of a rollout is read for the log: counting words and n-grams of long responses takes seconds.
SAMPLED_RESPONSES = 64
SAMPLED_CHARS = 4000  # of the end of each
VERDICTS = ("accuracy", "code", "reasoning_gym")


class RolloutRewards:
    """Judges rollouts by their phase's rewards.

    Args:
        trainer: TRL's trainer, whose metrics, tokenizer and weights of rewards are used.
        params: the recipe's fields; the rewards of all its phases together are the R columns.
        rows: what an example's `row` is the index of. Resampling appends to this list.
        models: scorers for rewards that need a reward model (helpful, harmless).

    Attributes:
        names: the R rewards.
        early: judge responses while others are drawn. Off on a CPU, which has no time to spare while it draws.
    """

    def __init__(
        self,
        trainer: GRPOTrainer,
        *,
        params: GRPOParams,
        rows: list[dict[str, Any]],
        models: dict[str, Scorer],
        stopwatch: Stopwatch,
    ) -> None:
        self.trainer = trainer
        self.rows = rows
        self.models = models
        self.stopwatch = stopwatch
        self.group_size = params.num_generations
        self.names = all_components(params.phases)
        self.early = trainer.accelerator.device.type != "cpu"

    def weights(self, phase: Phase) -> torch.Tensor:
        """The phase's weights, (R,); TRL multiplies by them, after normalising each reward where that is asked for."""
        names = component_names(phase.rewards)
        weight_of = {name: spec.weight for name, spec in zip(names, phase.rewards, strict=True)}
        # the weight of another phase's reward does not matter: its column is NaN in this phase
        return torch.tensor([weight_of.get(name, 1.0) for name in self.names])

    @contextmanager
    def judging_early(self, rollout: Rollout | None) -> Iterator[OnEnded | None]:
        """Around the drawing of a rollout: judge what ends while the rest is drawn.

        Yields:
            the function to call with responses that have ended; None where nothing is judged early.
        """
        # Held-out prompts are answered outside a rollout, and their rewards are not needed.
        if rollout is None or not self.early:
            yield None
            return
        specs = rollout.phase.rewards
        if not EARLY_REWARDS.intersection(spec.name for spec in specs):
            yield None
            return

        rows = [self.rows[example["row"]] for example in rollout.examples]
        tokenizer: Any = self.trainer._tokenizer
        prefill = rollout.prefill

        def decode(ids: list[list[int]]) -> list[str]:
            return [prefill + text for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]

        with EarlyRewards(specs, rows, decode) as rollout.early:
            yield rollout.early.add

    def judge(self, rollout: Rollout) -> Judged:
        """Score this rank's responses by everything that was not judged early."""
        # The length reward judges by tokens, of which the text says nothing.
        rows = [
            {**self.rows[example["row"]], "tokens": len(ids)}
            for example, ids in zip(rollout.examples, rollout.completion_ids, strict=True)
        ]
        texts = rollout.texts
        with self.stopwatch.part("reward"):
            known = rollout.early.results(rollout.completion_ids) if rollout.early is not None else {}
            scores = score(rollout.phase.rewards, texts, rows, self.models, known)

        if rollout.early is not None:
            judged_early = set().union(*known.values())
            self.trainer._log_metric("rewards/early", len(judged_early) / len(texts))
        return Judged(scores, self._as_tensor(scores))

    def _as_tensor(self, scores: Scores) -> torch.Tensor:
        """(B, R); NaN where a reward does not apply. TRL leaves out a response whose rewards are all NaN."""
        count = len(scores.totals)
        rewards_BR = torch.full((count, len(self.names)), torch.nan)
        for r, name in enumerate(self.names):
            values = scores.components.get(name, [None] * count)
            for b, value in enumerate(values):
                # a total of None: a required reward could not judge this response, and its others do not count
                scorable = scores.totals[b] is not None
                if value is not None and scorable:
                    rewards_BR[b, r] = value
        return rewards_BR

    def silent_groups(self, rewards_BR: torch.Tensor) -> torch.Tensor:
        """Which groups teach nothing, (G,)."""
        groups_GnR = self.by_group(rewards_BR)
        return zero_signal(groups_GnR, self.trainer.reward_weights, self.trainer.multi_objective_aggregation)

    def by_group(self, rewards_BR: torch.Tensor) -> torch.Tensor:
        """The rewards by group, (G, n, R)."""
        return rewards_BR.view(-1, self.group_size, len(self.names))

    def log_responses(self, rollout: Rollout, scores: Scores) -> None:
        """Log what TRL does not log and the guards read; TRL averages it over the ranks."""
        log = self.trainer._log_metric
        texts = rollout.texts
        log("rewards/unscorable", sum(total is None for total in scores.totals) / len(texts))
        for name, applied in scores.applied.items():
            if any(applied):
                log(f"rewards/{name}/none", scores.unjudged[name] / sum(applied))

        verdicts: list[float] = []
        for name in VERDICTS:
            verdicts += [value for value in scores.components.get(name, []) if value is not None]
        # absent where nothing was judged: 0 would tell the guards that every answer is wrong
        if verdicts:
            log("right", sum(verdicts) / len(verdicts))

        # how responses change over training: whether they think, for how long, and whether they go round in circles
        thinking = [split_response(text).thinking for text in texts]
        log("thinks", sum(part is not None for part in thinking) / len(texts))

        # spread over the rollout, so that all its groups are seen
        every = max(1, len(texts) // SAMPLED_RESPONSES)
        sampled = texts[::every]
        tokens = sum(map(len, rollout.completion_ids[::every]))
        # v2 C.2, of 1,000 tokens: responses grow, and longer ones hold more of any word
        log("reflection_words", 1000 * sum(map(reflective_words, sampled)) / max(1, tokens))
        log("thinking_words", sum(thinking_words(sampled)) / len(sampled))
        log("repetition", sum(repeated_share(text[-SAMPLED_CHARS:], 6) for text in sampled) / len(sampled))


def all_components(phases: Sequence[Phase]) -> list[str]:
    """The names of all phases' reward components, in order of appearance."""
    return list(dict.fromkeys(name for phase in phases for name in component_names(phase.rewards)))


def zero_signal(
    rewards_GnR: torch.Tensor,
    weight_R: torch.Tensor,
    aggregation: str,
) -> torch.Tensor:
    """Which groups teach nothing, (G,).

    All responses of such a group have the same sum of rewards or, where each reward is normalised on its own, the same
    value of each reward.
    """
    if aggregation == "sum_then_normalize":
        values_Gnk = (rewards_GnR * weight_R.to(rewards_GnR.device)).nansum(2, keepdim=True)
        missing_Gnk = rewards_GnR.isnan().all(2, keepdim=True)
    else:
        values_Gnk = rewards_GnR
        missing_Gnk = rewards_GnR.isnan()

    # where nothing was judged the difference is -inf - inf: silent
    highest_Gk = values_Gnk.masked_fill(missing_Gnk, -torch.inf).amax(1)
    lowest_Gk = values_Gnk.masked_fill(missing_Gnk, torch.inf).amin(1)
    return (highest_Gk - lowest_Gk <= 1e-6).all(1)
