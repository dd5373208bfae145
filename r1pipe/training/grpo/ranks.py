"""What the ranks of one training exchange."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all ranks, one after the other; a collective. A scalar counts as a tensor of one element."""
    tensors: Any = gather(tensor)  # accelerate's annotation also allows containers of tensors
    return tensors
