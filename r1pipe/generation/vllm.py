"""The back end `vllm`: vLLM's engine (the extra `vllm`; written for 0.22 to 0.31).

A unit is as many sequences as `batch_size` says, which vLLM schedules among itself: make it large. Each sample has a seed of its own.

vLLM's older model runner draws each seeded row by itself; its second one draws all rows in one kernel (1.3 x as many tokens a second, LOG.md). vLLM
itself takes it for Qwen3 only; here it is asked for where the checkpoint is of DENSE, unless VLLM_USE_V2_MODEL_RUNNER says otherwise. The two draw
other samples from the same seeds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from r1pipe.errors import MissingToolError
from r1pipe.generation import DENSE, Completion, Draw, Unit, sample_seed
from r1pipe.models.loading import load_tokenizer
from r1pipe.schema import Sampling
from r1pipe.text.rendering import prompt_ids, read_template

COHORT = 4  # units that go through their rounds together
SECOND_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


class VLLM:
    """A checkpoint in vLLM's engine."""

    in_flight, alone, remote = 1, False, False

    def __init__(
        self, checkpoint: Path, rows: list[dict[str, Any]], sampling: Sampling, template: str, seed: int
    ) -> None:
        try:
            from vllm import SamplingParams  # type: ignore[import-not-found]
        except ImportError as error:
            raise MissingToolError(
                f"`backend: vllm` needs vLLM, which cannot be imported: {error}",
                fix="pip install 'r1pipe[vllm]' on a machine with a GPU; or backend: hf",
            ) from None
        self._rows, self._sampling, self._seed, self._params = rows, sampling, seed, SamplingParams
        self._ids = prompt_ids(rows, read_template(template), load_tokenizer(checkpoint))
        self._checkpoint = checkpoint

    @cached_property
    def _engine(self) -> Any:  # not before it draws: what only plans needs no GPU
        # the engine has a process of its own; forked from one that has computed with several threads, it hangs at its first such operation
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        from vllm import LLM  # type: ignore[import-not-found]

        asked = SECOND_RUNNER not in os.environ and second_runner_suits(self._checkpoint)
        try:
            if asked:
                os.environ[SECOND_RUNNER] = "1"  # the engine's process takes it along
            return LLM(model=str(self._checkpoint), seed=self._seed, **self._sampling.vllm)
        except ValueError as error:  # `vllm:` asks for something that only the older runner can
            if not asked or SECOND_RUNNER not in str(error):
                raise
            del os.environ[SECOND_RUNNER]
            return LLM(model=str(self._checkpoint), seed=self._seed, **self._sampling.vllm)
        finally:
            if asked:
                os.environ.pop(SECOND_RUNNER, None)  # the next engine may be of another model

    def cohorts(self, rounds: bool) -> list[list[int]]:
        size = max(1, self._sampling.batch_size // self._sampling.n) * (COHORT if rounds else 1)
        return [list(range(i, min(i + size, len(self._rows)))) for i in range(0, len(self._rows), size)]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        return [Unit(prefix, list(draws))]

    def draw(self, unit: Unit) -> list[Completion]:
        # a request a row: vLLM gives its samples the seeds seed, seed + 1, ...; greedily they are all the same, and vLLM wants one
        greedy = self._sampling.temperature == 0
        params = [
            self._params(
                n=1 if greedy else draw.n,
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                max_tokens=self._sampling.max_tokens,
                seed=sample_seed(self._seed, self._rows[draw.row]["id"], 0) + draw.first,
            )
            for draw in unit.draws
        ]
        outputs = self._engine.generate(
            [{"prompt_token_ids": self._ids[draw.row]} for draw in unit.draws], params, use_tqdm=False
        )
        drawn = [
            one
            for draw, output in zip(unit.draws, outputs, strict=True)
            for one in (output.outputs * draw.n if greedy else output.outputs)
        ]
        return [
            Completion(one.text, len(one.token_ids), one.finish_reason == "stop") for one in drawn
        ]  # vLLM leaves the end token out of the text

    def halted(self, tokens_in: int, tokens_out: int) -> None:
        return None


def second_runner_suits(checkpoint: Path) -> bool:
    """Whether vLLM's second model runner is asked for: a dense model, not quantized."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf8"))
    return set(config.get("architectures") or [""]) <= DENSE and "quantization_config" not in config
