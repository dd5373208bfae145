"""The back end `hf`: the PyTorch loop of decode.py over fixed batches.

Rows are sorted by prompt length and cut into batches of at most `batch_size` sequences. A batch is a unit: it has a seed of its own, and one
that a kill cut short is drawn again as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from r1pipe.generation import Completion, Draw, Unit
from r1pipe.generation.cuda_graphs import COMPILED_FROM, GraphedModel, cache_fits, graph_obstacle
from r1pipe.generation.decoding import decode
from r1pipe.models.loading import end_ids, load_model, load_tokenizer
from r1pipe.models.memory import free_memory
from r1pipe.schema import Sampling
from r1pipe.text.rendering import prompt_ids, read_template

LIKELY_TOKENS = 1024  # of a response, where max_tokens allows more (our choice)
COMPILED_FROM_TOKENS = 4_000_000  # compiling takes some 20 s, and 0.5B then take 7 us a token less (H100)
COHORT = 8  # batches that go through their rounds together: the later rounds are smaller, and what is too small wastes the batch


class HF:
    """A checkpoint in this process."""

    in_flight, remote = 1, False

    def __init__(
        self, checkpoint: Path, rows: list[dict[str, Any]], sampling: Sampling, template: str, seed: int
    ) -> None:
        self._sampling, self._seed = sampling, seed
        self._tokenizer = load_tokenizer(checkpoint)
        self._checkpoint = checkpoint
        self._graphs: GraphedModel | None = None
        self._ids = prompt_ids(rows, read_template(template), self._tokenizer)

    @cached_property
    def _model(self) -> Any:  # not before it draws: what only plans needs no weights
        return load_model(self._checkpoint, training=False)

    def _graphed(self, rows: int, columns: int) -> GraphedModel | None:
        if self._graphs is None:
            model = self._model
            if graph_obstacle(model) or not cache_fits(
                model.config, rows, columns, model.dtype.itemsize, free_memory(model.device)
            ):
                return None
            tokens = len(self._ids) * self._sampling.n * min(self._sampling.max_tokens, LIKELY_TOKENS)
            self._graphs = GraphedModel(
                model, compiled=model.num_parameters() >= COMPILED_FROM and tokens >= COMPILED_FROM_TOKENS
            )
        return self._graphs if self._graphs.make_room(rows, columns) else None

    @cached_property
    def _ends(self) -> Any:
        return end_ids(self._model, self._tokenizer)

    @property
    def alone(self) -> bool:
        return self._model.device.type == "cpu"

    def cohorts(self, rounds: bool) -> list[list[int]]:
        order = sorted(range(len(self._ids)), key=lambda i: (len(self._ids[i]), i))
        size = max(1, self._sampling.batch_size // self._sampling.n) * (COHORT if rounds else 1)
        return [order[i : i + size] for i in range(0, len(order), size)]

    def units(self, prefix: tuple[int, ...], draws: Sequence[Draw]) -> list[Unit]:
        batches: list[list[Draw]] = []
        room = 0
        for draw in draws:
            if not batches or draw.n > room:
                batches.append([])
                room = self._sampling.batch_size
            batches[-1].append(draw)
            room -= draw.n
        return [Unit((*prefix, number) if number else prefix, batch) for number, batch in enumerate(batches)]

    def draw(self, unit: Unit) -> list[Completion]:
        torch.manual_seed(hash((self._seed, *unit.key)) & 0x7FFFFFFF)
        sizes = {draw.n for draw in unit.draws}
        n = (
            sizes.pop() if len(sizes) == 1 else 1
        )  # a group shares the reading of its prompt where all groups are of one size
        prompts = [self._ids[draw.row] for draw in unit.draws for _ in range(draw.n // n)]
        with torch.inference_mode():
            out = decode(
                self._model,
                prompts,
                n=n,
                max_new_tokens=self._sampling.max_tokens,
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                eos_ids=self._ends,
                pad_id=self._tokenizer.pad_token_id,
                graphed=self._graphed(len(prompts) * n, max(map(len, prompts)) + self._sampling.max_tokens),
            ).token_ids
        finished = [bool(tokens) and tokens[-1] in self._ends for tokens in out]
        bodies = [
            tokens[:-1] if end else tokens for tokens, end in zip(out, finished, strict=True)
        ]  # the end token counts and is not shown
        texts = self._tokenizer.batch_decode(bodies, skip_special_tokens=True)
        return [Completion(text, len(tokens), end) for text, tokens, end in zip(texts, out, finished, strict=True)]

    def halted(self, tokens_in: int, tokens_out: int) -> None:
        return None
