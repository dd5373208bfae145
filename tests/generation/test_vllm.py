"""What the back end `vllm` sends to the engine and makes of its answer.

The engine itself needs a GPU (tests/bench/bench_vllm_sampling.py).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from r1pipe.generation.backends import load_generator
from r1pipe.generation.contract import Draw, Unit, sample_seed
from r1pipe.generation.vllm import SECOND_RUNNER, second_runner_suits
from r1pipe.models.loading import load_tokenizer
from r1pipe.schema import Sampling
from r1pipe.text.rendering import prompt_ids, read_template

ROWS = [{"id": name, "prompt": f"what is {name} ?"} for name in ("a", "b")]
END = 7  # an ordinary token, as a stop id of generation_config may be


class Engine:
    """Answers each sample with the digits of its seed, and cuts every second one.

    An end token is in the ids and not in the text.
    """

    refuses = False

    def __init__(self, model: str, **told: Any) -> None:
        self.runner = os.environ.get(SECOND_RUNNER)
        if self.refuses and self.runner == "1":
            raise ValueError(f"{SECOND_RUNNER} does not yet support: hybrid/mamba models")
        self.tokenizer, self.asked = load_tokenizer(Path(model)), []
        self.llm_engine = SimpleNamespace(step=lambda: None)

    def generate(self, prompts: list[Any], params: list[Any], use_tqdm: bool) -> list[Any]:
        assert all(one.temperature > 0 or one.n == 1 for one in params), (
            "n must be 1 when using greedy sampling"
        )
        self.asked += zip(prompts, params, strict=True)
        self.llm_engine.step()
        return [
            SimpleNamespace(outputs=[self._answer(one.seed + k, k) for k in range(one.n)]) for one in params
        ]

    def _answer(self, seed: int, k: int) -> Any:
        ids = self.tokenizer(digits(seed), add_special_tokens=False)["input_ids"]
        ended = k % 2 == 0
        return SimpleNamespace(
            text=self.tokenizer.decode(ids),
            token_ids=tuple(ids + [END] * ended),
            finish_reason="stop" if ended else "length",
            stop_reason=None,
        )


def digits(seed: int) -> str:
    return " ".join(str(seed % 1000))


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    stand_in: Any = ModuleType("vllm")
    stand_in.SamplingParams, stand_in.LLM = (
        (lambda **told: SimpleNamespace(**told)),
        type("LLM", (Engine,), {}),
    )
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.delenv(SECOND_RUNNER, raising=False)
    return stand_in.LLM


def backend(checkpoint: Path, **told: Any) -> Any:
    sampling = Sampling(**{"backend": "vllm", "n": 4, "max_tokens": 64, **told})
    return load_generator(checkpoint, ROWS, sampling, "chat", seed=7)


def test_samples_are_the_same_however_they_are_asked_for(tiny_checkpoint: Path, vllm: type[Engine]) -> None:
    """The seed of a sample is of run, row and number, so a later round goes on where the first ended."""
    generator = backend(tiny_checkpoint)
    whole = generator.draw(Unit((0,), [Draw(0, 0, 4), Draw(1, 0, 4)]))
    parts = generator.draw(Unit((0, 0), [Draw(0, 0, 1), Draw(1, 0, 1)])) + generator.draw(
        Unit((0, 1), [Draw(0, 1, 3), Draw(1, 1, 3)])
    )
    assert [one.text for one in whole] == [parts[i].text for i in (0, 2, 3, 4, 1, 5, 6, 7)]
    assert len({one.text for one in whole}) == 8


def test_a_request_is_a_row_with_all_that_the_config_says(tiny_checkpoint: Path, vllm: type[Engine]) -> None:
    generator = backend(tiny_checkpoint, temperature=0.6, top_p=0.9, max_tokens=11)
    generator.draw(Unit((0,), [Draw(1, 2, 3), Draw(0, 0, 4)]))
    ids = prompt_ids(ROWS, read_template("chat"), load_tokenizer(tiny_checkpoint))
    ends = [load_tokenizer(tiny_checkpoint).eos_token_id]
    said = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 11, "stop_token_ids": ends}
    said |= {"stop": [], "include_stop_str_in_output": True}
    assert [(prompt["prompt_token_ids"], vars(params)) for prompt, params in generator._engine.asked] == [
        (ids[1], said | {"n": 3, "seed": sample_seed(7, "b", 0) + 2}),
        (ids[0], said | {"n": 4, "seed": sample_seed(7, "a", 0)}),
    ]


def test_greedy_samples_of_a_row_are_one_answer(tiny_checkpoint: Path, vllm: type[Engine]) -> None:
    drawn = backend(tiny_checkpoint, temperature=0).draw(Unit((0,), [Draw(0, 0, 3), Draw(1, 0, 1)]))
    assert len(drawn) == 4
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]


def test_the_end_token_is_counted_and_not_shown(tiny_checkpoint: Path, vllm: type[Engine]) -> None:
    drawn = backend(tiny_checkpoint).draw(Unit((0,), [Draw(0, 0, 2)]))
    tokenizer = load_tokenizer(tiny_checkpoint)
    ids = [
        tokenizer(digits(sample_seed(7, "a", 0) + k), add_special_tokens=False)["input_ids"] for k in range(2)
    ]
    assert [one.text for one in drawn] == tokenizer.batch_decode(ids)
    assert [one.finished for one in drawn] == [True, False]
    assert [one.tokens for one in drawn] == [len(ids[0]) + 1, len(ids[1])]


@pytest.mark.parametrize(("said", "wanted"), [(None, "1"), ("0", "0")])
def test_the_second_runner_unless_somebody_said_otherwise(
    said: str | None, wanted: str, tiny_checkpoint: Path, vllm: type[Engine], monkeypatch: Any
) -> None:
    if said is not None:
        monkeypatch.setenv(SECOND_RUNNER, said)
    assert backend(tiny_checkpoint)._engine.runner == wanted
    assert os.environ.get(SECOND_RUNNER) == said, "the choice is of one engine"


def test_what_the_second_runner_cannot_goes_to_the_older_one(
    tiny_checkpoint: Path, vllm: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm, "refuses", True)
    assert backend(tiny_checkpoint)._engine.runner is None
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
