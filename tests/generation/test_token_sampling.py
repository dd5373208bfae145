"""Tokens are drawn as often as their probabilities say."""

from __future__ import annotations

import pytest
import torch

from r1pipe.generation.token_sampling import least_likely_kept, sample_by_chunks, sample_tokens


def test_sampling_follows_the_distribution_and_top_p_cuts_the_tail():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(20_000, 1)
    torch.manual_seed(0)
    share = torch.bincount(sample_tokens(logits, 1.0, 1.0), minlength=4) / 20_000
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.015)
    kept = torch.bincount(sample_tokens(logits, 1.0, 0.79), minlength=4) / 20_000
    assert kept[2:].sum() == 0
    assert abs(kept[0] - 0.625) < 0.015
    assert sample_tokens(logits[:2], 0.0, 1.0).tolist() == [0, 0]


@pytest.mark.parametrize("vocabulary", [4, 300, 384])
def test_sampling_by_chunks_follows_the_distribution(vocabulary: int) -> None:
    torch.manual_seed(0)
    logits_V = torch.randn(vocabulary) * 2
    logits_V[::3] = -torch.inf
    for temperature in (1.0, 0.7):
        wanted = (logits_V / temperature).softmax(-1)
        drawn = torch.cat([sample_by_chunks(logits_V.repeat(20_000, 1), temperature) for _ in range(5)])
        found = torch.bincount(drawn, minlength=vocabulary) / len(drawn)
        assert len(found) == vocabulary and found[::3].sum() == 0
        assert ((found - wanted).abs() < 5 * (wanted / len(drawn)).sqrt() + 1e-6).all()


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.95, 0.999])
def test_the_tail_that_top_p_cuts_is_found_without_sorting(top_p: float) -> None:
    torch.manual_seed(0)
    probs_BV = torch.softmax(torch.randn(64, 3000) * torch.linspace(0.1, 8, 64)[:, None], -1)
    in_order_BV, order_BV = probs_BV.sort(-1, descending=True)
    kept_BV = (in_order_BV.cumsum(-1) - in_order_BV < top_p).gather(1, order_BV.argsort(-1))
    found_BV = probs_BV >= least_likely_kept(probs_BV, top_p)[:, None]
    # a row's sums may round the other way for the one token at the limit
    assert ((found_BV != kept_BV).sum(-1) <= 1).all() and (found_BV == kept_BV).all(-1).sum() > 60

    # tokens of one probability are kept or cut together
    assert (least_likely_kept(torch.full((1, 8), 1 / 8), top_p) == 1 / 8).all()
    drawn = {
        int(sample_by_chunks(torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])), 1.0, 0.79))
        for _ in range(200)
    }
    assert drawn == {0, 1}


def test_numbers_that_are_none_draw_a_token_of_the_vocabulary() -> None:
    assert sample_by_chunks(torch.full((2, 300), torch.nan), 1.0).tolist() == [0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpus_draws_follow_the_distribution(compiled: bool) -> None:
    logits = (torch.randn(512, 151_936, device="cuda") * 4).bfloat16()
    logps = logits.float().log_softmax(-1)
    entropy = -(logps.exp() * logps).sum(-1)
    found = torch.cat(
        [
            logps.gather(1, sample_tokens(logits, 1.0, 1.0, compiled)[:, None])[:, 0] + entropy
            for _ in range(60)
        ]
    )
    assert abs(found.mean()) < 4 * found.std() / len(found) ** 0.5
    # with top-p, of the tokens that it keeps alone
    probs = (logits.float() / 0.6).softmax(-1)
    drawn = sample_tokens(logits, 0.6, 0.95, compiled)
    assert (probs.gather(1, drawn[:, None])[:, 0] >= least_likely_kept(probs, 0.95) * (1 - 1e-4)).all()
