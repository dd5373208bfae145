"""R1GRPOTrainer computes what TRL's does, with phases and without padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from noted_graphs import attend_by_operator, noting

from r1pipe.generation.decoding import decode
from r1pipe.here import Here
from r1pipe.models.loading import compile_layers
from r1pipe.schema import GRPOParams, Phase, RewardSpec
from r1pipe.training.grpo import log_probs
from r1pipe.training.grpo.compiling import rows_like_a_minibatch
from r1pipe.training.grpo.prompt_order import order_prompts, phase_at
from r1pipe.training.grpo.rollout import OldLogProbs
from tests.tiny_trainers import ROWS, grpo_trainer, judged_rewards

REWARDS = [RewardSpec(name="accuracy"), RewardSpec(name="format", params={"form": "auto"})]


def params(**changes) -> GRPOParams:
    phases = [
        Phase(steps=4, max_tokens=10, rewards=REWARDS),
        Phase(steps=2, max_tokens=16, temperature=0.7, rewards=REWARDS),
    ]
    fields = {
        "lr": 1e-4,
        "num_generations": 4,
        "batch_size": 8,
        "minibatches_per_rollout": 2,
        "ref_replace_every": 2,
        "eval_every": 2,
        "eval_prompts": 4,
        "phases": phases,
    }
    return GRPOParams(**{**fields, **changes})


@pytest.fixture
def trainer(tiny_checkpoint, here):
    return grpo_trainer(params(), tiny_checkpoint, here)


def test_log_probs_are_those_of_the_padded_pass(trainer):
    """Moving rows to the left edge and sorting them by length changes no number that counts."""
    from trl import GRPOTrainer

    torch.manual_seed(0)
    ids = torch.randint(5, 250, (20, 9 + 14)).to(trainer.accelerator.device)
    mask = torch.ones_like(ids)
    for row in range(20):  # prompts padded left, completions padded right
        mask[row, : row % 7] = 0
        mask[row, 23 - row % 11 :] = 0
    args = (trainer.model, ids, mask, 14)
    theirs, their_entropy, _ = GRPOTrainer._get_per_token_logps_and_entropies(
        trainer, *args, compute_entropy=True
    )
    ours, entropy, _ = trainer._get_per_token_logps_and_entropies(*args, compute_entropy=True)
    counts = mask[:, 9:].bool()
    assert torch.allclose(ours[counts], theirs[counts], atol=1e-5)
    assert torch.allclose(entropy[counts], their_entropy[counts], atol=1e-5)

    def gradient(logps):
        trainer.model.zero_grad()
        (logps * counts).sum().backward()
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    assert torch.allclose(gradient(ours), gradient(theirs), atol=1e-4)


def test_old_log_probs_are_those_of_the_draw(trainer, monkeypatch):
    """Taken from sampling, at each phase's temperature, they are what a forward pass over the rollout gives."""
    seen = []
    score = type(trainer)._generate_and_score_completions

    def check(self, inputs):
        output = score(self, inputs)
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        assert self.rollout is None, "log-probs asked for now are computed"
        with torch.no_grad():
            fresh, _, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, output["completion_ids"].shape[1]
            )
        counts = output["completion_mask"].bool()
        assert torch.allclose(output["old_per_token_logps"][counts], fresh[counts], atol=1e-4)
        seen.append(self.temperature)
        return output

    monkeypatch.setattr(type(trainer), "_generate_and_score_completions", check)
    trainer.train()
    assert seen == [1.0, 1.0, 0.7]


@pytest.mark.parametrize("recompute", [False, True])
def test_layers_are_compiled_before_the_first_rollout(tiny_checkpoint, here, monkeypatch, recompute):
    """Each way in which they are called; no rollout, and no update, compiles anything."""
    attend_by_operator(monkeypatch)
    graphs: list = []
    backend = noting(graphs)
    torch._dynamo.reset()
    monkeypatch.setattr(log_probs, "compile_layers", lambda model: compile_layers(model, backend=backend))
    trainer = grpo_trainer(params(microbatch_tokens=64), tiny_checkpoint, here, compiled=True)
    if recompute:
        monkeypatch.setattr(trainer, "_plan_old_log_probs", lambda: OldLogProbs.RECOMPUTE)

    before: list[int] = []
    make = trainer._make_batch
    monkeypatch.setattr(trainer, "_make_batch", lambda inputs: (before.append(len(graphs)), make(inputs))[1])
    trainer.train()
    assert before == [2 + recompute] * 3 and len(graphs) == 2 + recompute


@pytest.mark.parametrize("tokens", [20, 200, 16384])
def test_the_pass_before_the_first_rollout_is_like_one_of_training(trainer, tokens):
    ids, mask, width = rows_like_a_minibatch(trainer, tokens)
    assert ids.shape == mask.shape and ids.shape[1] > width > 1
    assert 3 <= len(ids) <= trainer.args.per_device_train_batch_size
    assert mask.sum() <= max(tokens, 3 * ids.shape[1])
    assert len({*mask.sum(1).tolist()}) > 1, "no size is the same by chance"


def test_the_prompt_of_a_group_is_read_once(trainer, monkeypatch):
    from trl import GRPOTrainer

    asked: list[list] = []
    tokenize = GRPOTrainer._tokenize_prompts

    def counted(self, prompts):
        asked.append(prompts)
        return tokenize(self, prompts)

    monkeypatch.setattr(GRPOTrainer, "_tokenize_prompts", counted)
    for first, second in (("1 + 1 ?", "2 + 2 ?"), *[[[{"role": "user", "content": text}] for text in "ab"]]):
        # A prompt that comes back behind another one is another group.
        prompts = [first] * 4 + [second] * 4 + [first] * 4
        ids, images, fields = trainer._tokenize_prompts(prompts)
        assert asked.pop() == [first, second, first]
        assert (ids, images, fields) == tokenize(trainer, prompts)
        assert ids[0] is not ids[1], "TRL may append to one of them"


def test_on_a_gpu_the_policys_twin_draws_with_the_weights_of_now(trainer, monkeypatch):
    """Without graphs: a CPU that passes for a device that has them."""
    from r1pipe.training.grpo import sampling as module

    monkeypatch.setattr(module, "graph_obstacle", lambda model: "")
    drawn = []

    def watched(model, *args, graphed, **more):
        assert model is trainer.model and graphed.model.dtype == torch.bfloat16
        now = dict(model.named_parameters())
        assert all(torch.equal(weight, now[name].bfloat16()) for name, weight in graphed.weights.items())
        drawn.append(graphed.model.lm_head.weight.clone())
        return decode(model, *args, graphed=graphed, **more)

    monkeypatch.setattr(module, "decode", watched)
    trainer.args.bf16 = True
    trainer.train()
    assert len(drawn) == 3 and not torch.equal(drawn[0], drawn[-1])
    assert trainer.model.training and trainer.model.dtype == torch.float32
    assert trainer.sampler.graphed._columns == 128, "room for the longest phase from the first"


def test_the_policy_has_no_twin_on_a_cpu_when_sharded_or_without_room(tiny_checkpoint, here, monkeypatch):
    from r1pipe.training.grpo import sampling as module

    def trainer_():
        return grpo_trainer(params(), tiny_checkpoint, here)

    monkeypatch.setattr(module, "graph_obstacle", lambda model: "it is not on a GPU")
    trainer = trainer_()
    assert trainer.sampler.graphed_policy(trainer.model, 8, 20) is None, "on a CPU"
    monkeypatch.setattr(module, "graph_obstacle", lambda model: "")
    assert trainer.sampler.graphed_policy(trainer.model, 8, 20).model.dtype == torch.float32, (
        "bf16 is off, as autocast is"
    )
    trainer.pack_budget.by_memory, trainer.pack_budget.tokens = True, 4096
    assert trainer.sampler.graphed_policy(trainer.model, 8, 20) is trainer.sampler.graphed
    assert trainer.sampler.graphed_policy(trainer.model, 64, 20) is None, (
        "packs were settled by what was free beside the cache"
    )
    monkeypatch.setattr(module, "free_memory", lambda device: trainer.pack_budget.still_to_come() + 10_000)
    trainer = trainer_()
    assert trainer.sampler.graphed_policy(trainer.model, 8, 20) is None, (
        "no room beside what the optimizer will take"
    )
    monkeypatch.undo()
    monkeypatch.setattr(module, "graph_obstacle", lambda model: "")
    trainer.sampler.sharded = True
    assert trainer.sampler.graphed_policy(trainer.model, 8, 20) is None, (
        "it would hold all weights, where each rank has a part"
    )


def test_the_cache_has_room_for_the_widest_prompt_from_the_first(tiny_checkpoint, here, monkeypatch):
    from r1pipe.training.grpo import sampling as module

    monkeypatch.setattr(module, "graph_obstacle", lambda model: "")
    trainer = grpo_trainer(params(), tiny_checkpoint, here, widest_prompt=200)
    graphed = trainer.sampler.graphed_policy(trainer.model, 8, 20)
    assert graphed._columns == 256, "200 and the 16 tokens of the longest phase, in steps of 128"
    trainer.pack_budget.by_memory, trainer.pack_budget.tokens = True, 4096
    assert trainer.sampler.graphed_policy(trainer.model, 8, 200) is graphed, "later it could not grow"

    # where the widest does not fit, the rollout at hand decides
    def fits(config, rows, columns, *sizes):
        return columns <= 128

    monkeypatch.setattr("r1pipe.generation.cuda_graphs.cache_fits", fits)
    trainer = grpo_trainer(params(), tiny_checkpoint, here, widest_prompt=200)
    assert trainer.sampler.graphed_policy(trainer.model, 8, 20)._columns == 128


def test_a_training_that_goes_on_within_a_rollout_draws_the_next_with_graphs(
    tiny_checkpoint: Path, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its updates come first: packs took the memory, no cache fitted beside them, and a plain loop drew to the end."""
    from r1pipe.training.grpo import sampling

    monkeypatch.setattr(sampling, "graph_obstacle", lambda model: "")
    trainer = grpo_trainer(params(), tiny_checkpoint, here, widest_prompt=20)
    # what a checkpoint within a rollout brings
    trainer._step = 1
    trainer._buffered_inputs = [{"completion_ids": torch.zeros(8, 4)}, {"completion_ids": torch.zeros(8, 4)}]
    trainer.state.global_step = 1
    trainer.load_more(tmp_path)
    # the updates settle the size of packs
    trainer.pack_budget.by_memory, trainer.pack_budget.tokens = True, 4096
    assert trainer.sampler.graphed_policy(trainer.model, 16, 20) is not None


@pytest.mark.parametrize(("fits_now", "taken"), [(7680, 8192), (9216, 8192), (8192, 8192), (4096, 4096)])
def test_packs_are_those_of_the_attempt_before(
    tiny_checkpoint: Path, here: Here, monkeypatch: pytest.MonkeyPatch, fits_now: int, taken: int
) -> None:
    """Other packs sum in another order, and free memory is never quite the same."""
    from r1pipe.training.grpo import pack_budget

    settled = {}
    for attempt, fits in {"first": 8192, "second": fits_now}.items():
        monkeypatch.setattr(pack_budget, "auto_tokens", lambda *given, fits=fits: fits)
        trainer = grpo_trainer(params(), tiny_checkpoint, here)
        trainer._tr_loss = torch.zeros(())
        trainer._total_loss_scalar = 0.0
        trainer._globalstep_last_logged = 0
        trainer.pack_budget.by_memory, trainer.pack_budget.tokens = True, "auto"
        trainer.take_own_state(trainer.own_state() | settled)
        trainer.pack_budget.size()
        settled = {"pack_tokens": trainer.own_state()["pack_tokens"]}
        assert settled["pack_tokens"] == (8192 if attempt == "first" else taken)


def test_a_row_that_cannot_be_scored_leaves_the_advantages_of_its_group_alone(trainer):
    """None is not zero: TRL alone would have punished the policy for a verifier's failure."""
    trainer.rewards.rows = [{"id": "a", "prompt": "p", "answer": "4", "domain": "math", "language": "en"}]
    texts = ["<think>two and two</think>\\boxed{4}", "<think>two and two</think>\\boxed{5}", "no"]
    whole = judged_rewards(trainer, texts, [1, 1, 1])
    assert whole.nansum(1).tolist() == [2.0, 1.0, 0.0]
    trainer.rewards.rows = [
        {"id": "b", "prompt": "p", "answer": "\\frac{1}{", "domain": "math", "language": "en"}
    ]
    assert torch.isnan(judged_rewards(trainer, texts, [1, 1, 1])).all()


def test_phases_change_length_and_temperature_while_the_optimizer_goes_on(tiny_checkpoint, here, tmp_path):
    from r1pipe.training.grpo.grpo_training import train_grpo

    out = tmp_path / "out"
    out.mkdir()
    metrics = train_grpo(
        checkpoint=tiny_checkpoint,
        prompts={"prompts": ROWS},
        heldout=ROWS[:4],
        params=params(keep="best"),
        template="chat",
        out=out,
        here=here,
        seed=0,
    )
    assert (out / "model.safetensors").is_file()
    assert (out / "chat_template.jinja").is_file()
    assert metrics["steps"] == 6
    lines = [json.loads(line) for line in here.metrics_path.read_text().splitlines()]
    longest = {
        line["step"]: line["completions/max_length"] for line in lines if "completions/max_length" in line
    }
    assert longest[1] == 10 and longest[5] == 16, "a random model fills the length it has"
    assert [line["step"] for line in lines if "heldout/accuracy" in line] == [0, 2, 4, 6]
    assert all("kl" in line for line in lines if "completions/max_length" in line)


def test_the_reference_becomes_the_policy(trainer):
    trainer.train()
    policy, reference = (
        torch.cat([p.flatten() for p in m.parameters()]) for m in (trainer.model, trainer.ref_model)
    )
    assert torch.equal(policy, reference), "6 updates, replaced every 2"


def test_prompts_come_round_by_round_and_by_share():
    mixed = params(
        phases=[
            Phase(steps=4, rewards=REWARDS),
            Phase(steps=4, prompts={"prompts": 3, "general": 1}, rewards=REWARDS),
        ]
    )
    general = [{"id": f"g{i}"} for i in range(3)]
    order = order_prompts(mixed, {"prompts": ROWS, "general": general}, seed=1)
    assert len(order) == 4 * 4
    assert len({row["id"] for row in order[:8]}) == 8, "no prompt twice before all were used"
    assert sum(row["id"].startswith("g") for row in order[8:]) == 2
    assert order == order_prompts(mixed, {"prompts": ROWS, "general": general}, seed=1)
    assert phase_at(mixed, 3) is mixed.phases[0] and phase_at(mixed, 4) is mixed.phases[1]


def test_some_responses_of_a_rollout_are_shown(trainer):
    """The first response to each prompt, when one of the rollout's updates is a multiple of `responses_every`."""
    shown = trainer.here.metrics_path.with_name("responses.jsonl")
    judged_rewards(trainer, [f"<think>{i}</think>{i}" for i in range(8)], [5] * 8)
    trainer.state.global_step = 49
    judged_rewards(trainer, ["late"] * 4, [1] * 4)
    trainer.state.global_step = 51
    judged_rewards(trainer, ["not due"] * 4, [1] * 4)

    lines = [json.loads(line) for line in shown.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 49]
    first, second = lines[0]["responses"]
    assert first["prompt"] == "what is 0 + 1 ?" and first["response"] == "<think>0</think>0"
    assert second["response"] == "<think>4</think>4"
    assert first["reward"] == sum(first["rewards"].values())
