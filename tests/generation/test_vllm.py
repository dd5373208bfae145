"""What the back end `vllm` asks of the engine and makes of its answer; the engine itself needs a GPU (tests/bench/bench_vllm_sampling.py)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from r1pipe.generation import Draw, Unit, load_generator, sample_seed
from r1pipe.generation.vllm import SECOND_RUNNER, second_runner_suits
from r1pipe.schema import Sampling
from r1pipe.training.models import load_tokenizer

ROWS = [{"id": name, "prompt": f"what is {name} ?"} for name in ("a", "b")]


class Engine:
    """Answers each sample with the digits of its seed, and cuts every second one."""

    refuses = False

    def __init__(self, model: str, **told: Any) -> None:
        self.tokenizer, self.asked = load_tokenizer(Path(model)), []
        if self.refuses and os.environ.get(SECOND_RUNNER) != "0":
            raise ValueError(f"{SECOND_RUNNER} does not yet support: hybrid/mamba models")

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        self.asked += params
        return [SimpleNamespace(outputs=[self._answer(asked.seed + k, k) for k in range(asked.n)]) for asked in params]

    def _answer(self, seed: int, k: int) -> Any:
        ids = self.tokenizer(" ".join(str(seed % 1000)), add_special_tokens=False)["input_ids"]
        ended = k % 2 == 0
        return SimpleNamespace(token_ids=tuple(ids + [self.tokenizer.eos_token_id] * ended), finish_reason="stop" if ended else "length")


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    stand_in: Any = ModuleType("vllm")
    stand_in.SamplingParams, stand_in.LLM = (lambda **told: SimpleNamespace(**told)), type("LLM", (Engine,), {})
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.setenv(SECOND_RUNNER, "")  # so that what the back end sets is taken back
    monkeypatch.delenv(SECOND_RUNNER)
    return stand_in.LLM


def backend(checkpoint: Path, **told: Any) -> Any:
    return load_generator(checkpoint, ROWS, Sampling(backend="vllm", n=4, **told), "chat", 7)


def test_samples_are_the_same_however_they_are_asked_for(tiny_checkpoint: Path, vllm: type[Engine]) -> None:
    """A request a row; the seed of a sample is of run, row and number, so a later round goes on where the first ended."""
    generator = backend(tiny_checkpoint)
    whole = generator.draw(Unit((0,), [Draw(0, 0, 4), Draw(1, 0, 4)]))
    assert [asked.n for asked in generator._engine.asked] == [4, 4]
    assert [asked.seed for asked in generator._engine.asked] == [sample_seed(7, "a", 0), sample_seed(7, "b", 0)]
    parts = generator.draw(Unit((0, 0), [Draw(0, 0, 1), Draw(1, 0, 1)])) + generator.draw(Unit((0, 1), [Draw(0, 1, 3), Draw(1, 1, 3)]))
    assert [one.text for one in whole] == [parts[i].text for i in (0, 2, 3, 4, 1, 5, 6, 7)]
    assert len({one.text for one in whole}) == 8


def test_the_end_token_is_counted_and_not_shown(tiny_checkpoint: Path, vllm: type[Engine]) -> None:
    drawn = backend(tiny_checkpoint).draw(Unit((0,), [Draw(0, 0, 2)]))
    seeds = [sample_seed(7, "a", 0) + k for k in range(2)]
    assert [one.text.replace(" ", "") for one in drawn] == [str(seed % 1000) for seed in seeds]
    assert [one.finished for one in drawn] == [True, False]
    tokenizer = load_tokenizer(tiny_checkpoint)
    bare = [len(tokenizer(" ".join(str(seed % 1000)), add_special_tokens=False)["input_ids"]) for seed in seeds]
    assert [one.tokens for one in drawn] == [bare[0] + 1, bare[1]]


@pytest.mark.parametrize(("said", "wanted"), [(None, "1"), ("0", "0")])
def test_the_second_runner_unless_somebody_said_otherwise(said: str | None, wanted: str, tiny_checkpoint: Path, vllm: type[Engine], monkeypatch: Any) -> None:
    if said is not None:
        monkeypatch.setenv(SECOND_RUNNER, said)
    assert backend(tiny_checkpoint)._engine
    assert os.environ[SECOND_RUNNER] == wanted


def test_what_the_second_runner_cannot_goes_to_the_older_one(tiny_checkpoint: Path, vllm: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "refuses", True)
    assert backend(tiny_checkpoint)._engine
    assert os.environ[SECOND_RUNNER] == "0"
    monkeypatch.setenv(SECOND_RUNNER, "1")
    with pytest.raises(ValueError, match="hybrid"):  # who asks for it is told
        assert backend(tiny_checkpoint)._engine


@pytest.mark.parametrize(
    ("config", "suits"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, True),
        ({"architectures": ["Qwen2MoeForCausalLM"]}, False),
        ({"architectures": ["Qwen2ForCausalLM"], "quantization_config": {}}, False),
        ({}, False),
    ],
)
def test_which_models_suit_it(config: dict[str, Any], suits: bool, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert second_runner_suits(tmp_path) is suits
