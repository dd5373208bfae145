"""Rewards computed while responses are still drawn are the rewards computed at the end."""

from __future__ import annotations

from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from r1pipe.errors import ConfigError
from r1pipe.rewards import REWARDS
from r1pipe.rewards.scoring import score
from r1pipe.schema import Phase, RewardSpec
from r1pipe.training.grpo import sampling
from r1pipe.training.grpo.early_rewards import EarlyRewards
from r1pipe.training.grpo.vllm_rollouts import reporting
from tests.tiny_trainers import ROWS, grpo_params, grpo_trainer

SPECS = [
    RewardSpec(name="accuracy"),
    RewardSpec(name="length", params={"max_tokens": 3, "soft_tokens": 2}),
    RewardSpec(name=f"{__name__}:rank"),
]
ANSWERED: list[dict[str, Any]] = [
    {"prompt": "1+1", "answer": "2"},
    {"prompt": "2+2", "answer": "4"},
    {"prompt": "?", "domain": "general"},
]
TEXTS = ["<think>so</think>2", "<think>so</think>5", "hello"]
IDS = [[0, 7], [1, 7, 7], [2]]


def rank(completions: list[str], **columns: Any) -> list[float | None]:
    """A reward of the user's, which compares the responses of a batch."""
    return [float(sorted(completions).index(completion)) for completion in completions]


def read(ids: list[list[int]]) -> list[str]:
    return [TEXTS[response[0]] for response in ids]


def patiently(early: EarlyRewards, *_: object) -> None:
    """In the place of __exit__: judge everything that was reported, however slow this machine is."""
    early._ended.put(None)


def test_early_results_are_those_of_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EarlyRewards, "__exit__", patiently)
    with EarlyRewards(SPECS, ANSWERED, read) as early:
        early.add([0], IDS[:1])
        early.add([2, 1], [IDS[2], IDS[1]])
    known = early.results(IDS)
    assert known == {"accuracy": {0: 1.0, 1: 0.0}}, "what computes here and what compares waits for all"
    rows = [{**row, "tokens": len(ids)} for row, ids in zip(ANSWERED, IDS, strict=True)]
    assert score(SPECS, TEXTS, rows, early=known) == score(SPECS, TEXTS, rows)
    assert early.results([IDS[0], [1, 7], IDS[2]])["accuracy"] == {0: 1.0}, "it was drawn again"


def test_a_response_reported_twice_is_judged_as_it_was_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EarlyRewards, "__exit__", patiently)
    with EarlyRewards(SPECS, ANSWERED, read) as early:
        early.add([0], [[1]])
        early.add([0], [[0]])
    assert early.results([[0], [1], [2]]) == {"accuracy": {0: 1.0}}


def test_a_response_that_was_not_begun_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = Event(), Event()
    monkeypatch.setitem(
        REWARDS,
        "accuracy",
        lambda completions, **columns: (begun.set(), go.wait(9), [1.0] * len(completions))[2],
    )
    with EarlyRewards(SPECS[:1], ANSWERED, read) as early:
        early.add([0], IDS[:1])
        assert begun.wait(9)
        early.add([1], IDS[1:2])
    go.set()
    assert early.results(IDS) == {"accuracy": {0: 1.0}}


def test_a_mistake_is_raised_where_rewards_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    died = []
    monkeypatch.setattr("threading.excepthook", died.append)
    wrong = [RewardSpec(name="accuracy", params={"strictly": True})]
    with EarlyRewards(wrong, ANSWERED, read) as early:
        early.add([0], IDS[:1])
        early._thread.join(9)
    assert early.results(IDS) == {} and not early._thread.is_alive() and not died
    with pytest.raises(ConfigError, match="strictly"):
        score(wrong, TEXTS, ANSWERED)


@pytest.mark.parametrize("resample", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_training_with_early_rewards_is_training_without(
    resample: int, tiny_checkpoint, tmp_path, monkeypatch
) -> None:
    from r1pipe.here import Here

    monkeypatch.setattr(
        sampling, "end_ids", lambda model, tokenizer: [tokenizer.eos_token_id, *range(20, 60)]
    )
    monkeypatch.setattr(EarlyRewards, "__exit__", patiently)
    specs = [RewardSpec(name=name) for name in ("accuracy", "repetition", "random", f"{__name__}:rank")]
    results = []
    for early in (False, True):
        folder = tmp_path / str(early)
        folder.mkdir()
        params = grpo_params(
            Phase(steps=4, max_tokens=24, rewards=specs), resample=resample, eval_every=2, eval_prompts=2
        )
        spare = (lambda number: iter([(row["prompt"], row) for row in ROWS])) if resample else None
        trainer = grpo_trainer(
            params, tiny_checkpoint, Here("test", folder, folder / "m.jsonl", folder / "p.jsonl"), spare=spare
        )
        assert trainer.rewards.early == (trainer.accelerator.device.type != "cpu"), "not by itself on a CPU"
        trainer.rewards.early = early
        trainer.train()
        trainer.score_heldout(ROWS[:2], [[5, 6], [7]])
        assert trainer.rollout is None, "nothing is left of the last one"
        logged = [entry for entry in trainer.state.log_history if "reward" in entry]
        results.append((torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), logged))
    (late_weights, late), (weights, logged) = results
    if weights.is_cuda:
        # Sums of a GPU's backward pass come in another order each time.
        assert torch.allclose(weights, late_weights, atol=1e-4)
    else:
        assert torch.equal(weights, late_weights)
    assert all(entry["rewards/early"] > 0.3 for entry in logged) and not any(
        "rewards/early" in entry for entry in late
    )
    rewards = [[entry["reward"] for entry in log] for log in (logged, late)]
    assert rewards[0] == (pytest.approx(rewards[1], abs=0.05) if weights.is_cuda else rewards[1])


def test_a_vllm_engine_reports_finished_responses() -> None:
    def output(number: int, finished: bool) -> Any:
        return SimpleNamespace(
            request_id=str(number), finished=finished, outputs=[SimpleNamespace(token_ids=(number, 1))]
        )

    class Engine:
        steps = iter([[output(7, False)], [output(8, True)], [output(7, True), output(9, False)]])

        def step(self) -> Any:
            return next(self.steps)

    engine = Engine()
    generation = SimpleNamespace(
        mode="colocate",
        tensor_parallel_size=1,
        llm=SimpleNamespace(llm_engine=engine, request_counter=SimpleNamespace(counter=7)),
    )
    reports: list[Any] = []
    with reporting(generation, lambda *report: reports.append(report)):
        assert [len(engine.step()) for _ in range(3)] == [1, 1, 2]
    assert reports == [([1], [[8, 1]]), ([0], [[7, 1]])] and not vars(engine), "the engine is as it was"
    with reporting(SimpleNamespace(mode="server"), reports.append):
        pass
