"""Packed microbatches have the log-probs, losses and gradients of one padded pass over all rows."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config
from trl import GRPOTrainer

from r1pipe.errors import ConfigError
from r1pipe.models.shared_prompts import Rows, same_prompts
from r1pipe.schema import LOSS_TYPES, GRPOParams, Phase, RewardSpec
from r1pipe.training.grpo.arguments import compiled_layers, grpo_arguments, token_microbatches
from r1pipe.training.grpo.completion_packs import (
    auto_tokens,
    deal,
    dealt_pack_count,
    loss_weights,
    pack_completions,
)
from r1pipe.training.grpo.training_batch import keep_groups_together
from tests.tiny_trainers import grpo_params, grpo_trainer

PROMPT, COMPLETION = 9, 14


def params(**changes: Any) -> GRPOParams:
    return grpo_params(Phase(steps=4, max_tokens=12, rewards=[RewardSpec(name="random")]), **changes)


def batch(rows: int = 20, seed: int = 0, device: torch.device | None = None) -> dict[str, torch.Tensor]:
    """A batch as TRL's loss takes it: prompts padded left, completions right, one row without counted tokens.

    Rows i and i + 7 have the same prompt.
    """
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 250, (rows, PROMPT + COMPLETION), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : row % 7] = 0
        ids[row, :PROMPT] = ids[row % 7, :PROMPT]
        mask[row, PROMPT + COMPLETION - row % 11 :] = 0
    mask[3, PROMPT:] = 0
    logps = -3 - 3 * torch.rand(rows, COMPLETION, generator=draw)
    tensors = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": mask[:, :PROMPT],
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask[:, PROMPT:],
        "advantages": torch.randn(rows, generator=draw),
        "old_per_token_logps": logps,
        "ref_per_token_logps": logps + 0.1,
        "num_items_in_batch": mask[:, PROMPT:].sum(),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def gradient(trainer: Any, loss: torch.Tensor) -> torch.Tensor:
    loss.backward()
    gradients = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    trainer.model.zero_grad()
    return gradients


def close(ours: torch.Tensor, theirs: torch.Tensor, bound: float = 1e-5) -> None:
    assert (ours - theirs).norm() <= bound * theirs.norm(), (ours - theirs).norm() / theirs.norm()


@pytest.fixture
def trainer(tiny_checkpoint, here):
    trainer = grpo_trainer(params(microbatch_tokens=60), tiny_checkpoint, here)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()  # as in a training step; otherwise there is nothing to cut up
    assert trainer.log_probs.packed and trainer.model.config._attn_implementation == "r1pipe_varlen"
    assert trainer.pack_budget.shared and trainer.whole_groups
    return trainer


@pytest.mark.parametrize("grad", [False, True])
def test_packed_log_probs_are_those_of_the_padded_pass(trainer, grad):
    data = batch(device=trainer.accelerator.device)
    ids, mask = (
        torch.cat([data[f"prompt_{name}"], data[f"completion_{name}"]], 1) for name in ("ids", "mask")
    )
    ids = ids.masked_fill(mask == 0, trainer._tokenizer.pad_token_id)
    counts = mask[:, PROMPT:].bool()
    with torch.set_grad_enabled(grad):
        theirs, their_entropy, _ = GRPOTrainer._get_per_token_logps_and_entropies(
            trainer, trainer.model, ids, mask, COMPLETION, compute_entropy=True
        )
        ours, entropy, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, COMPLETION, compute_entropy=True
        )
    close(ours[counts], theirs[counts])
    close(entropy[counts], their_entropy[counts])
    assert not ours[~counts].any()
    if grad:
        close(gradient(trainer, (ours * counts).sum()), gradient(trainer, (theirs * counts).sum()))


def test_metrics_of_packs_are_weighted_by_their_tokens(trainer):
    """Not the mean of the packs' means."""
    data = batch(device=trainer.accelerator.device)
    GRPOTrainer._compute_loss(trainer, trainer.model, data)
    whole = {name: values[0] for name, values in trainer._metrics["train"].items()}
    trainer._metrics["train"].clear()
    trainer._metrics["train"]["kl"].append(7.0)  # of an earlier minibatch
    trainer._compute_loss(trainer.model, data)
    trainer.model.zero_grad()
    packs = dict(trainer._metrics["train"])
    assert packs["kl"] == [7.0, pytest.approx(whole["kl"], rel=1e-5)]
    for name in ("entropy", "clip_ratio/region_mean", "clip_ratio/low_min", "clip_ratio/high_max"):
        assert packs[name] == [pytest.approx(whole[name], rel=1e-5, abs=1e-7)], name


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_loss_in_packs_is_the_loss_of_all_rows(trainer, loss_type, level):
    """Value and gradient, whatever TRL normalises by; a pack holds 60 tokens, the batch has about 300."""
    trainer.loss_type, trainer.importance_sampling_level = loss_type, level
    data = batch(device=trainer.accelerator.device)
    whole = GRPOTrainer._compute_loss(
        trainer, trainer.model, data
    )  # one padded pass: our log-probs take all rows as one pack
    value, wanted = whole.item(), gradient(trainer, whole)
    assert (
        len(trainer.pack_budget.packs(data["prompt_ids"], data["prompt_mask"], data["completion_mask"])) > 4
    )
    loss = trainer._compute_loss(trainer.model, data)
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6)
    close(gradient(trainer, loss), wanted)


def test_the_entropy_bonus_is_the_mean_over_all_tokens(trainer):
    """Not the mean of the packs' means."""
    trainer.loss_type = "dapo"
    data = batch(device=trainer.accelerator.device)
    plain = trainer._compute_loss(trainer.model, data).item()
    trainer.model.zero_grad()
    trainer.entropy_coef, trainer._entropy_bonus_enabled = 0.5, True
    with_bonus = trainer._compute_loss(trainer.model, data).item()
    ids, mask = (
        torch.cat([data[f"prompt_{name}"], data[f"completion_{name}"]], 1) for name in ("ids", "mask")
    )
    entropy = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, mask, COMPLETION, compute_entropy=True
    )[1]
    assert plain - with_bonus == pytest.approx(
        0.5 * entropy[data["completion_mask"].bool()].mean().item(), rel=1e-4
    )
    assert trainer.entropy_coef == 0.5


def test_the_entropy_bonus_has_a_gradient(trainer):
    """It was detached once: the logged loss changed, and nothing else."""
    trainer.loss_type = "dapo"
    data = batch(device=trainer.accelerator.device)
    plain = gradient(trainer, trainer._compute_loss(trainer.model, data))
    trainer.entropy_coef, trainer._entropy_bonus_enabled = 0.5, True
    with_bonus = gradient(trainer, trainer._compute_loss(trainer.model, data))
    ids, mask = (
        torch.cat([data[f"prompt_{name}"], data[f"completion_{name}"]], 1) for name in ("ids", "mask")
    )
    ids = ids.masked_fill(mask == 0, trainer._tokenizer.pad_token_id)
    logits_BCV = trainer.model(input_ids=ids, attention_mask=mask).logits[:, -COMPLETION - 1 : -1]
    every_BCV = logits_BCV.log_softmax(-1)
    entropy_BC = -(every_BCV.exp() * every_BCV).sum(-1)
    close(
        plain - with_bonus, gradient(trainer, 0.5 * entropy_BC[data["completion_mask"].bool()].mean()), 1e-3
    )


def test_training_in_packs_is_training_in_rows(tiny_checkpoint, tmp_path):
    """Four updates over two rollouts, the same draws and minibatches: the same weights."""
    from r1pipe.here import Here

    weights = []
    for name, tokens in {"rows": "rows", "packs": 64}.items():
        folder = tmp_path / name
        folder.mkdir()
        trainer = grpo_trainer(
            params(microbatch_tokens=tokens, whole_groups=True),
            tiny_checkpoint,
            Here("test", folder, folder / "m.jsonl", folder / "p.jsonl"),
        )
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        steps = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert len(steps) == 4 and all("entropy" in entry and "kl" in entry for entry in steps)
    close(weights[1], weights[0], 1e-4)


@pytest.mark.slow
def test_minibatches_hold_whole_groups_where_prompts_are_shared(tiny_checkpoint, here):
    """TRL shuffles the responses of a rollout: a minibatch of half a rollout had responses of nearly every group."""

    def prompts_of_minibatches(whole: Any) -> list[list[int]]:
        trainer = grpo_trainer(params(microbatch_tokens=64, whole_groups=whole), tiny_checkpoint, here)
        minibatches: list[dict[str, Any]] = []
        loss = trainer.updates.loss

        def noted(model: Any, inputs: dict[str, Any], trl_loss: Any) -> torch.Tensor:
            minibatches.append(inputs)
            return loss(model, inputs, trl_loss)

        trainer.updates.loss = noted
        trainer.train()
        return [same_prompts(of["prompt_ids"], of["prompt_mask"]) for of in minibatches]

    prompts = {whole: prompts_of_minibatches(whole) for whole in (True, False, "auto")}
    assert all([len(numbers) for numbers in found] == [16] * 4 for found in prompts.values())
    assert prompts["auto"] == prompts[True]
    assert all(numbers == [row // 4 for row in range(16)] for numbers in prompts[True])
    assert any(max(numbers) > 4 for numbers in prompts[False])


def test_keeping_groups_together_loses_nothing():
    """Also where a group does not fit into a part; and numbers of the whole rollout stay what they are."""
    groups = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0])
    batches = [
        {
            "prompt_ids": groups[part, None] + 5,
            "prompt_mask": torch.ones(3, 1),
            "row": torch.arange(9)[part],
            "texts": [f"text {row}" for row in range(9)[part]],
            "num_items_in_batch": torch.tensor(30),
            "none": None,
        }
        for part in (slice(0, 3), slice(3, 6), slice(6, 9))
    ]
    kept = keep_groups_together(batches)
    assert [batch["row"].tolist() for batch in kept] == [[0, 4, 8], [1, 3, 7], [2, 5, 6]]
    assert [batch["texts"][1] for batch in kept] == ["text 4", "text 3", "text 5"]
    assert all(batch["num_items_in_batch"] == 30 and batch["none"] is None for batch in kept)
    names = ("prompt_ids", "prompt_mask", "row")
    uneven = [{name: batch[name][:2] for name in names} for batch in batches]
    assert [batch["row"].tolist() for batch in keep_groups_together(uneven)] == [[0, 4], [1, 3], [7, 6]]


def test_a_row_without_counted_tokens_is_left_out_of_the_pack():
    data = batch(6)
    ids, mask = (
        torch.cat([data[f"prompt_{name}"], data[f"completion_{name}"]], 1) for name in ("ids", "mask")
    )
    pack = pack_completions(ids, mask, COMPLETION)
    assert pack.inputs["input_ids"].shape[1] == int(mask.sum() - mask[3].sum())
    assert 3 not in pack.rows and len(pack.inputs["cu_seq_lens_q"]) == 6
    assert (pack.inputs["shift_labels"] != -100).sum() == len(pack.rows) == data["completion_mask"].sum()
    nothing = pack_completions(
        ids,
        mask * 0
        + data["prompt_mask"].repeat(1, 3)[:, : mask.shape[1]] * (torch.arange(mask.shape[1]) < PROMPT),
        COMPLETION,
    )
    assert nothing.inputs["input_ids"].numel() > 0 and len(nothing.rows) == 0


def test_packs_have_the_same_shape_on_every_rank_and_similar_sizes():
    draw = torch.Generator().manual_seed(0)
    ranks = [torch.randint(10, 1000, (64,), generator=draw).tolist() for _ in range(3)]
    each_its_own = [Rows([0] * 64, lengths, range(64)) for lengths in ranks]
    # prompts of whole groups, and of parts of groups
    of_groups = [Rows([100] * 64, lengths, [row // 8 for row in range(64)]) for lengths in ranks]
    of_parts = [
        Rows([100] * 64, lengths, torch.randint(0, 40, (64,), generator=draw).tolist()) for lengths in ranks
    ]
    shapes = [[len(pack) for pack in deal(rows, 7)] for rows in [*each_its_own, *of_groups, *of_parts]]
    assert all(shape == shapes[0] for shape in shapes)
    for rows in [*each_its_own, *of_groups, *of_parts]:
        sizes = [rows.tokens(pack) for pack in deal(rows, 7)]
        assert sorted(i for pack in deal(rows, 7) for i in pack) == list(range(64))
        if rows in each_its_own:
            assert max(sizes) < 1.15 * min(sizes) + 200
        count = dealt_pack_count(rows, 5000)
        assert max(rows.tokens(pack) for pack in deal(rows, count)) <= 5000
    assert dealt_pack_count(Rows([0] * 3, [900, 900, 10], range(3)), 100) == 3, (
        "a row longer than the budget is alone"
    )
    assert dealt_pack_count(Rows([0], [1], [0]), 100) == 1


def test_a_group_is_dealt_to_one_pack_where_that_unbalances_nothing():
    alike = Rows([300] * 32, [100] * 32, [row % 4 for row in range(32)])
    packs = deal(alike, 2)
    assert [len({alike.groups[row] for row in pack}) for pack in packs] == [2, 2]
    assert [alike.tokens(pack) for pack in packs] == [2 * 299 + 16 * 101] * 2
    # one group is much longer than the other: its responses are dealt to both packs, as ever
    uneven = Rows([10] * 16, [1000] * 8 + [10] * 8, [row // 8 for row in range(16)])
    assert [sum(row < 8 for row in pack) for pack in deal(uneven, 2)] == [4, 4]


def test_weights_add_up():
    assert sum(loss_weights("grpo", [3, 5], [10, 90])) == pytest.approx(1)
    assert loss_weights("bnpo", [3, 5], [10, 90]) == [0.1, 0.9]
    assert loss_weights("dapo", [3, 5], [10, 90]) == [1, 1]


def test_auto_tokens_follow_the_memory_and_the_model():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    def of(free: float, checkpointing: bool = False, compiled: bool = False, **sizes: int) -> int:
        with torch.device("meta"):
            model = Qwen2ForCausalLM(Qwen2Config(**sizes))
        return auto_tokens(model, free, checkpointing, compiled)

    half_b = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
    seven_b = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    assert of(20e9, **seven_b) < of(20e9, **half_b) < of(40e9, **half_b) <= 32768
    assert of(20e9, checkpointing=True, **seven_b) > of(20e9, compiled=True, **seven_b) > of(20e9, **seven_b)
    with pytest.warns(UserWarning, match="1024 tokens does not fit: there is room for 0"):
        assert of(-1e9, **seven_b) == 1024


def test_memory_is_kept_free_only_for_what_is_not_allocated_yet(tiny_checkpoint, here):
    """12 bytes a parameter were kept free after a resume as well, when Adam's moments had been counted as taken."""
    trainer = grpo_trainer(params(), tiny_checkpoint, here)
    size = sum(p.numel() for p in trainer.model.parameters())
    assert trainer.pack_budget.still_to_come() == 12 * size
    trainer.train()
    assert trainer.pack_budget.still_to_come() == 4 * size, (
        "gradients are freed after each update, moments stay"
    )


@pytest.mark.parametrize(
    ("changes", "parameters", "compiled"),
    [
        ({}, 10**9, True),
        ({}, 10**7, False),
        ({"steps": 49}, 10**9, False),
        ({"steps": 1, "compile": True}, 10, True),
        ({"microbatch_tokens": "rows"}, 10**9, False),
        ({"experts": 2}, 10**9, False),
        ({"lora": {"r": 4}, "beta": 0.0}, 10**9, False),
        ({"lora": {"r": 4}, "beta": 0.0, "rollout": "vllm"}, 10**9, True),
        ({"trl": {"use_transformers_continuous_batching": True}}, 10**9, False),
    ],
)
def test_layers_are_compiled_where_it_pays(changes, parameters, compiled, here, monkeypatch):
    rest = {name: value for name, value in changes.items() if name not in ("steps", "experts")}
    chosen = params(
        phases=[Phase(steps=changes.get("steps", 50), rewards=[RewardSpec(name="accuracy")])], **rest
    )
    config = Qwen2Config(**({"num_experts_per_tok": changes["experts"]} if "experts" in changes else {}))
    model = SimpleNamespace(num_parameters=lambda: parameters, config=config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compiled_layers(chosen, here, model) == ("compile" in changes), "not by itself on a CPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compiled_layers(chosen, here, model) == compiled
    here.profile = "zero3"
    with pytest.warns(UserWarning, match="compile is ignored") if "compile" in changes else nullcontext():
        assert not compiled_layers(chosen, here, model)


def test_microbatches_are_packs_on_a_gpu_and_rows_on_a_cpu(here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert token_microbatches(params()) == "auto", "by the GPU's memory"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert token_microbatches(params()) is None, "rows on a CPU, as ever"
    assert token_microbatches(params(microbatch_tokens=4096)) == 4096
    arguments = grpo_arguments(params(microbatch_tokens=4096), here, 0)
    assert (
        arguments["per_device_train_batch_size"],
        arguments["gradient_accumulation_steps"],
        arguments["steps_per_generation"],
    ) == (16, 1, 2)
    with pytest.raises(ConfigError, match="use_adaptive_entropy"):
        token_microbatches(params(microbatch_tokens=64, trl={"use_adaptive_entropy": True}))
    with pytest.raises(ValueError, match="exclude each other"):
        params(microbatch_tokens=64, microbatch=4)
