"""What RL's options do to a rollout: groups replaced or skipped, other ratios and norms (DAPO, Dr. GRPO, GSPO)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import torch

from r1pipe.schema import GRPOParams, Phase, RewardSpec
from r1pipe.training.grpo.arguments import grpo_arguments
from r1pipe.training.grpo.prompt_order import spare_prompts
from tests.tiny_trainers import ROWS, grpo_params, grpo_trainer, judged_rewards


def even_rows_have_signal(completions: list[Any], **columns: Any) -> list[float]:
    """Rows with an even id are right every other time, the rest never."""
    return [float(i % 2 and int(row) % 2 == 0) for i, row in enumerate(columns["id"])]


SIGNAL = [RewardSpec(name=f"{__name__}:even_rows_have_signal")]


def params(**changes: Any) -> GRPOParams:
    return grpo_params(Phase(steps=2, max_tokens=8, rewards=SIGNAL), **changes)


def rollout(trainer: Any) -> dict[str, Any]:
    """The first rollout as the loss gets it."""
    seen: list[dict[str, Any]] = []
    score = trainer._generate_and_score_completions

    def keep(inputs: Any) -> Any:
        output = score(inputs)
        seen.append({**output, "inputs": inputs})
        return output

    trainer._generate_and_score_completions = keep
    trainer.train()
    return seen[0]


def spare_of(rows: list[dict[str, Any]]) -> Any:
    def spare(rollout: int) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((row["prompt"], row) for row in cycle(rows))

    return spare


def test_groups_without_signal_are_replaced(tiny_checkpoint, here):
    """Half of the groups (odd ids) teach nothing; each gets another prompt, with its log-probs, text and rewards.

    Spare prompts come with odd ids, too: of the 4, 2, 1 and 1 of four rounds, 2, 1, 0 and 1 have signal.
    """
    trainer = grpo_trainer(params(resample=4), tiny_checkpoint, here, spare=spare_of(ROWS[1:]))
    batch = rollout(trainer)
    log = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert log["resampled_groups"] == 4 and log["zero_signal"] == 0
    assert all(int(trainer.rewards.rows[example["row"]]["id"]) % 2 == 0 for example in batch["inputs"])
    prompts = [trainer.rewards.rows[example["row"]]["prompt"] for example in batch["inputs"]]
    decoded = [
        trainer._tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    ]
    assert decoded == prompts
    fresh = grpo_trainer(params(), tiny_checkpoint, here)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    with torch.no_grad():
        logps, _, _ = fresh._get_per_token_logps_and_entropies(
            fresh.model, ids, mask, batch["completion_ids"].shape[1]
        )
    counts = batch["completion_mask"].bool()
    assert torch.allclose(batch["old_per_token_logps"][counts], logps[counts], atol=1e-4)


def test_scores_of_a_replaced_response_come_with_it():
    from r1pipe.rewards.scoring import score

    rows = [{"answer": "4"}, {"answer": None}]
    ours, theirs = (
        score([RewardSpec(name="accuracy")], texts, rows) for texts in (["4", "5"], ["\\boxed{5}", "6"])
    )
    ours.replace(1, theirs, 0)
    assert ours.totals == [1.0, 0.0] and ours.components == {"accuracy": [1.0, 0.0]}
    assert ours.applied == {"accuracy": [True, True]} and ours.unjudged == {"accuracy": 0}


def test_resampling_gives_up_after_its_rounds(tiny_checkpoint, here):
    odd = [row for row in ROWS if int(row["id"]) % 2]
    trainer = grpo_trainer(params(resample=2), tiny_checkpoint, here, spare=spare_of(odd))
    rollout(trainer)
    log = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert log["resampled_groups"] == 0 and log["zero_signal"] == 0.5


def test_spare_prompts_follow_from_the_seed_and_the_rollout():
    mixed = params(phases=[Phase(steps=8, prompts={"prompts": 3, "general": 1}, rewards=SIGNAL)])
    sources = {"prompts": ROWS, "general": [{"id": f"g{i}"} for i in range(3)]}

    def first(seed: int, number: int) -> list[str]:
        stream = spare_prompts(mixed, sources, seed, number)
        return [next(stream)["id"] for _ in range(40)]

    assert first(0, 1) == first(0, 1) != first(0, 2)
    assert 3 <= sum(name.startswith("g") for name in first(0, 1)) <= 20


def test_groups_without_signal_are_skipped(tiny_checkpoint, here):
    batch = rollout(grpo_trainer(params(skip_no_signal=True), tiny_checkpoint, here))
    even = torch.tensor([int(ROWS[example["row"]]["id"]) % 2 == 0 for example in batch["inputs"]])
    assert batch["completion_mask"][even].any(1).all() and not batch["completion_mask"][~even].any()
    assert batch["num_items_in_batch"] == batch["completion_mask"].sum()


def test_the_overlong_penalty_knows_the_lengths(tiny_checkpoint, here):
    """Once it could not judge during RL: it did not get the length of a response."""
    rewards = [RewardSpec(name="length", params={"max_tokens": 8, "soft_tokens": 4})]
    trainer = grpo_trainer(
        params(phases=[Phase(steps=2, max_tokens=8, rewards=rewards)]), tiny_checkpoint, here
    )
    rewards_BR = judged_rewards(trainer, ["a", "b", "c"], [3, 6, 8])
    assert rewards_BR[:, 0].tolist() == [0.0, -0.5, -1.0]


def test_fields_are_trls_arguments(here):
    arguments = grpo_arguments(
        params(epsilon=0.2, epsilon_high=0.28, loss_type="dapo", mask_truncated=True), here, 0
    )
    assert (
        arguments["epsilon"],
        arguments["epsilon_high"],
        arguments["loss_type"],
        arguments["mask_truncated_completions"],
    ) == (0.2, 0.28, "dapo", True)
    plain = grpo_arguments(params(), here, 0)
    assert (
        plain["epsilon"],
        plain["epsilon_high"],
        plain["importance_sampling_level"],
        plain["mask_truncated_completions"],
    ) == (10.0, None, "token", False)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"importance_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
        {
            "loss_type": "dapo",
            "epsilon": 0.2,
            "epsilon_high": 0.28,
            "beta": 0.0,
            "mask_truncated": True,
            "resample": 1,
            "microbatch_tokens": 100,
        },
    ],
    ids=["dr-grpo", "gspo", "dapo"],
)
def test_each_variant_trains(tiny_checkpoint, here, changes):
    if changes.get("mask_truncated"):  # long enough for a random response to end
        changes = changes | {"phases": [Phase(steps=2, max_tokens=96, rewards=SIGNAL)]}
    trainer = grpo_trainer(params(**changes), tiny_checkpoint, here, spare=spare_of(ROWS))
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2 and torch.isfinite(torch.tensor(losses)).all()
    assert not torch.equal(before, after)
    if changes.get("mask_truncated"):
        assert all(
            entry["completions/clipped_ratio"] < 1
            for entry in trainer.state.log_history
            if "completions/clipped_ratio" in entry
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "ppo"}, "there is no loss_type"),
        ({"epsilon": 0.2, "epsilon_high": 0.1}, "below epsilon"),
        ({"microbatch_tokens": 0}, "at least 1"),
        ({"importance_level": "word"}, "importance_level"),
        ({"resample": -1}, "resample"),
        ({"trl": {"top_k": 20}}, "trl.top_k would be ignored"),
        ({"trl": {"min_p": 0.1}}, "trl.min_p would be ignored"),
        ({"trl": {"repetition_penalty": 1.1}}, "trl.repetition_penalty would be ignored"),
        (
            {"trl": {"generation_kwargs": {"no_repeat_ngram_size": 3}}},
            "trl.generation_kwargs would be ignored",
        ),
        ({"compile": True, "rollout": "vllm", "microbatch_tokens": "rows"}, "microbatch_tokens is rows"),
    ],
)
def test_impossible_combinations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        params(**changes)


def test_sampling_options_are_taken_where_they_work_or_change_nothing():
    params(trl={"top_k": 20}, rollout="vllm")
    params(trl={"top_k": 20, "use_transformers_continuous_batching": True})
    params(trl={"top_k": 0, "repetition_penalty": 1.0})


def test_a_later_temperature_keeps_the_head_in_float32(tiny_checkpoint, here, monkeypatch):
    """The option held until the first phase of another temperature."""
    from r1pipe.models import plain_head as module

    heads: list[dict[str, Any]] = []
    plain_heads: list[Any] = []
    for place in "models.plain_head", "training.grpo.log_probs":
        monkeypatch.setattr(
            f"r1pipe.{place}.add_plain_head", lambda *arguments: plain_heads.append(arguments)
        )
    plain = module.add_fused_lm_head
    monkeypatch.setattr(
        module, "add_fused_lm_head", lambda model, **head: (heads.append(head), plain(model, **head))[1]
    )
    phases = [
        Phase(steps=2, max_tokens=8, temperature=temperature, rewards=SIGNAL) for temperature in (1.0, 0.7)
    ]
    grpo_trainer(params(phases=phases, trl={"cast_lm_head_to_fp32": True}), tiny_checkpoint, here).train()
    assert heads == [
        {"outputs": ("log_probs", "entropy"), "temperature": 0.7, "cast_lm_head_to_fp32": True},
        {"outputs": ("log_probs",), "temperature": 0.7, "cast_lm_head_to_fp32": True},
    ]
    assert not plain_heads, "ours would hide it"
