"""Attention of one new token a sequence over a cache that stays in place, so that a CUDA graph can hold it.

A cache has a slot for each sequence. Which slot a row of the batch writes to and reads from, and how many of its
columns it sees, are tensors, whose new values a graph's replay reads. So the batch shrinks without a copy of the cache,
the cache holds no padding, and one graph serves every length.

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


class CacheEntries(NamedTuple):
    """Where each row's new token goes in the cache, and what it sees.

    Attributes:
        slot_B: the row's slot.
        column_B: the new token's column.
        visible_B: how many columns it sees, from the first on, its own included.
    """

    slot_B: torch.Tensor
    column_B: torch.Tensor
    visible_B: torch.Tensor


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
    cache_entries: CacheEntries | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over the module's cache `module.cached`; without cache entries, as transformers' own SDPA.

    The signature is that of transformers' attention functions.

    Returns:
        The output, (B, 1, H, D), and no weights.
    """
    if cache_entries is None:
        return sdpa_attention_forward(
            module,
            query_BHTD,
            key_BKTD,
            value_BKTD,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )
    keys_SLKD, values_SLKD = module.cached
    target = (cache_entries.slot_B, cache_entries.column_B)
    # Written here and not in the operator below, so that the compiler joins it with what comes before.
    keys_SLKD.index_put_(target, key_BKTD.squeeze(2))
    values_SLKD.index_put_(target, value_BKTD.squeeze(2))
    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    output_BHD = attend_cached(
        query_BHTD.squeeze(2), keys_SLKD, values_SLKD, cache_entries.slot_B, cache_entries.visible_B, scale
    )
    return output_BHD[:, None], None


@torch.library.custom_op("r1pipe::attend_cached", mutates_args=())
def attend_cached(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
    visible: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attend with one query a row over the first `visible` columns of the row's slot.

    Args:
        query: (B, H, D).
        keys: (S, L, K, D).
        values: (S, L, K, D).
        slot: (B,).
        visible: (B,), at least 1.
        scale: of the scores.

    Returns:
        The output, (B, H, D).
    """
    if query.is_cuda:
        # Imported late: Triton is not installed everywhere.
        from r1pipe.generation.cached_kernel import attend

        return attend(query, keys, values, slot, visible, scale)

    mask_BL = torch.arange(keys.shape[1]) < visible[:, None]
    output_BH1D = scaled_dot_product_attention(
        query[:, :, None],
        keys[slot].transpose(1, 2),
        values[slot].transpose(1, 2),
        attn_mask=mask_BL[:, None, None],
        scale=scale,
        enable_gqa=True,
    )
    return output_BH1D.squeeze(2).contiguous()


@attend_cached.register_fake
def _(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
    visible: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)
