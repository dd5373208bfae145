"""Attention of one query a row over the row's slot of a cache, as a Triton kernel. It needs a GPU with Triton.

torch's FlashAttention does the same at half the speed of the memory. It pads the few query heads of a key head to 64
or 128 rows and copies queries and outputs (H100, a 0.5B shape: it takes 48 and 60 us a layer, of which reading the keys
needs 20 and 29 us).

Shapes: B rows, S slots, L columns of a slot, H query heads, K key heads, G = H / K, D head size, C columns of a block,
N parts that a row's columns are cut into.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl

# Columns of a block.
BLOCK = 32

WARPS = 2

# Blocks on their way from memory, by the bytes of an element. More do not fit beside each other on cards smaller than
# an H100.
STAGES = {2: 4, 4: 2}

# With fewer programs than this, rows are cut into parts. Measured on an H100: above it, joining the parts takes longer
# than units that do nothing.
ENOUGH_PROGRAMS = 384

MOST_PARTS = 8

# Rows of a product on tensor cores, at least.
LEAST_ROWS = 16

LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    query_ptr, keys_ptr, values_ptr, slot_ptr, visible_ptr, out_ptr, lse_ptr, columns, scale,
    K: tl.constexpr, G: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """Attend with the query heads of one key head of one row, over one part of the columns that the row sees.

    The softmax is computed block by block: the highest score so far, the sum of weights relative to it, and the output
    relative to it.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    part = tl.program_id(2)

    # The part's columns.
    visible = tl.load(visible_ptr + row)
    share = tl.cdiv(tl.cdiv(visible, BLOCK), N) * BLOCK
    start = part * share
    stop = tl.minimum(start + share, visible)

    # A cache may have more than 2^31 elements.
    slot_start = tl.load(slot_ptr + row).to(tl.int64) * columns * K * D + head * D
    g = tl.arange(0, GROUP)
    d = tl.arange(0, WIDTH)
    heads = (row * K + head) * G + g
    # GROUP and WIDTH are powers of two, so some of their entries are padding.
    used = (g < G)[:, None] & (d < D)[None, :]
    query_GD = tl.load(query_ptr + heads[:, None] * D + d[None, :], mask=used, other=0.0)

    highest_G = tl.full((GROUP,), float("-inf"), tl.float32)
    total_G = tl.zeros((GROUP,), tl.float32)
    out_GD = tl.zeros((GROUP, WIDTH), tl.float32)
    for at in range(start, stop, BLOCK):
        column_C = at + tl.arange(0, BLOCK)
        inside_C = column_C < stop
        offset_CD = slot_start + column_C.to(tl.int64)[:, None] * K * D + d[None, :]
        inside_CD = inside_C[:, None] & (d < D)[None, :]
        keys_CD = tl.load(keys_ptr + offset_CD, mask=inside_CD, other=0.0)
        values_CD = tl.load(values_ptr + offset_CD, mask=inside_CD, other=0.0)

        score_GC = tl.dot(query_GD, tl.trans(keys_CD), input_precision="ieee") * scale
        score_GC = tl.where(inside_C[None, :], score_GC, float("-inf"))
        new_highest_G = tl.maximum(highest_G, tl.max(score_GC, 1))
        weight_GC = tl.exp2(score_GC - new_highest_G[:, None])
        shrink_G = tl.exp2(highest_G - new_highest_G)
        total_G = total_G * shrink_G + tl.sum(weight_GC, 1)
        out_GD = out_GD * shrink_G[:, None] + tl.dot(
            weight_GC.to(values_CD.dtype), values_CD, input_precision="ieee"
        )
        highest_G = new_highest_G

    # A part without columns has a sum of zero.
    out_GD = out_GD / tl.maximum(total_G, 1e-30)[:, None]
    if N == 1:
        tl.store(out_ptr + heads[:, None] * D + d[None, :], out_GD.to(out_ptr.dtype.element_ty), mask=used)
    else:
        tl.store(out_ptr + (heads * N + part)[:, None] * D + d[None, :], out_GD, mask=used)
        lse_G = tl.where(total_G > 0, highest_G + tl.log2(total_G), float("-inf"))
        tl.store(lse_ptr + heads * N + part, lse_G, mask=g < G)


@triton.jit
def _join(parts_ptr, lse_ptr, out_ptr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr):
    """Join the parts of one query head of one row, each weighted by its share of the softmax."""
    head = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, N)
    d = tl.arange(0, WIDTH)
    lse_N = tl.load(lse_ptr + head * N + n)
    weight_N = tl.exp2(lse_N - tl.max(lse_N, 0))
    parts_ND = tl.load(parts_ptr + (head * N + n)[:, None] * D + d[None, :], mask=(d < D)[None, :], other=0.0)
    out_D = tl.sum(parts_ND * weight_N[:, None], 0) / tl.sum(weight_N, 0)
    tl.store(out_ptr + head * D + d, out_D.to(out_ptr.dtype.element_ty), mask=d < D)


def part_count(rows: int, key_heads: int) -> int:
    """Return how many parts a row's columns are cut into: a power of two.

    >>> [part_count(rows, 2) for rows in (512, 128, 96, 48, 16)]
    [1, 1, 2, 4, 8]
    """
    parts = 1
    while parts < MOST_PARTS and 2 * parts * rows * key_heads <= ENOUGH_PROGRAMS:
        parts *= 2
    return parts


def attend(
    query_BHD: torch.Tensor,
    keys_SLKD: torch.Tensor,
    values_SLKD: torch.Tensor,
    slot_B: torch.Tensor,
    visible_B: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attend with each query over the first `visible_B` (at least one) columns of its slot; return (B, H, D)."""
    rows, heads, width = query_BHD.shape
    _, columns, key_heads, _ = keys_SLKD.shape
    parts = part_count(rows, key_heads)
    out_BHD = torch.empty_like(query_BHD, memory_format=torch.contiguous_format)
    # One part goes straight to the output; several are kept in float32 until they are joined.
    parts_BHND = (
        out_BHD if parts == 1 else query_BHD.new_empty((rows, heads, parts, width), dtype=torch.float32)
    )
    lse_BHN = query_BHD.new_empty((rows, heads, parts), dtype=torch.float32)

    group = heads // key_heads
    sizes = {"D": width, "WIDTH": max(LEAST_ROWS, triton.next_power_of_2(width)), "N": parts}
    groups = {"K": key_heads, "G": group, "GROUP": max(LEAST_ROWS, triton.next_power_of_2(group))}
    stages = STAGES[query_BHD.element_size()] if width <= 128 else 2
    tuned = {"BLOCK": BLOCK, "num_warps": WARPS, "num_stages": stages}
    with torch.cuda.device_of(query_BHD):
        _attend[(rows, key_heads, parts)](
            query_BHD.contiguous(),
            keys_SLKD,
            values_SLKD,
            slot_B,
            visible_B,
            parts_BHND,
            lse_BHN,
            columns,
            # The kernel computes powers of 2.
            scale * LOG2_E,
            **groups,
            **sizes,
            **tuned,
        )
        if parts > 1:
            _join[(rows * heads,)](parts_BHND, lse_BHN, out_BHD, **sizes)
    return out_BHD
