"""One token for each row of logits on a GPU: our kernel beside sorting, which is what transformers does for top-p.

    python tests/bench/bench_token_sampling.py

Prints milliseconds, the median of 20, for a vocabulary of 151,936 in bfloat16; the peak is memory beyond the logits.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch

from r1pipe.generation.sampling_kernel import draw

VOCABULARY = 151_936
REPEATS = 20


def by_sorting(logits_BV: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Sample as transformers' TopPLogitsWarper and its sampling loop do."""
    scores_BV = logits_BV.float() / temperature
    if top_p < 1:
        sorted_BV, order_BV = torch.sort(scores_BV, descending=False)
        tail_BV = sorted_BV.softmax(-1).cumsum(-1) <= 1 - top_p
        tail_BV[:, -1:] = False
        scores_BV = scores_BV.masked_fill(tail_BV.scatter(1, order_BV, tail_BV), -torch.inf)
    return torch.multinomial(scores_BV.softmax(-1), 1).squeeze(1)


def milliseconds(sample: Callable[[], torch.Tensor]) -> float:
    times = []
    for _ in range(REPEATS + 3):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        sample()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[3:])


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for rows in (8, 64, 640):
        # as peaked as a model's: the most likely token holds most of the probability in most rows
        logits_BV = (torch.randn(rows, VOCABULARY, device="cuda") * 3).bfloat16()
        logits_BV[torch.arange(rows), torch.randint(VOCABULARY, (rows,))] += 14
        for temperature, top_p in ((1.0, 1.0), (0.6, 0.95)):
            line = f"{rows:4d} rows, temperature {temperature}, top-p {top_p}:"
            for name, way in (("kernel", draw), ("sorting", by_sorting)):
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                took = milliseconds(partial(way, logits_BV, temperature, top_p))
                extra = (torch.cuda.max_memory_allocated() - before) / 2**30
                line += f"  {name} {took:7.3f} ms, {extra:.2f} GiB"
            print(line, flush=True)


if __name__ == "__main__":
    main()
