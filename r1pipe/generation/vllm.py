"""The back end `vllm`: vLLM's engine in this process (the extra `vllm`; written for 0.22 to 0.31).

A unit is as many sequences as `batch_size` says, which vLLM schedules among itself: make it large. Each sample has a seed of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from r1pipe.data.render import prompt_ids, read_template
from r1pipe.errors import MissingToolError
from r1pipe.generation import Completion, Draw, Unit, sample_seed
from r1pipe.schema import Sampling
from r1pipe.training.models import load_tokenizer

COHORT = 4  # units that go through their rounds together


class VLLM:
    """A checkpoint in vLLM's engine."""

    in_flight, alone, remote = 1, False, False

    def __init__(self, checkpoint: Path, rows: list[dict[str, Any]], sampling: Sampling, template: str, seed: int) -> None:
        try:
            from vllm import SamplingParams  # type: ignore[import-not-found]
        except ImportError as error:
            raise MissingToolError(
                f"`backend: vllm` needs vLLM, which cannot be imported: {error}", fix="pip install 'r1pipe[vllm]' on a machine with a GPU; or backend: hf"
            ) from None
        self._rows, self._sampling, self._seed, self._params = rows, sampling, seed, SamplingParams
        self._ids = prompt_ids(rows, read_template(template), load_tokenizer(checkpoint))
        self._checkpoint = checkpoint

    @cached_property
    def _engine(self) -> Any:  # not before it draws: what only plans needs no GPU
        # the engine has a process of its own; forked from one that has computed with several threads, it hangs at its first such operation
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        from vllm import LLM  # type: ignore[import-not-found]

        return LLM(model=str(self._checkpoint), seed=self._seed, **self._sampling.vllm)

    def cohorts(self, rounds: bool) -> list[list[int]]:
        size = max(1, self._sampling.batch_size // self._sampling.n) * (COHORT if rounds else 1)
        return [list(range(i, min(i + size, len(self._rows)))) for i in range(0, len(self._rows), size)]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        return [Unit(prefix, list(draws))]

    def draw(self, unit: Unit) -> list[Completion]:
        asked = [(draw.row, draw.first + k) for draw in unit.draws for k in range(draw.n)]
        params = [
            self._params(
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                max_tokens=self._sampling.max_tokens,
                seed=sample_seed(self._seed, self._rows[row]["id"], number),
            )
            for row, number in asked
        ]
        outputs = self._engine.generate([{"prompt_token_ids": self._ids[row]} for row, _ in asked], params, use_tqdm=False)
        return [Completion(one.text, len(one.token_ids), one.finish_reason == "stop") for output in outputs for one in output.outputs]

    def halted(self, tokens_in: int, tokens_out: int) -> None:
        return None
