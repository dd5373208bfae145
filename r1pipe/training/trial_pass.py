"""A pass that is made before training begins, so that layers are compiled by then. Nothing of it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def trial_passes(model: Any, device: torch.device) -> Iterator[None]:
    """Training mode, which is a part of what is compiled, with the random numbers and the memory left as they were."""
    was_training = model.training
    model.train()
    # Dropout must not shift the random numbers of training.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    model.train(was_training)
    if device.type == "cuda":
        # The sampler's cache and the packs are made as large as the memory that is free then.
        torch.cuda.empty_cache()


def go_backwards(model: Any, loss: torch.Tensor) -> None:
    """Compute a gradient through all layers.

    The first trained parameter is below all of them. Its gradient alone costs little memory, and unlike `backward` this
    leaves nothing in the parameters and wakes no hook.
    """
    first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
    torch.autograd.grad(loss, first)
