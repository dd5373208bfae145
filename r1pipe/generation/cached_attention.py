"""Attention of one new token a sequence over a cache that stays where it is, so that a CUDA graph can hold it.

A cache has a slot for each sequence; which slot a row of the batch writes to and reads from, and how many of its columns, are tensors that a graph's
replay finds changed. So the batch shrinks without a copy of the cache, prompts are not padded in it, and one graph serves every length.

Shapes: B rows, S slots, L columns of a slot, T tokens, H query heads, K key heads, D head size.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "r1pipe_cached"


class Places(NamedTuple):
    """Where each row's new token goes, and what it sees."""

    slot_B: torch.Tensor
    column_B: torch.Tensor
    seen_B: torch.Tensor  # columns from the first on, the new token's among them


@cache
def register() -> None:
    """Make NAME known to transformers."""
    AttentionInterface.register(NAME, cached_attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def cached_attention_forward(
    module: Any,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    places: Places | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over the module's cache `module.cached`; transformers' own SDPA where no places are given. The signature is transformers'.

    Returns:
        attention output_B1HD, and no weights.
    """
    if places is None:
        return sdpa_attention_forward(
            module, query_BHTD, key_BKTD, value_BKTD, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    keys_SLKD, values_SLKD = module.cached
    where = (places.slot_B, places.column_B)
    keys_SLKD.index_put_(
        where, key_BKTD.squeeze(2)
    )  # not in the operator below: the compiler joins them with what is before
    values_SLKD.index_put_(where, value_BKTD.squeeze(2))
    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    return attend_cached(query_BHTD.squeeze(2), keys_SLKD, values_SLKD, places.slot_B, places.seen_B, scale)[
        :, None
    ], None


@torch.library.custom_op("r1pipe::attend_cached", mutates_args=())
def attend_cached(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    """Queries (B, H, D) over the first `seen` columns of each row's slot in keys and values (S, L, K, D): (B, H, D)."""
    if query.is_cuda:
        from r1pipe.generation.cached_kernel import attend  # Triton is not everywhere

        return attend(query, keys, values, slot, seen, scale)
    mask_BL = torch.arange(keys.shape[1]) < seen[:, None]
    own = (each[slot].transpose(1, 2) for each in (keys, values))
    return (
        scaled_dot_product_attention(
            query[:, :, None], *own, attn_mask=mask_BL[:, None, None], scale=scale, enable_gqa=True
        )
        .squeeze(2)
        .contiguous()
    )


@attend_cached.register_fake
def _(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, seen: torch.Tensor, scale: float
) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)
