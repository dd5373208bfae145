"""Drawing tokens from logits.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch


def sample_tokens(logits_BV: torch.Tensor, temperature: float, top_p: float, compiled: bool = False) -> torch.Tensor:
    """Draw one token a row, (B,), with torch's default generator. Temperature 0 is the arg max. `compiled` makes a GPU's draw one kernel.

    The inverse of the cumulative distribution needs one random number a row; torch.multinomial needs one an entry, which only a GPU makes fast.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    if top_p == 1 and logits_BV.is_cuda:  # the first of exponential arrivals whose rates are the probabilities
        if compiled:
            return _compiled_race()(logits_BV, temperature)
        arrival_BV = torch.empty(logits_BV.shape, device=logits_BV.device).exponential_()
        scaled_BV = logits_BV if temperature == 1 else logits_BV.float() / temperature
        return (scaled_BV - arrival_BV.log_()).argmax(-1)
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


def race(logits_BV: torch.Tensor, temperature: float) -> torch.Tensor:
    """The draw of `sample_tokens` on a GPU, for the compiler, whose random numbers are multiples of 2^-31: what would be zero is half of that."""
    uniform_BV = torch.rand(logits_BV.shape, device=logits_BV.device).clamp(min=2**-32)
    return (logits_BV.float() / temperature - (-torch.log1p(-uniform_BV)).log()).argmax(-1)


@cache
def _compiled_race() -> Callable[[torch.Tensor, float], torch.Tensor]:
    return torch.compile(race, dynamic=True)


def log_probs(logits_BV: torch.Tensor, token_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of the tokens at the temperature, float32 of shape (B,); at temperature 0 those of 1."""
    scaled_BV = logits_BV.float() / (temperature or 1.0)
    return scaled_BV.gather(1, token_B[:, None]).squeeze(1) - scaled_BV.logsumexp(1)
