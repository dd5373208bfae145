"""Tokens are drawn as often as their probabilities say.

`TRITON_INTERPRET=1 pytest` runs the GPU's kernel without one where Triton is installed (and a NumPy below 2.4).
"""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec

import pytest
import torch
from torch._subclasses import FakeTensorMode

from r1pipe.generation.token_sampling import sample_tokens

GPU = torch.cuda.is_available()
INTERPRETED = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(not GPU and not INTERPRETED, reason="needs a GPU, or Triton's interpreter")


def test_sampling_follows_the_distribution_and_top_p_cuts_the_tail():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    torch.manual_seed(0)
    share = torch.bincount(sample_tokens(logits, 1.0, 1.0), minlength=4) / 20_000
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.015)
    kept = torch.bincount(sample_tokens(logits, 1.0, 0.79), minlength=4) / 20_000
    assert kept[2:].sum() == 0
    assert abs(kept[0] - 0.625) < 0.015
    assert sample_tokens(logits[:2], 0.0, 1.0).tolist() == [0, 0]


@pytest.fixture
def draw(monkeypatch):
    if not GPU:
        monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
    from r1pipe.generation.sampling_kernel import draw

    return draw


def kept_by_sorting(probs_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """Which tokens top-p keeps, and those that are as likely as the least likely of them."""
    in_order_BV, order_BV = probs_BV.sort(-1, descending=True)
    kept_BV = (in_order_BV.double().cumsum(-1) - in_order_BV < top_p).gather(1, order_BV.argsort(-1))
    least_B1 = probs_BV.masked_fill(~kept_BV, 2).amin(-1, keepdim=True)
    return probs_BV >= least_B1


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16 if GPU else torch.float16])
@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (0.6, 0.95), (1.0, 0.3), (1.0, 0.999)]
)
@pytest.mark.parametrize("vocabulary", [4, 300, 9000])
def test_the_kernel_draws_what_sorting_would(draw, vocabulary, temperature, top_p, dtype) -> None:
    draws = 100_000 if GPU else 16
    torch.manual_seed(0)
    logits_V = (torch.randn(vocabulary) * 3).to(dtype)
    logits_V[::3] = -torch.inf
    probs_V = torch.softmax(logits_V.float() / temperature, -1)
    kept_V = kept_by_sorting(probs_V[None], top_p)[0]
    wanted_V = torch.where(kept_V, probs_V, 0.0)
    wanted_V /= wanted_V.sum()

    logits_BV = logits_V.to("cuda" if GPU else "cpu").expand(draws, -1)
    found_V = torch.bincount(draw(logits_BV, temperature, top_p).cpu(), minlength=vocabulary) / draws
    assert len(found_V) == vocabulary
    # the sum may round the other way for the one token at the limit
    assert (found_V > 0)[~kept_V].sum() <= 1
    if GPU:
        error_V = (found_V - wanted_V).abs()
        assert (error_V < 6 * (wanted_V / draws).sqrt() + 3 / draws).all()


@needs_triton
def test_rows_without_numbers_draw_a_token_of_the_vocabulary(draw) -> None:
    device = "cuda" if GPU else "cpu"
    for value in (torch.nan, -torch.inf):
        tokens_B = draw(torch.full((2, 300), value, device=device), 1.0, 0.9)
        assert ((tokens_B >= 0) & (tokens_B < 300)).all()


@needs_triton
def test_tensors_without_numbers_never_reach_the_kernel(draw) -> None:
    with FakeTensorMode():
        tokens_B = draw(torch.empty(5, 300), 1.0, 0.9)
    assert tokens_B.shape == (5,) and tokens_B.dtype == torch.long


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_a_gpus_draws_from_a_large_vocabulary_follow_the_distribution() -> None:
    logits_BV = (torch.randn(512, 151_936, device="cuda") * 4).bfloat16()
    logps_BV = logits_BV.float().log_softmax(-1)
    entropy_B = -(logps_BV.exp() * logps_BV).sum(-1)
    found = torch.cat(
        [logps_BV.gather(1, sample_tokens(logits_BV, 1.0, 1.0)[:, None])[:, 0] + entropy_B for _ in range(60)]
    )
    assert abs(found.mean()) < 4 * found.std() / len(found) ** 0.5
    # with top-p, of the tokens that it keeps alone
    probs_BV = (logits_BV.float() / 0.6).softmax(-1)
    token_B1 = sample_tokens(logits_BV, 0.6, 0.95)[:, None]
    least_B = probs_BV.masked_fill(~kept_by_sorting(probs_BV, 0.95), 2).amin(-1)
    assert (probs_BV.gather(1, token_B1)[:, 0] >= least_B * (1 - 1e-4)).all()
