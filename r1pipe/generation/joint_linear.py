"""Linear layers that read the same input, joined into one product.

A small model on a GPU spends its time on starting kernels, not in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

# Children of a transformer layer whose linear layers are joined, in the order in which the layer calls them.
JOINED = (
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("mlp", ("gate_proj", "up_proj")),
)


class JointLinear(nn.Module):
    """Replaces the first of several linear layers: it computes all of them and returns its own part.

    It keeps the others' parts for `JointPart`. The old layers' weights become parts of one tensor.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.sizes = [layer.out_features for layer in linears]
        self.weight = nn.Parameter(
            torch.cat([layer.weight.detach() for layer in linears]), requires_grad=False
        )
        biases = [layer.bias.detach() for layer in linears if layer.bias is not None]
        assert len(biases) in (0, len(linears)), "all have a bias, or none"
        self.bias = nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None
        self.other_parts: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = linear(x, self.weight, self.bias).split(self.sizes, -1)
        self.other_parts = list(parts[1:])
        return parts[0]


class JointPart(nn.Module):
    """Replaces a linear layer whose part a `JointLinear` has computed."""

    def __init__(self, joint: JointLinear) -> None:
        super().__init__()
        # In a tuple, so that it does not become a submodule.
        self._joint = (joint,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._joint[0].other_parts.pop(0)


def join_linears(model: Any) -> dict[str, torch.Tensor]:
    """Join queries, keys and values of each layer, and gate and up.

    The model works as before, but what it saves cannot be loaded.

    Returns:
        The parameters under their old names; those that were joined are views of the joint ones.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    path_of = {id(module): name for name, module in model.named_modules()}
    for layer in model.base_model.layers:
        for parent_name, children in JOINED:
            parent = getattr(layer, parent_name)
            _join_group(parent, children, path_of[id(parent)], weights)
    return weights


def _join_group(
    parent: nn.Module, children: Sequence[str], path: str, weights: dict[str, torch.Tensor]
) -> None:
    """Join one group in place.

    Nothing refers to the old layers afterwards, so only one group's weights are ever in memory twice.
    """
    linears = [getattr(parent, child) for child in children]
    if not all(type(layer) is nn.Linear for layer in linears):
        return
    joint = JointLinear(linears)
    for name in ("weight", "bias"):
        joint_parameter = getattr(joint, name)
        if joint_parameter is not None:
            for child, part in zip(children, joint_parameter.detach().split(joint.sizes), strict=True):
                weights[f"{path}.{child}.{name}"] = part
    replacements = [joint, *(JointPart(joint) for _ in linears[1:])]
    for child, replacement in zip(children, replacements, strict=True):
        setattr(parent, child, replacement)
