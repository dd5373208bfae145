"""What TRL makes of our rewards: rows that cannot be scored, weights, and rewards normalised each on its own (GDPO)."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from r1pipe.schema import GRPOParams, Phase, RewardSpec
from r1pipe.training.grpo.rollout_rewards import zero_signal
from tests.tiny_trainers import ROWS, grpo_trainer

FIRST = f"{__name__}:first"
SECOND = f"{__name__}:second"
SAID: dict[str, list[float | None]] = {}  # what the two rewards answer, response by response


def first(completions: list[str], **columns: Any) -> list[float | None]:
    return SAID["first"][: len(completions)]


def second(completions: list[str], **columns: Any) -> list[float | None]:
    return SAID["second"][: len(completions)]


def make(checkpoint, here, n: int, *, weight: float = 1.0, **fields: Any):
    specs = [RewardSpec(name=FIRST, required=True, weight=weight), RewardSpec(name=SECOND)]
    params = GRPOParams(
        **{
            "lr": 1e-4,
            "num_generations": n,
            "batch_size": 2 * n,
            "minibatches_per_rollout": 1,
            "phases": [Phase(steps=2, max_tokens=6, rewards=specs)],
        }
        | fields
    )
    return grpo_trainer(params, checkpoint, here)


def rollout(
    checkpoint, here, ones: list[float | None], twos: list[float | None], **fields: Any
) -> tuple[Any, dict[str, Any]]:
    """Two groups of len(ones) / 2 responses, scored with these numbers: the trainer and what it trains on."""
    n = len(ones) // 2
    trainer = make(checkpoint, here, n, **fields)
    SAID.update(first=ones, second=twos)
    trainer.model.train()
    calculate = trainer._calculate_rewards
    rewards: list[torch.Tensor] = []

    def calculate_and_keep(*args: Any) -> torch.Tensor:
        rewards.append(calculate(*args))
        return rewards[-1]

    trainer._calculate_rewards = calculate_and_keep
    inputs = [{"prompt": ROWS[g]["prompt"], "row": g} for g in (0, 1) for _ in range(n)]
    batch = trainer._generate_and_score_completions(inputs)
    return trainer, {**batch, "rewards": rewards[0]}


def advantages(batch: dict[str, Any]) -> torch.Tensor:
    return batch["advantages"].cpu()


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_a_group_with_one_none_gives_the_others_the_advantages_of_the_group_without_it(
    tiny_checkpoint, here, aggregation
):
    fields = {"multi_objective_aggregation": aggregation}
    ones, twos = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [0.1, 0.5, 1.0, 0.75, 0.0, 0.0]
    _, without = rollout(tiny_checkpoint, here, ones, twos, **fields)
    _, with_none = rollout(
        tiny_checkpoint, here, [*ones[:3], None, *ones[3:], None], [*twos[:3], 1.0, *twos[3:], 0.0], **fields
    )
    assert with_none["advantages"][[3, 7]].tolist() == [0.0, 0.0]
    assert torch.allclose(with_none["advantages"][[0, 1, 2, 4, 5, 6]], without["advantages"], atol=1e-6)
    assert without["advantages"].abs().min() > 0.1, "a zero would prove nothing"


def test_a_prompt_that_cannot_be_scored_at_all_is_dropped_and_counted(tiny_checkpoint, here):
    trainer, batch = rollout(
        tiny_checkpoint, here, [None, None, None, 1.0, 0.0, None], [1.0, 0.0, 0.5, 0.0, 0.0, 1.0]
    )
    assert batch["advantages"][:3].tolist() == [0.0] * 3 and batch["advantages"][3] > 0.5
    assert batch["completion_mask"][:3].sum() == 0, "not even the KL of its responses counts"
    assert batch["completion_mask"][3:].sum(1).min() > 0
    assert batch["num_items_in_batch"] == batch["completion_mask"].sum()
    logged = trainer._metrics["train"]
    assert logged["rewards/dropped_prompts"] == [1.0]
    assert logged["rewards/unscorable"] == pytest.approx([4 / 6])
    assert logged[f"rewards/{FIRST}/none"] == pytest.approx([4 / 6]) and logged[f"rewards/{SECOND}/none"] == [
        0.0
    ]


def test_a_dropped_prompt_moves_nothing(tiny_checkpoint, here):
    """With one group dropped, the gradient is that of the other group alone, at half its weight in the mean."""

    def gradient(ones: list[float | None], pick: slice, scale: float) -> torch.Tensor:
        trainer, batch = rollout(tiny_checkpoint, here, ones, [0.0] * 6, beta=0.1)
        with torch.no_grad():  # away from the reference, or there is no KL to see
            for p in trainer.model.parameters():
                p.add_(0.05 * torch.sin(torch.arange(p.numel(), dtype=p.dtype, device=p.device)).view_as(p))
        picked = {
            name: value[pick] if torch.is_tensor(value) and value.dim() else value
            for name, value in batch.items()
        }
        trainer.current_gradient_accumulation_steps = 1
        (trainer._compute_loss(trainer.model, picked) * scale).backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    whole = gradient([None, None, None, 1.0, 0.0, 0.0], slice(None), 2.0)
    alone = gradient([None, None, None, 1.0, 0.0, 0.0], slice(3, 6), 1.0)
    assert torch.allclose(whole, alone, atol=1e-6) and whole.abs().max() > 1e-4
    kept = gradient([1.0, 1.0, 1.0, 1.0, 0.0, 0.0], slice(None), 2.0)
    assert not torch.allclose(kept, alone, atol=1e-4), (
        "a group that is kept moves the policy by its KL, so the comparison can fail"
    )


def gdpo(rewards_GnR: torch.Tensor, weight_R: torch.Tensor) -> torch.Tensor:
    """arXiv 2601.05242, eq. 4 to 6: rewards normalised in their group, summed by weight, normalised over the batch."""
    normalised = (rewards_GnR - rewards_GnR.mean(1, keepdim=True)) / (rewards_GnR.std(1, keepdim=True) + 1e-4)
    summed = (normalised * weight_R).sum(2).flatten()
    return (summed - summed.mean()) / (summed.std() + 1e-4)


def test_normalize_then_sum_is_gdpo_and_not_the_papers_sum(tiny_checkpoint, here):
    """The weights come after the normalisation; before it they would cancel."""
    ones, twos = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [0.1, 0.2, 0.0, 0.0, 0.3, 0.1]
    rewards_GnR = torch.tensor([ones, twos]).T.view(2, 3, 2)
    for weight in (1.0, 3.0):
        _, apart = rollout(
            tiny_checkpoint, here, ones, twos, weight=weight, multi_objective_aggregation="normalize_then_sum"
        )
        assert torch.allclose(advantages(apart), gdpo(rewards_GnR, torch.tensor([weight, 1.0])), atol=1e-4)
        _, summed = rollout(tiny_checkpoint, here, ones, twos, weight=weight)
        total = (rewards_GnR * torch.tensor([weight, 1.0])).sum(2)
        paper = (total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)
        assert torch.allclose(advantages(summed), paper.flatten(), atol=1e-4)
        assert not torch.allclose(advantages(summed), advantages(apart), atol=0.05)


def test_two_components_of_one_name_both_count(tiny_checkpoint, here):
    """The second was left out of the sum: a phase's rewards were looked up by the reward's name."""
    specs = [RewardSpec(name=FIRST), RewardSpec(name=FIRST, weight=0.5)]
    trainer, batch = rollout(
        tiny_checkpoint,
        here,
        [1.0, 0.0, 0.0] * 2,
        [0.0] * 6,
        phases=[Phase(steps=1, max_tokens=4, rewards=specs)],
    )
    assert trainer.rewards.names == [FIRST, f"{FIRST}#2"]
    assert batch["rewards"].tolist() == [
        [1.0, 1.0],
        [0.0, 0.0],
        [0.0, 0.0],
    ] * 2 and trainer.reward_weights.tolist() == [1.0, 0.5]
    assert trainer._metrics["train"]["reward"] == pytest.approx([0.5])


def test_weights_are_a_phases(tiny_checkpoint, here):
    phases = [
        Phase(steps=1, rewards=[RewardSpec(name=FIRST)]),
        Phase(steps=1, rewards=[RewardSpec(name=FIRST, weight=2.0), RewardSpec(name=SECOND)]),
    ]
    trainer = make(tiny_checkpoint, here, 3, phases=phases)
    assert trainer.reward_weights.tolist() == [1.0, 1.0]
    trainer.state.global_step = 1
    trainer._enter_phase(trainer.state.global_step)
    assert trainer.reward_weights.tolist() == [2.0, 1.0]


def test_components_are_logged_by_name(tiny_checkpoint, here, tmp_path):
    from r1pipe.training.grpo.grpo_training import train_grpo

    (tmp_path / "out").mkdir()
    SAID.update(first=[1.0, 0.0, 0.5, None] * 2, second=[0.25] * 8)
    specs = [
        RewardSpec(name=FIRST, required=True, weight=4.0),
        RewardSpec(name=SECOND),
        RewardSpec(name="accuracy"),
    ]
    params = GRPOParams(
        lr=1e-4,
        num_generations=4,
        batch_size=8,
        minibatches_per_rollout=1,
        phases=[Phase(steps=1, max_tokens=6, rewards=specs)],
    )
    train_grpo(
        checkpoint=tiny_checkpoint,
        prompts={"prompts": ROWS},
        heldout=[],
        params=params,
        template="chat",
        out=tmp_path / "out",
        here=here,
        seed=0,
    )
    line = next(
        line for line in map(json.loads, here.metrics_path.read_text().splitlines()) if "reward" in line
    )
    assert line[f"rewards/{FIRST}/mean"] == pytest.approx(0.5), (
        "before its weight, over the rows that were scored"
    )
    assert line[f"rewards/{FIRST}/std"] == pytest.approx(
        torch.tensor([1.0, 0.0, 0.5] * 2).std().item(), abs=1e-5
    )
    assert (
        line[f"rewards/{FIRST}/none"] == 0.25
        and line[f"rewards/{SECOND}/none"] == line["rewards/accuracy/none"] == 0.0
    )
    assert line["rewards/unscorable"] == 0.25 and line["rewards/dropped_prompts"] == 0.0
    assert line["reward"] == pytest.approx(4.0 * 0.5 + 0.25 + line["rewards/accuracy/mean"], abs=1e-5)
    assert {
        "repetition",
        "thinking_words",
        "reflection_words",
        "zero_signal",
        "right",
        "entropy",
        "kl",
        "clip_ratio/region_mean",
    } <= set(line)


def test_zero_signal_by_aggregation():
    nan = float("nan")
    groups = torch.tensor(
        [
            [[1.0, 0.0], [0.0, 1.0]],
            [[1.0, 1.0], [1.0, 1.0]],
            [[nan, nan], [1.0, 0.0]],
            [[nan, 1.0], [nan, 0.0]],
        ]
    )
    weights = torch.ones(2)
    assert zero_signal(groups, weights, "sum_then_normalize").tolist() == [True, True, True, False]
    assert zero_signal(groups, weights, "normalize_then_sum").tolist() == [False, True, True, False]
    assert zero_signal(groups, torch.tensor([2.0, 1.0]), "sum_then_normalize").tolist() == [
        False,
        True,
        True,
        False,
    ]
