"""DAPO's dynamic sampling (arXiv 2503.14476): groups without signal are replaced by groups of other prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from trl import GRPOTrainer

from r1pipe.schema import GRPOParams
from r1pipe.training.grpo.prompt_order import updates_per_rollout
from r1pipe.training.grpo.ranks import gathered
from r1pipe.training.grpo.rollout import Rollout
from r1pipe.training.grpo.rollout_rewards import RolloutRewards

# number of a rollout -> further rendered prompts with their rows, without end
SparePrompts = Callable[[int], Iterator[tuple[Any, dict[str, Any]]]]


class Resampler:
    """Replaces groups whose responses are all worth the same, in up to `params.resample` rounds a rollout."""

    def __init__(
        self,
        trainer: GRPOTrainer,
        *,
        params: GRPOParams,
        rewards: RolloutRewards,
        spare: SparePrompts,
    ) -> None:
        self.trainer = trainer
        self.params = params
        self.rewards = rewards
        self.spare = spare

    def replace_silent_groups(
        self, rollout: Rollout, draw: Callable[[list[dict[str, Any]]], Rollout]
    ) -> None:
        """Judge the rollout, and exchange its silent groups in place.

        Every rank draws as many groups as the rank that lacks most: drawing is collective.

        Args:
            draw: makes a rollout of the responses to these examples.
        """
        judged = rollout.judged = self.rewards.judge(rollout)
        size = self.params.num_generations
        spare_prompts = self._of_this_rank()
        replaced = 0
        for _ in range(self.params.resample):
            silent_G = self.rewards.silent_groups(judged.rewards_BR)
            silent = silent_G.nonzero().squeeze(-1).tolist()
            count = self._most_on_a_rank(len(silent))
            if count == 0:
                break

            # also on a rank that lacks fewer groups, or none: drawing is collective
            other = draw(self._examples(islice(spare_prompts, count)))
            other_judged = other.judged = self.rewards.judge(other)
            speaking_G = ~self.rewards.silent_groups(other_judged.rewards_BR)
            speaking = speaking_G.nonzero().squeeze(-1).tolist()
            # a group without a partner stays silent, and the next round looks at it again
            for group, other_group in zip(silent, speaking, strict=False):
                rollout.replace_group(group, other, other_group, size=size)
                replaced += 1
        self.trainer._log_metric("resampled_groups", float(replaced))

    def _of_this_rank(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The rollout's spare prompts, dealt to the ranks in turn."""
        accelerator = self.trainer.accelerator
        rollout_number = self.trainer.state.global_step // updates_per_rollout(self.params)
        return islice(self.spare(rollout_number), accelerator.process_index, None, accelerator.num_processes)

    def _examples(self, prompts: Iterator[tuple[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
        """An example for each response to these prompts; their rows join those of the dataset."""
        # rewards find a response's row by its index, so spare rows get indices, too
        texts, rows = zip(*prompts, strict=True)
        first = len(self.rewards.rows)
        self.rewards.rows.extend(rows)

        examples: list[dict[str, Any]] = []
        for i, text in enumerate(texts):
            group = [{"prompt": text, "row": first + i} for _ in range(self.params.num_generations)]
            examples += group
        return examples

    def _most_on_a_rank(self, count: int) -> int:
        counts = gathered(torch.tensor([count], device=self.trainer.accelerator.device))
        return int(counts.max())
