"""Rollouts through TRL's vLLM path, with a generator in vLLM's place that samples in this process."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from r1pipe.errors import ConfigError, MissingToolError
from r1pipe.generation.decoding import decode
from r1pipe.schema import GRPOParams, Phase, RewardSpec, VLLMRollout
from r1pipe.training.grpo.log_probs import LogProbs
from r1pipe.training.grpo.vllm_rollouts import (
    extract_logprobs,
    lighten,
    require_vllm,
    trl_extract_logprobs,
    vllm_arguments,
)
from tests.tiny_trainers import ROWS, grpo_trainer

RANDOM = [RewardSpec(name="random")]


def params(**changes: Any) -> GRPOParams:
    fields = {
        "lr": 1e-3,
        "num_generations": 4,
        "batch_size": 8,
        "minibatches_per_rollout": 1,
        "eval_every": 2,
        "eval_prompts": 3,
        "rollout": "vllm",
        "phases": [
            Phase(steps=2, max_tokens=10, rewards=RANDOM),
            Phase(steps=2, max_tokens=16, temperature=0.7, rewards=RANDOM),
        ],
    }
    return GRPOParams(**{**fields, **changes})


class Engine(SimpleNamespace):
    """vLLM's, whose step can be covered and uncovered."""

    def step(self) -> list[Any]:
        return []


class Sampled:
    """A stand-in for VLLMGeneration. Its log-probs are off by a little, and by a lot in each call's first response."""

    def __init__(
        self,
        *,
        model: Any,
        processing_class: Any,
        temperature: float,
        max_completion_length: int,
        **ignored: Any,
    ) -> None:
        self.model = model
        self.tokenizer = processing_class
        self.temperature = temperature
        self.max_completion_length = max_completion_length
        self.mode = "colocate"
        self.generation_kwargs: dict[str, Any] = {}
        self.enable_sleep_mode = False
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        engine = Engine()
        engine.model_executor = SimpleNamespace(driver_worker=worker)
        self.llm = SimpleNamespace(
            llm_engine=engine,
            request_counter=SimpleNamespace(counter=0),
            reset_prefix_cache=lambda: None,
            generate=lambda: None,
        )
        self.tensor_parallel_size = 1
        self.synced = 0
        self.calls: list[tuple[int, float, int]] = []

    def load_weights(self, weights: Any) -> None:
        self.synced += 1
        assert {name: weight.shape for name, weight in weights} == {
            name: weight.shape for name, weight in self.model.named_parameters()
        }

    def _iter_named_params(self) -> Any:
        return ((name, weight.data) for name, weight in self.model.named_parameters())

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> Any:
        self.calls.append((len(prompts), self.temperature, self.max_completion_length))
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        out, logps = decode(
            self.model,
            prompts,
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            eos_ids=[end],
            pad_id=pad,
            keep_logps=True,
        )
        off = [[0.01 * (-1) ** t for t in range(len(row))] for row in logps]
        off[0] = [-0.5] * len(off[0])
        return (
            prompts,
            out,
            [
                [[lp + d] for lp, d in zip(row, more, strict=True)]
                for row, more in zip(logps, off, strict=True)
            ],
            None,
        )


@pytest.fixture
def vllm(monkeypatch):
    import trl.trainer.grpo_trainer

    monkeypatch.setattr(trl.trainer.grpo_trainer, "VLLMGeneration", Sampled)


def logged(trainer: Any) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_phases_reach_vllm_and_gap_and_seconds_are_logged(vllm, tiny_checkpoint, here):
    trainer = grpo_trainer(params(minibatches_per_rollout=2), tiny_checkpoint, here)
    trainer.train()
    engine = trainer.vllm_generation
    assert [call for call in engine.calls if call[0] == 16] == [(16, 1.0, 10), (16, 0.7, 16)]
    assert engine.synced == 2, "once a rollout, since the policy changed"
    first, _, third, last = logged(trainer)
    for entry in (first, third):
        assert entry["sampling/sampling_logp_difference/max"] == pytest.approx(0.5, abs=1e-3)
        assert entry["sampling/masked"] == pytest.approx(1 / 16), (
            "the one response whose ratio is far above 3"
        )
    assert {
        "seconds/generation",
        "seconds/sync",
        "seconds/reward",
        "seconds/logps",
        "seconds/update",
        "tokens_per_second",
    } <= set(last)
    assert "seconds/update" not in third, "said with the rollout's last update"


def test_held_out_prompts_are_asked_through_vllm(vllm, tiny_checkpoint, here):
    trainer = grpo_trainer(params(), tiny_checkpoint, here)
    trainer.phase = trainer.params.phases[0]
    scores = trainer.score_heldout(ROWS[:3], [[5, 6], [7], [8, 9, 10]])
    assert trainer.vllm_generation.calls == [(3, 1.0, 10)] and scores["heldout/tokens"] > 0
    assert set(trainer.stopwatch.read()) == {"heldout"}, "no rollout's generation"


@pytest.mark.parametrize(
    ("mode", "tokens"),
    [
        ("sequence_mask", 64),
        *(
            pytest.param(mode, tokens, marks=pytest.mark.slow)
            for mode, tokens in (
                ("sequence_mask", "rows"),
                ("sequence_truncate", "rows"),
                ("sequence_truncate", 64),
                ("token_mask", "rows"),
                ("token_mask", 64),
                ("token_truncate", "rows"),
                ("token_truncate", 64),
            )
        ),
    ],
)
def test_a_rollout_of_one_update_needs_no_pass_for_its_old_log_probs(
    vllm, tiny_checkpoint, tmp_path, monkeypatch, mode, tokens
):
    """The correction from the update's own log-probs gives the weights and the log of TRL's pass before it."""
    from r1pipe.here import Here

    if tokens == "rows" and torch.cuda.is_available():
        pytest.skip("on a GPU padded rows go through TRL's own pass")
    results = []
    passes = []
    plain = LogProbs.compute

    def counting(self: Any, model: Any, *args: Any, **more: Any) -> Any:
        passes.append(model is self.trainer.model and not torch.is_grad_enabled())
        return plain(self, model, *args, **more)

    monkeypatch.setattr(LogProbs, plain.__name__, counting)
    for one_update in (True, False):
        folder = tmp_path / str(one_update)
        folder.mkdir()
        chosen = params(
            vllm=VLLMRollout(correction=mode, correction_cap=1.5, correction_floor=0.5),
            microbatch_tokens=tokens,
            eval_prompts=0,
        )
        trainer = grpo_trainer(
            chosen, tiny_checkpoint, Here("test", folder, folder / "m.jsonl", folder / "p.jsonl")
        )
        if not one_update:
            monkeypatch.setattr(trainer, "_one_update", lambda: False)
        passes.clear()
        trainer.train()
        assert sum(passes) == (0 if one_update else 4)
        results.append(
            (torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), logged(trainer))
        )
    (ours, ours_log), (theirs, theirs_log) = results
    assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    for name in ("loss", "sampling/sampling_logp_difference/max"):
        assert [entry[name] for entry in ours_log] == pytest.approx(
            [entry[name] for entry in theirs_log], rel=1e-3, abs=1e-5
        )


def test_our_fields_become_trls():
    arguments = vllm_arguments(
        params(vllm=VLLMRollout(memory=0.5, tensor_parallel=2, sleep=True, correction_cap=2))
    )
    assert (
        arguments["vllm_mode"],
        arguments["vllm_gpu_memory_utilization"],
        arguments["vllm_tensor_parallel_size"],
    ) == ("colocate", 0.5, 2)
    assert (
        arguments["vllm_enable_sleep_mode"] and arguments["vllm_importance_sampling_mode"] == "sequence_mask"
    )
    assert arguments["vllm_importance_sampling_clip_max"] == 2
    server = vllm_arguments(
        params(rollout="vllm-server", vllm=VLLMRollout(server_url="http://h:8000", correction="none"))
    )
    assert server["vllm_mode"] == "server" and server["vllm_server_base_url"] == "http://h:8000"
    assert (
        server["vllm_importance_sampling_correction"] is False and "vllm_gpu_memory_utilization" not in server
    )
    assert vllm_arguments(params(rollout="hf")) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollout": "hf", "vllm": {}}, "would be ignored"),
        ({"rollout": "vllm-server"}, "server_url"),
        ({"rollout": "vllm", "vllm": {"server_url": "http://h"}}, "server_url would be ignored"),
        (
            {"rollout": "vllm-server", "vllm": {"server_url": "http://h", "sleep": True}},
            "sleep would be ignored",
        ),
        ({"vllm": {"correction_floor": 4.0}}, "below correction_cap"),
    ],
)
def test_contradicting_fields_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        params(**changes)


@pytest.mark.parametrize(
    "stated",
    [
        {"rollout": "vllm", "vllm": {"memory": 0.4}},
        {"rollout": "vllm-server", "vllm": {"server_url": "http://h"}},
    ],
    ids=str,
)
def test_a_worker_reads_what_was_stated(stated):
    """Its config states every default, also those of the other way to reach vLLM."""
    chosen = params(**stated)
    assert type(chosen).model_validate(chosen.model_dump(mode="json")) == chosen


def train(checkpoint, here, out, chosen: GRPOParams) -> None:
    from r1pipe.training.grpo.grpo_training import train_grpo

    train_grpo(
        checkpoint=checkpoint,
        prompts={"prompts": ROWS},
        heldout=[],
        params=chosen,
        template="chat",
        out=out,
        here=here,
        seed=0,
    )


def test_without_vllm_it_is_refused_before_anything_is_loaded(tiny_checkpoint, here, tmp_path):
    require_vllm(params(rollout="hf"))
    with pytest.raises(MissingToolError, match="rollout: vllm"):
        train(tiny_checkpoint, here, tmp_path, params())
    assert not any(tmp_path.joinpath("workdir").iterdir())


def test_a_rollback_cannot_share_the_process_with_vllm(tiny_checkpoint, here, tmp_path):
    chosen = params(guards={"non_finite": {"action": "rollback", "limit": 0}}, save_every=1)
    with pytest.raises(ConfigError, match="vLLM in this process"):
        train(tiny_checkpoint, here, tmp_path, chosen)


class Flat(list):
    """vLLM's FlatLogprobs as far as both functions read it: position by position dictionaries, beside flat lists."""

    def __init__(self, token_ids: list[int], logprobs: list[float], each: int = 1) -> None:
        self.token_ids, self.logprobs, self.start_indices = (
            token_ids,
            logprobs,
            list(range(0, len(logprobs), each)),
        )
        items = [
            (token, SimpleNamespace(logprob=value, rank=i % each))
            for i, (token, value) in enumerate(zip(token_ids, logprobs, strict=True))
        ]
        super().__init__(dict(items[i : i + each]) for i in self.start_indices)


@pytest.mark.parametrize("each", [1, 2])
def test_log_probs_are_read_as_trl_reads_them(each: int) -> None:
    outputs = [
        SimpleNamespace(
            outputs=[SimpleNamespace(logprobs=Flat([5, 6, 7, 8], [-0.5, float("nan"), -1.5, 0.0], each))]
        )
        for _ in range(2)
    ]
    assert extract_logprobs(outputs) == trl_extract_logprobs(outputs)  # type: ignore[arg-type]
    without = [SimpleNamespace(outputs=[SimpleNamespace(logprobs=None)])]
    assert extract_logprobs(without) == (None, None)


def test_the_collector_rests_while_vllm_generates() -> None:
    seen: list[bool] = []

    def generate(fail: bool) -> str:
        seen.append(gc.isenabled())
        if fail:
            raise RuntimeError("out of memory")
        return "drawn"

    generation = SimpleNamespace(mode="colocate", llm=SimpleNamespace(generate=generate))
    lighten(generation)
    assert generation.llm.generate(False) == "drawn"
    with pytest.raises(RuntimeError):
        generation.llm.generate(True)
    assert seen == [False, False] and gc.isenabled()
