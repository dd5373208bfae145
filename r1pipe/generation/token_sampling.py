"""Sampling tokens from logits.

Shapes: B rows of a batch, S sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from r1pipe.generation.stop_strings import StopStrings
from r1pipe.here import alive

OnEnded = Callable[[list[int], list[list[int]]], None]
"""Called with the numbers of sequences that have ended, and with their tokens."""

Adjust = Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]
"""(t, sequence_B, logits_BV) -> logits_BV, called before token t (from 0) is drawn.

In a CUDA graph t is a tensor, and a row without a sequence has a number beyond all sequences. Whatever changes from
draw to draw has to be read from memory that stays in place.
"""


class SamplingSettings(NamedTuple):
    """How tokens are sampled.

    Attributes:
        temperature: 0 takes the most probable token.
        top_p: share of the probability that the tokens to choose from hold; 1 = all tokens.
        ends: tokens that end a sequence.
        stop: strings that end one, too; None = no strings.
        adjust: changes the logits first; None = nothing.
        logps: whether each token's log-probability at the temperature is kept.
    """

    temperature: float
    top_p: float
    ends: tuple[int, ...]
    stop: StopStrings | None = None
    adjust: Adjust | None = None
    logps: bool = False


def sample_tokens(logits_BV: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Sample one token a row, (B,), with torch's default generator.

    It inverts the cumulative distribution, which needs one random number a row; torch.multinomial needs one an entry.

    Args:
        logits_BV: the model's.
        temperature: 0 takes the most probable token.
        top_p: 1 = all tokens.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    if logits_BV.is_cuda and find_spec("triton") is not None:
        # Imported late: Triton is not installed everywhere.
        from r1pipe.generation.sampling_kernel import draw

        return draw(logits_BV, temperature, top_p)

    probs_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    order_BV = None
    if top_p < 1:
        probs_BV, order_BV = probs_BV.sort(dim=-1, descending=True)
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV.masked_fill(before_BV >= top_p, 0.0)
    # In float32 the sums over a large vocabulary would lose the rare tokens.
    cumulative_BV = probs_BV.double().cumsum(-1)
    uniform_B1 = torch.rand(len(probs_BV), 1, device=probs_BV.device, dtype=torch.float64)
    threshold_B1 = uniform_B1 * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, threshold_B1, right=True).clamp_(max=probs_BV.shape[-1] - 1)
    if order_BV is not None:
        token_B1 = order_BV.gather(-1, token_B1)
    return token_B1.squeeze(-1)


def log_probs(logits_BV: torch.Tensor, token_B: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the tokens' log-probabilities at the temperature, (B,) in float32; at temperature 0 those at 1."""
    scaled_BV = logits_BV.float() / (temperature or 1.0)
    return scaled_BV.gather(1, token_B[:, None]).squeeze(1) - scaled_BV.logsumexp(1)


class Noted:
    """Tokens and lengths on their way from the GPU, as they are now; read them after `running`.

    Args:
        tokens_ST: the tokens of all sequences so far.
        length_S: the lengths of those that have ended; of the others, more than T.
    """

    def __init__(self, tokens_ST: torch.Tensor, length_S: torch.Tensor) -> None:
        self.tokens_ST = self._copy(tokens_ST)
        self.length_S = self._copy(length_S)
        self._arrived = (
            torch.cuda.current_stream(length_S.device).record_event() if length_S.is_cuda else None
        )

    def running(self) -> int:
        """Wait until they have arrived; return how many sequences had not ended."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return int((self.length_S > self.tokens_ST.shape[1]).sum())

    @staticmethod
    def _copy(tensor: torch.Tensor) -> torch.Tensor:
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        return copy.copy_(tensor, non_blocking=True)


class EndedReporter:
    """Reports sequences that have ended while others are drawn, each once.

    Sequences that are as long as they may be are not reported.

    Args:
        on_ended: gets them; None = nothing is reported.
        max_length: how long sequences may be.
    """

    def __init__(self, on_ended: OnEnded | None, max_length: int) -> None:
        self._on_ended = on_ended
        self._max_length = max_length
        self._reported: set[int] = set()

    def report(self, tokens_ST: torch.Tensor, length_S: torch.Tensor) -> None:
        """Report what has ended since the last call. With a callback this waits for the GPU."""
        alive()
        if self._on_ended is None:
            return
        lengths = length_S.tolist()
        ended = [
            i for i, length in enumerate(lengths) if length < self._max_length and i not in self._reported
        ]
        if not ended:
            return
        self._reported.update(ended)
        longest = max(lengths[i] for i in ended)
        rows = tokens_ST[ended, :longest].tolist()
        self._on_ended(ended, [row[: lengths[i]] for i, row in zip(ended, rows, strict=True)])


def cut(rows_ST: torch.Tensor, length_S: torch.Tensor) -> list[list[Any]]:
    """Return each sequence's entries up to its length."""
    return [row[:length] for row, length in zip(rows_ST.tolist(), length_S.tolist(), strict=True)]
