"""The rewards of a rollout: judged early where possible, None kept apart from zero, and what the log and the guards read of responses.

Shapes: B responses on this rank, G groups of n responses, R rewards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from trl import GRPOTrainer

from r1pipe.generation.token_sampling import OnEnded
from r1pipe.rewards.language import thinking_words
from r1pipe.rewards.repetition import repeated_share
from r1pipe.rewards.scoring import EARLY_REWARDS, Scorer, Scores, component_names, score
from r1pipe.schema import Phase
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
        phases: all phases; their rewards together are the R columns.
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
        phases: Sequence[Phase],
        rows: list[dict[str, Any]],
        models: dict[str, Scorer],
        stopwatch: Stopwatch,
    ) -> None:
        self.trainer = trainer
        self.rows = rows
        self.models = models
        self.stopwatch = stopwatch
        self.names = all_components(phases)
        self.early = trainer.accelerator.device.type != "cpu"

    def weights(self, phase: Phase) -> torch.Tensor:
        """The phase's weights, (R,); TRL multiplies by them, after normalising each reward where that is asked for."""
        weight_of = {
            name: spec.weight for name, spec in zip(component_names(phase.rewards), phase.rewards, strict=True)
        }
        return torch.tensor([weight_of.get(name, 1.0) for name in self.names])

    @contextmanager
    def judging_early(self, rollout: Rollout | None) -> Iterator[OnEnded | None]:
        """Around the drawing of a rollout: yields the function to call with responses that have ended; None = no need to."""
        if rollout is None or not self.early:
            yield None
            return
        specs = rollout.phase.rewards
        if not EARLY_REWARDS.intersection(spec.name for spec in specs):
            yield None
            return

        rows = [self.rows[example["row"]] for example in rollout.examples]
        tokenizer: Any = self.trainer._tokenizer
        decode = partial(tokenizer.batch_decode, skip_special_tokens=True)
        with EarlyRewards(specs, rows, decode) as rollout.early:
            yield rollout.early.add

    def judge(self, rollout: Rollout) -> Judged:
        """Score this rank's responses by everything that was not judged early."""
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
        """(B, R). None is not zero: a row that a required reward could not judge is NaN as a whole, and TRL leaves it out."""
        count = len(scores.totals)
        rewards_BR = torch.full((count, len(self.names)), torch.nan)
        for r, name in enumerate(self.names):
            values = scores.components.get(name, [None] * count)
            for b, value in enumerate(values):
                if value is not None and scores.totals[b] is not None:
                    rewards_BR[b, r] = value
        return rewards_BR

    def silent_groups(self, rewards_BR: torch.Tensor) -> torch.Tensor:
        """Which groups teach nothing, (G,)."""
        groups_GnR = self.by_group(rewards_BR)
        return zero_signal(groups_GnR, self.trainer.reward_weights, self.trainer.multi_objective_aggregation)

    def by_group(self, rewards_BR: torch.Tensor) -> torch.Tensor:
        return rewards_BR.view(-1, self.trainer.num_generations, len(self.names))

    def log_responses(self, scores: Scores, texts: list[str]) -> None:
        """Log what TRL does not log and the guards read; TRL averages it over the ranks."""
        log = self.trainer._log_metric
        log("rewards/unscorable", sum(total is None for total in scores.totals) / len(texts))
        for name, applied in scores.applied.items():
            if any(applied):
                log(f"rewards/{name}/none", scores.unjudged[name] / sum(applied))

        verdicts = [value for name in VERDICTS for value in scores.components.get(name, []) if value is not None]
        if verdicts:
            log("right", sum(verdicts) / len(verdicts))

        thinking = [split_response(text).thinking for text in texts]
        log("thinks", sum(part is not None for part in thinking) / len(texts))

        sampled = texts[:: max(1, len(texts) // SAMPLED_RESPONSES)]
        log("thinking_words", sum(thinking_words(sampled)) / len(sampled))
        log("repetition", sum(repeated_share(text[-SAMPLED_CHARS:], 6) for text in sampled) / len(sampled))


def all_components(phases: Sequence[Phase]) -> list[str]:
    """The names of all phases' reward components, in order of appearance."""
    return list(dict.fromkeys(name for phase in phases for name in component_names(phase.rewards)))


def zero_signal(rewards_GnR: torch.Tensor, weight_R: torch.Tensor, aggregation: str) -> torch.Tensor:
    """Which groups teach nothing, (G,): all their responses have the same sum, or the same of each reward where each is normalised."""
    if aggregation == "sum_then_normalize":
        values_Gnk = (rewards_GnR * weight_R.to(rewards_GnR.device)).nansum(2, keepdim=True)
        missing_Gnk = rewards_GnR.isnan().all(2, keepdim=True)
    else:
        values_Gnk = rewards_GnR
        missing_Gnk = rewards_GnR.isnan()

    highest_Gk = values_Gnk.masked_fill(missing_Gnk, -torch.inf).amax(1)
    lowest_Gk = values_Gnk.masked_fill(missing_Gnk, torch.inf).amin(1)
    # where nothing was judged this is -inf - inf, which is below the limit, too
    return (highest_Gk - lowest_Gk <= 1e-6).all(1)
