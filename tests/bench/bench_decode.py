"""Sampling groups of responses on a CPU: r1pipe's decode() beside transformers' generate(), in turn, in one process.

    python tests/bench/bench_decode.py

Prints seconds and the ratio for groups of 8 on the shipped base, which answers world problems with the thinking begun,
as in a rollout. The two draw different random numbers, so tokens a second are compared, not seconds.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from r1pipe.embedded.world import problems
from r1pipe.generation.decoding import decode
from r1pipe.models.loading import end_ids, load_model, load_tokenizer
from r1pipe.text.rendering import TEMPLATES, prompt_ids, read_template
from r1pipe.text.response import THINK_OPEN
from r1pipe.text.rows import REASONING_DOMAINS

BASE = Path(__file__).parents[2] / "r1pipe" / "embedded" / "data" / "base"
GROUP, MAX_TOKENS, ROUNDS = 8, 80, 3


def main() -> None:
    tokenizer, model = load_tokenizer(BASE), load_model(BASE, training=False)
    ends = end_ids(model, tokenizer)
    opened = tokenizer(THINK_OPEN, add_special_tokens=False)["input_ids"]

    def ours(ids: list[list[int]]) -> int:
        decoded = decode(
            model, ids, n=GROUP, max_new_tokens=MAX_TOKENS, eos_ids=ends, pad_id=tokenizer.pad_token_id
        )
        return sum(map(len, decoded.token_ids))

    def theirs(ids: list[list[int]], cache: str | None) -> int:
        padded = tokenizer.pad(
            {"input_ids": [row for row in ids for _ in range(GROUP)]},
            return_tensors="pt",
            padding_side="left",
        )
        chosen = {
            "do_sample": True,
            "top_k": 0,
            "max_new_tokens": MAX_TOKENS,
            "eos_token_id": ends,
            "pad_token_id": tokenizer.pad_token_id,
        }
        out = model.generate(**padded, **chosen, cache_implementation=cache)[
            :, padded["input_ids"].shape[1] :
        ]
        return sum(
            next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in out.tolist()
        )

    ways = {
        "generate": lambda ids: theirs(ids, None),
        "generate, static cache": lambda ids: theirs(ids, "static"),
        "r1pipe": ours,
    }
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}; tokens a second, median of {ROUNDS}"
    )
    for prompts in (16, 64):
        ids = [
            row + opened
            for row in prompt_ids(
                problems("dev", REASONING_DOMAINS, prompts, 0),
                read_template(str(TEMPLATES / "embedded-zero.txt")),
                tokenizer,
            )
        ]
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(ROUNDS + 1):  # the first turn warms up
            for name, way in ways.items():
                torch.manual_seed(turn)
                started = time.perf_counter()
                tokens = way(ids)
                if turn:
                    rates[name].append(tokens / (time.perf_counter() - started))
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, rate in medians.items():
            print(
                f"{prompts * GROUP:5d} sequences  {name:24s} {rate:8.0f}  x {rate / medians['generate']:.2f}"
            )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
