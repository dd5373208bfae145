"""The back end `hf`: the PyTorch loop of decoding.py over fixed batches.

Rows are sorted by prompt length and cut into batches of at most `batch_size` sequences. A batch is a unit: it has a
seed of its own, and one that a kill cut short is drawn again as a whole. A GPU draws one batch at a time, and the next
while the tokens of the one before become text.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from r1pipe.generation.contract import Draw, Sample, Unit
from r1pipe.generation.cuda_graphs import COMPILED_FROM, GraphedModel, cache_fits, graph_obstacle
from r1pipe.generation.decoding import decode
from r1pipe.generation.stop_strings import StopStrings, stop_strings
from r1pipe.models.loading import end_ids, load_model, load_tokenizer, own_device, warn_of_positions
from r1pipe.models.memory import free_memory
from r1pipe.schema import Sampling
from r1pipe.text.rendering import file_template, prefill_in, prompt_ids

# Tokens of a response, as a guess where max_tokens allows more (our choice).
LIKELY_TOKENS = 1024

# Layers are compiled when at least this many tokens are drawn: compiling takes about 20 s, and then a 0.5B model takes
# 7 us less for each token (H100).
COMPILED_FROM_TOKENS = 4_000_000

# Batches that go through their rounds together. Later rounds are smaller, and a batch that is too small is slow.
BATCHES_PER_COHORT = 8


class HF:
    """A checkpoint in this process."""

    remote = False

    def __init__(
        self, checkpoint: Path, rows: list[dict[str, Any]], sampling: Sampling, template: str, *, seed: int
    ) -> None:
        self._checkpoint = checkpoint
        self._sampling = sampling
        self._seed = seed
        self._tokenizer = load_tokenizer(checkpoint)
        text = file_template(template, self._tokenizer)
        self._prompts = prompt_ids(rows, text, self._tokenizer)
        self._prefill = prefill_in(text, self._tokenizer)
        warn_of_positions(checkpoint, self._prompts, sampling.max_tokens)
        self._graphs: GraphedModel | None = None
        self._one_draws = threading.Lock()

    # The weights are loaded when something is drawn: whoever only plans needs none.
    @cached_property
    def _model(self) -> Any:
        return load_model(self._checkpoint, training=False)

    @cached_property
    def _end_ids(self) -> Any:
        return end_ids(self._model, self._tokenizer)

    @property
    def _stop(self) -> StopStrings | None:
        return stop_strings(self._sampling.stop, self._tokenizer)

    @property
    def occupies_cpu(self) -> bool:
        return own_device().type == "cpu"

    @property
    def max_in_flight(self) -> int:
        return 1 if self.occupies_cpu else 2

    def cohorts(self, rounds: bool) -> list[list[int]]:
        order = sorted(range(len(self._prompts)), key=lambda i: (len(self._prompts[i]), i))
        size = max(1, self._sampling.batch_size // self._sampling.n) * (BATCHES_PER_COHORT if rounds else 1)
        return [order[start : start + size] for start in range(0, len(order), size)]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        batches: list[list[Draw]] = []
        room = 0
        for draw in draws:
            if not batches or draw.n > room:
                batches.append([])
                room = self._sampling.batch_size
            batches[-1].append(draw)
            room -= draw.n
        # The first batch has the prefix alone as its key: most rounds are one batch.
        return [Unit((*prefix, number) if number else prefix, batch) for number, batch in enumerate(batches)]

    def draw(self, unit: Unit) -> list[Sample]:
        with self._one_draws:
            token_ids = self._draw_tokens(unit)

        # The end token is counted and not shown.
        shown_ids = [ids[:-1] if ids and ids[-1] in self._end_ids else ids for ids in token_ids]
        texts = self._tokenizer.batch_decode(shown_ids, skip_special_tokens=True)
        samples = []
        for text, ids, shown in zip(texts, token_ids, shown_ids, strict=True):
            by_token = len(shown) < len(ids)
            by_string = any(stop in text for stop in self._sampling.stop)
            samples.append(Sample(self._prefill + text, len(ids), by_token or by_string))
        return samples

    def _draw_tokens(self, unit: Unit) -> list[list[int]]:
        # Loaded before the seed is set and outside of inference mode, so that the first batch is like the others.
        model = self._model
        torch.manual_seed(hash((self._seed, *unit.key)) & 0x7FFFFFFF)
        # Where all groups have the same size, each prompt is read once for its group.
        sizes = {draw.n for draw in unit.draws}
        n = sizes.pop() if len(sizes) == 1 else 1
        prompts = [self._prompts[draw.row] for draw in unit.draws for _ in range(draw.n // n)]
        columns = max(map(len, prompts)) + self._sampling.max_tokens

        with torch.inference_mode():
            return decode(
                model,
                prompts,
                n=n,
                max_new_tokens=self._sampling.max_tokens,
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                eos_ids=self._end_ids,
                stop=self._stop,
                pad_id=self._tokenizer.pad_token_id,
                graphed=self._graphed_model(len(prompts) * n, columns),
            ).token_ids

    def _graphed_model(self, rows: int, columns: int) -> GraphedModel | None:
        """Return the model with CUDA graphs and room for these sequences; None where that cannot be."""
        if self._graphs is None:
            model = self._model
            if graph_obstacle(model):
                return None
            if not cache_fits(model.config, rows, columns, model.dtype.itemsize, free_memory(model.device)):
                return None
            tokens = len(self._prompts) * self._sampling.n * min(self._sampling.max_tokens, LIKELY_TOKENS)
            compiled = model.num_parameters() >= COMPILED_FROM and tokens >= COMPILED_FROM_TOKENS
            self._graphs = GraphedModel(model, compiled=compiled)
        return self._graphs if self._graphs.make_room(rows, columns) else None

    def stop_reason(self, tokens_in: int, tokens_out: int) -> None:
        return None
