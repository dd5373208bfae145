"""Drawing tokens from logits.

Shapes: B rows, V vocabulary, N chunks of C entries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad

CHUNK = 128  # entries of the vocabulary
OnEnded = Callable[[list[int], list[list[int]]], None]  # gets which sequences have ended and their tokens


class SamplingSettings(NamedTuple):
    """How tokens are drawn.

    Args:
        ends: tokens that end a sequence.
        adjust: (t, which sequence each row is, logits_BV) -> logits_BV, called before token t (from 0) is drawn. In a CUDA graph t is a tensor, and a row
            without a sequence has a number beyond all: what changes from draw to draw has to be read from memory that stays where it is.
        logps: keep each token's log-probability at the temperature.
    """

    temperature: float
    top_p: float
    ends: tuple[int, ...]
    adjust: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    logps: bool = False


def sample_tokens(logits_BV: torch.Tensor, temperature: float, top_p: float, compiled: bool = False) -> torch.Tensor:
    """Draw one token a row, (B,), with torch's default generator. Temperature 0 is the arg max. `compiled` makes a GPU's draw few kernels.

    By the inverse of the cumulative distribution, which needs one random number a row; torch.multinomial needs one an entry.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    if top_p == 1 and logits_BV.is_cuda:
        if not compiled:
            return draw_by_chunks(logits_BV, temperature)
        torch._dynamo.maybe_mark_dynamic(logits_BV, 0)
        return _compiled_chunks()(logits_BV, temperature)
    probs_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    order_BV = None
    if top_p < 1:
        probs_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV.masked_fill(before_BV >= top_p, 0.0)
    cumulative_BV = probs_BV.double().cumsum(-1)
    draw_B1 = torch.rand(len(probs_BV), 1, device=probs_BV.device, dtype=torch.float64) * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, draw_B1, right=True).clamp_(max=probs_BV.shape[-1] - 1)
    return (order_BV.gather(-1, token_B1) if order_BV is not None else token_B1).squeeze(-1)


def draw_by_chunks(logits_BV: torch.Tensor, temperature: float) -> torch.Tensor:
    """The draw of `sample_tokens` on a GPU: first a chunk of the vocabulary, then a token in it; (B,). Compiled it reads the logits once."""
    scaled_BNC = (
        pad(logits_BV, (0, -logits_BV.shape[1] % CHUNK), value=-torch.inf).unflatten(1, (-1, CHUNK)).float()
        / temperature
    )
    chunk_B = _first_above(scaled_BNC.logsumexp(-1))
    row_B = torch.arange(len(logits_BV), device=logits_BV.device)
    return chunk_B * CHUNK + _first_above(scaled_BNC[row_B, chunk_B])


def _first_above(logits_BN: torch.Tensor) -> torch.Tensor:
    """One of N, (B,), drawn from logits.

    The number is kept below 1 by more than what sums in another order differ by, so that what has no probability at the end, the padding above all, is
    never drawn; nor is the last millionth of the probability.
    """
    cumulative_BN = (logits_BN - logits_BN.amax(-1, keepdim=True)).exp().cumsum(-1)
    draw_B1 = torch.rand(len(logits_BN), 1, device=logits_BN.device).clamp(max=1 - 2**-20) * cumulative_BN[:, -1:]
    return (cumulative_BN <= draw_B1).sum(-1)


@cache
def _compiled_chunks() -> Callable[[torch.Tensor, float], torch.Tensor]:
    return torch.compile(draw_by_chunks)


def log_probs(logits_BV: torch.Tensor, token_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of the tokens at the temperature, float32 of shape (B,); at temperature 0 those of 1."""
    scaled_BV = logits_BV.float() / (temperature or 1.0)
    return scaled_BV.gather(1, token_B[:, None]).squeeze(1) - scaled_BV.logsumexp(1)


class EndedReporter:
    """Tells whoever wants to know of sequences while others are drawn, of each once; of those that are as long as they may be, not at all.

    Args:
        most: how long they may be.
    """

    def __init__(self, on_ended: OnEnded | None, most: int) -> None:
        self._on_ended, self._most = on_ended, most
        self._told: set[int] = set()

    def look(self, tokens_ST: torch.Tensor, length_S: torch.Tensor) -> None:
        """Waits for the GPU, where somebody wants to know."""
        if self._on_ended is None:
            return
        lengths = length_S.tolist()
        new = [i for i, length in enumerate(lengths) if length < self._most and i not in self._told]
        if new:
            self._told.update(new)
            rows = tokens_ST[new, : max(lengths[i] for i in new)].tolist()
            self._on_ended(new, [row[: lengths[i]] for i, row in zip(new, rows, strict=True)])


def cut(rows_ST: torch.Tensor, length_S: torch.Tensor) -> list[list[Any]]:
    """Of each sequence as many entries as it is long."""
    return [row[:length] for row, length in zip(rows_ST.tolist(), length_S.tolist(), strict=True)]
