"""The batch that TRL makes of a rollout: without the groups that shall not train the policy, and split by groups.

Shapes: B responses on this rank, A on all ranks, C completion tokens, G groups of n responses on all ranks, R
    rewards.
"""

from __future__ import annotations

from typing import Any

import torch
from trl import GRPOTrainer

from r1pipe.models.shared_prompts import same_prompts
from r1pipe.schema import GRPOParams
from r1pipe.training.grpo.ranks import gathered
from r1pipe.training.grpo.rollout import Rollout
from r1pipe.training.grpo.rollout_rewards import RolloutRewards


def groups_to_drop(
    trainer: GRPOTrainer,
    params: GRPOParams,
    rollout: Rollout,
    rewards: RolloutRewards,
) -> torch.Tensor:
    """Which groups of all ranks shall not train the policy, (G,), and the numbers of such groups for the log.

    A group without one scorable response never does; with `skip_no_signal`, a group without signal does not, either.
    """
    assert rollout.rewards_AR is not None
    unscorable_Gn = rewards.by_group(rollout.rewards_AR).isnan().all(2)
    unscorable_G = unscorable_Gn.all(1)
    silent_G = rewards.silent_groups(rollout.rewards_AR)

    # for the guards, which warn where most groups teach nothing
    metrics = trainer._metrics["train"]
    metrics["zero_signal"].append(silent_G.float().mean().item())
    metrics["rewards/dropped_prompts"].append(float(unscorable_G.sum()))
    metrics["phase"].append(params.phases.index(rollout.phase))
    if params.skip_no_signal:
        return unscorable_G | silent_G
    return unscorable_G


def drop_groups(
    trainer: GRPOTrainer,
    batch: dict[str, Any],
    dropped_G: torch.Tensor,
    *,
    group_size: int,
) -> None:
    """Mask the responses of these groups. Their advantages are 0 already, but their KL and entropy would count."""
    if not dropped_G.any():
        return
    # the loss divides by the tokens that count
    dropped_A = dropped_G.repeat_interleave(group_size)
    tokens_A = gathered(batch["completion_mask"].sum(1))
    batch["num_items_in_batch"] = batch["num_items_in_batch"] - tokens_A[dropped_A].sum()

    # this rank's part of all responses
    count = len(batch["completion_mask"])
    first = trainer.accelerator.process_index * count
    dropped_B = dropped_A[first : first + count]
    dropped_B1 = dropped_B[:, None]

    batch["completion_mask"] = batch["completion_mask"].masked_fill(dropped_B1, 0)
    if "old_per_token_logps" in batch:
        # the model's log-probs of masked tokens are 0, and a ratio of them must stay finite
        batch["old_per_token_logps"] = batch["old_per_token_logps"].masked_fill(dropped_B1, 0.0)


def keep_groups_together(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rows in as many parts of the same sizes, the rows of a group side by side.

    A part then holds whole groups; where sizes do not allow it, a group is cut between two. Groups stand in the order
    in which TRL's shuffling has put their first rows, so it is as random as that.

    Args:
        batches: the shuffled rollout of this rank as TRL has split it.
    """
    prompt_ids = torch.cat([batch["prompt_ids"] for batch in batches])
    prompt_mask = torch.cat([batch["prompt_mask"] for batch in batches])
    groups = same_prompts(prompt_ids, prompt_mask)
    # numbers are given in the order of first rows, and sorting leaves rows of one group as they are
    order = sorted(range(len(groups)), key=groups.__getitem__)
    size = len(groups) // len(batches)
    parts = [order[first : first + size] for first in range(0, len(groups), size)]

    whole = {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
    return [{name: _chosen(value, part) for name, value in whole.items()} for part in parts]


def cut(batches: list[dict[str, Any]], pieces: int) -> list[dict[str, Any]]:
    """Each batch of a rollout in so many parts of equal size, in order."""
    parts = []
    for batch in batches:
        size = len(batch["prompt_ids"]) // pieces
        for first in range(0, size * pieces, size):
            rows = list(range(first, first + size))
            parts.append({name: _chosen(value, rows) for name, value in batch.items()})
    return parts


def _joined(values: list[Any]) -> Any:
    """A value of the rollout from its parts; what is no list and no row of a tensor is the same in all of them."""
    first = values[0]
    if isinstance(first, torch.Tensor) and first.dim():
        return torch.cat(values)
    if isinstance(first, list):
        return [entry for value in values for entry in value]
    return first


def _chosen(value: Any, rows: list[int]) -> Any:
    """These rows of a value of the rollout."""
    if isinstance(value, torch.Tensor) and value.dim():
        return value[torch.tensor(rows, device=value.device)]
    if isinstance(value, list):
        return [value[row] for row in rows]
    return value
