"""Linear layers that read the same input, as one product: a small model on a GPU spends its time on starting kernels, not in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

GROUPS = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("mlp", ("gate_proj", "up_proj")),
)  # in the order in which the layer calls them


class First(nn.Module):
    """In the place of the first of some linear layers: computes all, returns its own part and keeps the others' for `Other`.

    The old layers' weights become parts of one.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.sizes = [one.out_features for one in linears]
        self.weight = nn.Parameter(torch.cat([one.weight.detach() for one in linears]), requires_grad=False)
        biases = [one.bias.detach() for one in linears if one.bias is not None]
        assert len(biases) in (0, len(linears)), "all have a bias, or none"
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        self.kept: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = linear(x, self.weight, self.bias).split(self.sizes, -1)
        self.kept = list(parts[1:])
        return parts[0]


class Other(nn.Module):
    """In the place of a linear layer whose part `First` has computed."""

    def __init__(self, first: First) -> None:
        super().__init__()
        self._first = (first,)  # not a submodule

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._first[0].kept.pop(0)


def join(model: Any) -> dict[str, torch.Tensor]:
    """Join queries, keys and values of each layer, and gate and up; the model can be used, but what it saves is of no use.

    Returns:
        the parameters under the names that they had, parts of the joint ones among them.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    path = {id(module): name for name, module in model.named_modules()}
    for layer in model.base_model.layers:
        for where, children in GROUPS:
            _join_group(getattr(layer, where), children, path[id(getattr(layer, where))], weights)
    return weights


def _join_group(parent: nn.Module, children: Sequence[str], path: str, weights: dict[str, torch.Tensor]) -> None:
    """One group in its place; nothing holds the old layers after it, so that only one group's weights ever stand twice."""
    linears = [getattr(parent, child) for child in children]
    if not all(type(one) is nn.Linear for one in linears):
        return
    first = First(linears)
    parts = [first, *(Other(first) for _ in linears[1:])]
    for kind in ("weight", "bias"):
        joint = getattr(first, kind)
        if joint is not None:
            for child, part in zip(children, joint.detach().split(first.sizes), strict=True):
                weights[f"{path}.{child}.{kind}"] = part
    for child, part in zip(children, parts, strict=True):
        setattr(parent, child, part)
