"""Joint products compute what the layers apart computed."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from test_graphs import MAKES, make
from torch import nn

from r1pipe.generation import joint_linear as joint
from r1pipe.generation.joint_linear import join


@pytest.mark.parametrize("name", MAKES)
def test_logits_and_weights_stay(name: str) -> None:
    model = make(name)
    ids = torch.arange(20)[None]
    other = copy.deepcopy(model)
    weights = join(other)
    assert torch.allclose(other(ids).logits, model(ids).logits, atol=1e-5)
    old = dict(model.named_parameters())
    assert weights.keys() == old.keys() and all(torch.equal(weights[key], old[key]) for key in old)
    with torch.no_grad():
        for key in old:
            weights[key].mul_(0.5), old[key].mul_(0.5)
    assert torch.allclose(other(ids).logits, model(ids).logits, atol=1e-5), "they are the joint model's own"


def joined(layer: nn.Module) -> list[nn.Linear]:
    return [getattr(getattr(layer, where), child) for where, children in joint.GROUPS for child in children]


def test_one_group_of_weights_stands_twice(monkeypatch) -> None:
    model = make()
    alive = {weakref.ref(module.weight) for layer in model.model.layers for module in joined(layer)}
    seen, plain = [], joint.First.__init__

    def counted(self: joint.First, linears: list[nn.Linear]) -> None:
        plain(self, linears)
        seen.append(sum(one() is not None for one in alive))

    monkeypatch.setattr(joint.First, "__init__", counted)
    join(model)
    assert seen == [10, 7, 5, 2], "of two layers' five each; of what was joined nothing is left when the next is made"


def test_a_layer_of_another_kind_is_left_alone() -> None:
    model = make()

    class Wrapped(nn.Linear):
        pass

    model.model.layers[0].self_attn.k_proj.__class__ = Wrapped
    join(model)
    assert (
        type(model.model.layers[0].self_attn.q_proj) is nn.Linear
        and type(model.model.layers[1].self_attn.q_proj) is joint.First
    )
