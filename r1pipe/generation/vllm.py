"""The back end `vllm`: vLLM's engine (the extra `vllm`; written for 0.22 to 0.31).

A unit is as many sequences as `batch_size` says, and vLLM schedules them itself, so a large batch_size is fast. Each
sample has a seed of its own.

vLLM's older model runner draws each seeded row by itself. Its second one draws all rows in one kernel, which gives 1.3
times as many tokens a second (LOG.md). vLLM chooses the second one for Qwen3 only. We request it for every architecture
in DENSE, unless VLLM_USE_V2_MODEL_RUNNER is set. The two draw different samples from the same seeds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from r1pipe.errors import MissingToolError
from r1pipe.generation.backends import DENSE
from r1pipe.generation.contract import Draw, Sample, Unit, sample_seed
from r1pipe.here import alive
from r1pipe.models.loading import checkpoint_ends, load_tokenizer, warn_of_positions
from r1pipe.schema import Sampling
from r1pipe.text.rendering import file_template, prefill_in, prompt_ids

# Units that go through their rounds together.
UNITS_PER_COHORT = 4
SECOND_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


class VLLM:
    """A checkpoint in vLLM's engine."""

    max_in_flight = 1
    occupies_cpu = False
    remote = False

    def __init__(
        self, checkpoint: Path, rows: list[dict[str, Any]], sampling: Sampling, template: str, *, seed: int
    ) -> None:
        try:
            from vllm import SamplingParams  # type: ignore[import-not-found]
        except ImportError as error:
            raise MissingToolError(
                f"`backend: vllm` needs vLLM, which cannot be imported: {error}",
                fix="pip install 'r1pipe[vllm]' on a machine with a GPU; or backend: hf",
            ) from None
        self._checkpoint = checkpoint
        self._rows = rows
        self._sampling = sampling
        self._seed = seed
        self._sampling_params = SamplingParams
        self._tokenizer = load_tokenizer(checkpoint)
        text = file_template(template, self._tokenizer)
        self._prompts = prompt_ids(rows, text, self._tokenizer)
        self._prefill = prefill_in(text, self._tokenizer)
        # vLLM knows those of generation_config.json, and not the one that closes a turn.
        self._ends = checkpoint_ends(checkpoint, self._tokenizer)
        warn_of_positions(checkpoint, self._prompts, sampling.max_tokens)

    # The engine starts when something is drawn: whoever only plans needs no GPU.
    @cached_property
    def _engine(self) -> Any:
        # The engine runs in a process of its own. Forked from a process that has computed with several threads, it
        # hangs at its first operation with threads.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        if SECOND_RUNNER in os.environ or not second_runner_suits(self._checkpoint):
            return self._start_engine()

        try:
            # The engine's process inherits the variable.
            os.environ[SECOND_RUNNER] = "1"
            return self._start_engine()
        except ValueError as error:
            # `vllm:` requests something that only the older runner supports.
            if SECOND_RUNNER not in str(error):
                raise
            del os.environ[SECOND_RUNNER]
            return self._start_engine()
        finally:
            # The next engine may be of another model.
            os.environ.pop(SECOND_RUNNER, None)

    def _start_engine(self) -> Any:
        from vllm import LLM  # type: ignore[import-not-found]

        engine = LLM(model=str(self._checkpoint), seed=self._seed, **self._sampling.vllm)
        step = engine.llm_engine.step

        def living() -> Any:
            alive()
            return step()

        # A batch of long responses takes longer than anything else that writes nothing.
        engine.llm_engine.step = living
        return engine

    def cohorts(self, rounds: bool) -> list[list[int]]:
        size = max(1, self._sampling.batch_size // self._sampling.n) * (UNITS_PER_COHORT if rounds else 1)
        count = len(self._prompts)
        return [list(range(start, min(start + size, count))) for start in range(0, count, size)]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        return [Unit(prefix, list(draws))]

    def draw(self, unit: Unit) -> list[Sample]:
        greedy = self._sampling.temperature == 0
        # One request a row: vLLM gives its samples the seeds seed, seed + 1, ... Greedy samples are all the same, and
        # vLLM accepts only n = 1 for them.
        params = [
            self._sampling_params(
                n=1 if greedy else draw.n,
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                max_tokens=self._sampling.max_tokens,
                stop=self._sampling.stop,
                include_stop_str_in_output=True,
                stop_token_ids=self._ends,
                seed=sample_seed(self._seed, self._rows[draw.row]["id"], 0) + draw.first,
            )
            for draw in unit.draws
        ]
        prompts = [{"prompt_token_ids": self._prompts[draw.row]} for draw in unit.draws]
        results = self._engine.generate(prompts, params, use_tqdm=False)

        samples = []
        for draw, result in zip(unit.draws, results, strict=True):
            for output in result.outputs * draw.n if greedy else result.outputs:
                samples.append(self._sample(output))
        return samples

    def _sample(self, output: Any) -> Sample:
        """A response as its tokens say. vLLM's text may lack the tags, if they are special tokens of the checkpoint."""
        ids = list(output.token_ids)
        finished = output.finish_reason == "stop"
        by_string = isinstance(output.stop_reason, str)
        # The end token is counted and not shown.
        shown = ids[:-1] if finished and not by_string else ids
        text = self._tokenizer.decode(shown, skip_special_tokens=True)
        if by_string:
            # The token that completes the string may hold more.
            text = text[: text.index(output.stop_reason) + len(output.stop_reason)]
        return Sample(self._prefill + text, len(ids), finished)

    def stop_reason(self, tokens_in: int, tokens_out: int) -> None:
        return None


def second_runner_suits(checkpoint: Path) -> bool:
    """Whether vLLM's second model runner is requested: for a dense model that is not quantized."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf8"))
    return set(config.get("architectures") or [""]) <= DENSE and "quantization_config" not in config
