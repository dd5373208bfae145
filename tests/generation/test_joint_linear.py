"""Joint products compute what the layers apart computed."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from test_cuda_graphs import MAKES, make
from torch import nn

from r1pipe.generation.joint_linear import JOINED, JointLinear, join_linears


@pytest.mark.parametrize("name", MAKES)
def test_logits_and_weights_stay(name: str) -> None:
    model = make(name)
    ids = torch.arange(20)[None]
    other = copy.deepcopy(model)
    weights = join_linears(other)
    assert torch.allclose(other(ids).logits, model(ids).logits, atol=1e-5)
    old = dict(model.named_parameters())
    assert weights.keys() == old.keys() and all(torch.equal(weights[key], old[key]) for key in old)
    with torch.no_grad():
        for key in old:
            weights[key].mul_(0.5), old[key].mul_(0.5)
    assert torch.allclose(other(ids).logits, model(ids).logits, atol=1e-5), "they are the joint model's own"


def joined(layer: nn.Module) -> list[nn.Linear]:
    return [getattr(getattr(layer, parent), child) for parent, children in JOINED for child in children]


def test_only_one_group_of_weights_is_in_memory_twice(monkeypatch) -> None:
    model = make()
    alive = {weakref.ref(module.weight) for layer in model.model.layers for module in joined(layer)}
    counts = []
    plain_init = JointLinear.__init__

    def counting_init(self: JointLinear, linears: list[nn.Linear]) -> None:
        plain_init(self, linears)
        counts.append(sum(reference() is not None for reference in alive))

    monkeypatch.setattr(JointLinear, "__init__", counting_init)
    join_linears(model)
    # Two layers have five weights each. Nothing is left of a group when the next one is joined.
    assert counts == [10, 7, 5, 2]


def test_a_layer_of_another_kind_is_left_alone() -> None:
    model = make()

    class Wrapped(nn.Linear):
        pass

    model.model.layers[0].self_attn.k_proj.__class__ = Wrapped
    join_linears(model)
    assert type(model.model.layers[0].self_attn.q_proj) is nn.Linear
    assert type(model.model.layers[1].self_attn.q_proj) is JointLinear
