"""A step of decoding over a cache that stays in place computes what the model computes; the graphs themselves need a GPU."""

from __future__ import annotations

import copy

import pytest
import torch

from r1pipe.generation.decode import decode
from r1pipe.generation.graphs import LEAST, Graphed, size_up, why_not_graphed

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
ENDS = list(range(0, 300, 20))
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=GPU)])
def model(request, tiny_checkpoint):
    from r1pipe.training.models import load_model

    return load_model(tiny_checkpoint, training=False).to(request.param, torch.float32)


@pytest.fixture
def graphed(model, monkeypatch):
    monkeypatch.setitem(LEAST, "rows", 4)
    monkeypatch.setitem(LEAST, "columns", 8)
    return Graphed(copy.deepcopy(model))


def test_each_token_is_drawn_from_the_models_distribution(model, graphed) -> None:
    """Over several sizes of the batch and of the cache, with prompts of unequal lengths; a second rollout finds the first one's cache."""
    for round_ in range(2):
        torch.manual_seed(round_)
        logps: list[list[float]] = []
        out = decode(graphed.model, PROMPTS, n=16, max_new_tokens=40, eos_ids=ENDS, pad_id=0, graphed=graphed, logps=logps)
        lengths = [len(ids) for ids in out]
        assert min(lengths) < 8 and max(lengths) > 24, "the batch shrank, the cache grew"
        for i, (ids, found) in enumerate(zip(out, logps, strict=True)):
            prompt = PROMPTS[i // 16]
            assert all(token not in ENDS for token in ids[:-1]) and (ids[-1] in ENDS or len(ids) == 40)
            logits = model(torch.tensor([prompt + ids], device=model.device)).logits[0, len(prompt) - 1 : -1].cpu()
            wanted = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None]).squeeze(1)
            assert torch.allclose(torch.tensor(found), wanted, atol=1e-4)


def test_greedy_is_what_the_eager_loop_draws(model, graphed) -> None:
    asked = {"n": 3, "max_new_tokens": 20, "temperature": 0, "eos_ids": [7, 33, 90], "pad_id": 0}
    assert decode(graphed.model, PROMPTS, **asked, graphed=graphed) == decode(model, PROMPTS, **asked)


def test_weights_are_taken_anew(model, graphed) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    asked = {"max_new_tokens": 20, "temperature": 0, "eos_ids": [], "pad_id": 0}
    before = decode(graphed.model, PROMPTS, **asked, graphed=graphed)
    graphed.take(other)
    after = decode(graphed.model, PROMPTS, **asked, graphed=graphed)
    assert after == decode(other, PROMPTS, **asked) != before


def test_the_twin_of_a_trained_model_leaves_it_alone(model) -> None:
    attention, weight = model.config._attn_implementation, model.lm_head.weight.clone()
    twin = Graphed.twin(model)
    twin.take(model)
    assert twin.model.dtype == torch.bfloat16 and not twin.model.training
    assert model.config._attn_implementation == attention and model.dtype == torch.float32
    assert torch.equal(twin.model.lm_head.weight, weight.bfloat16())


def test_a_cache_too_small_is_made_anew(graphed) -> None:
    assert graphed.has_room(8, 16)
    first = graphed._cache[0][0]
    assert graphed.has_room(4, 9) and graphed._cache[0][0] is first
    assert graphed.has_room(4, 40) and graphed._cache[0][0].shape[::2] == (8, 40), "never smaller than before"


def test_which_models(model) -> None:
    assert bool(why_not_graphed(model)) == (model.device.type == "cpu")


def test_there_are_few_sizes() -> None:
    sizes = [size_up(n, 8) for n in range(1, 513)]
    assert all(size >= n for n, size in enumerate(sizes, 1)) and max(sizes) == 512
    assert len(set(sizes)) < 26
    assert max(size / n for n, size in enumerate(sizes, 1) if n > 32) < 1.26
