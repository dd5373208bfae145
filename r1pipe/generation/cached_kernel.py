"""Attention of one query a row over the row's slot of a cache, as a Triton kernel; it needs a GPU with Triton.

torch's FlashAttention does it too, at half the speed of the memory: it pads the few query heads of a key head to 64 or 128 rows and copies queries and
outputs (H100, a 0.5B shape: 48 and 60 us a layer of the 20 and 29 that reading the keys takes).

Shapes: B rows, S slots, L columns of a slot, H query heads, K key heads, G = H / K, D head size, N parts that a row's columns are cut into.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 32  # columns at a time
WARPS = 2
STAGES = {
    2: 4,
    4: 2,
}  # blocks on their way from memory, by bytes of an element: more do not fit beside each other on cards smaller than an H100
ENOUGH = 384  # programs; where there are fewer, rows are cut into parts (measured on an H100: joining parts costs more than idle units)
MOST_PARTS = 8
LEAST_ROWS = 16  # of a product on tensor cores
LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    query_ptr, keys_ptr, values_ptr, slot_ptr, seen_ptr, out_ptr, lse_ptr, columns, scale,
    K: tl.constexpr, G: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The query heads of one key head of one row, over one part of the columns that the row sees."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    seen = tl.load(seen_ptr + row)
    share = tl.cdiv(tl.cdiv(seen, BLOCK), N) * BLOCK
    start = part * share
    stop = tl.minimum(start + share, seen)
    first = tl.load(slot_ptr + row).to(tl.int64) * columns * K * D + head * D
    g, d = tl.arange(0, GROUP), tl.arange(0, WIDTH)
    heads = (row * K + head) * G + g
    used = (g < G)[:, None] & (d < D)[None, :]
    query_GD = tl.load(query_ptr + heads[:, None] * D + d[None, :], mask=used, other=0.0)
    highest_G = tl.full((GROUP,), float("-inf"), tl.float32)
    total_G = tl.zeros((GROUP,), tl.float32)
    out_GD = tl.zeros((GROUP, WIDTH), tl.float32)
    for at in range(start, stop, BLOCK):
        column = at + tl.arange(0, BLOCK)
        there = column < stop
        place = first + column.to(tl.int64)[:, None] * K * D + d[None, :]
        inside = there[:, None] & (d < D)[None, :]
        keys_CD = tl.load(keys_ptr + place, mask=inside, other=0.0)
        values_CD = tl.load(values_ptr + place, mask=inside, other=0.0)
        score_GC = tl.dot(query_GD, tl.trans(keys_CD), input_precision="ieee") * scale
        score_GC = tl.where(there[None, :], score_GC, float("-inf"))
        higher_G = tl.maximum(highest_G, tl.max(score_GC, 1))
        weight_GC = tl.exp2(score_GC - higher_G[:, None])
        less_G = tl.exp2(highest_G - higher_G)
        total_G = total_G * less_G + tl.sum(weight_GC, 1)
        out_GD = out_GD * less_G[:, None] + tl.dot(weight_GC.to(values_CD.dtype), values_CD, input_precision="ieee")
        highest_G = higher_G
    out_GD = out_GD / tl.maximum(total_G, 1e-30)[:, None]
    if N == 1:
        tl.store(out_ptr + heads[:, None] * D + d[None, :], out_GD.to(out_ptr.dtype.element_ty), mask=used)
    else:  # a part without columns has a sum of zero
        tl.store(out_ptr + (heads * N + part)[:, None] * D + d[None, :], out_GD, mask=used)
        tl.store(
            lse_ptr + heads * N + part, tl.where(total_G > 0, highest_G + tl.log2(total_G), float("-inf")), mask=g < G
        )


@triton.jit
def _join(parts_ptr, lse_ptr, out_ptr, D: tl.constexpr, WIDTH: tl.constexpr, N: tl.constexpr):
    """One query head of one row from its parts."""
    head = tl.program_id(0).to(tl.int64)
    n, d = tl.arange(0, N), tl.arange(0, WIDTH)
    lse_N = tl.load(lse_ptr + head * N + n)
    weight_N = tl.exp2(lse_N - tl.max(lse_N, 0))
    parts_ND = tl.load(parts_ptr + (head * N + n)[:, None] * D + d[None, :], mask=(d < D)[None, :], other=0.0)
    out_D = tl.sum(parts_ND * weight_N[:, None], 0) / tl.sum(weight_N, 0)
    tl.store(out_ptr + head * D + d, out_D.to(out_ptr.dtype.element_ty), mask=d < D)


def parts_of(rows: int, key_heads: int) -> int:
    """How many parts a row's columns are cut into: a power of two.

    >>> [parts_of(rows, 2) for rows in (512, 128, 96, 48, 16)]
    [1, 1, 2, 4, 8]
    """
    parts = 1
    while parts < MOST_PARTS and 2 * parts * rows * key_heads <= ENOUGH:
        parts *= 2
    return parts


def attend(
    query_BHD: torch.Tensor,
    keys_SLKD: torch.Tensor,
    values_SLKD: torch.Tensor,
    slot_B: torch.Tensor,
    seen_B: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Each query over the first `seen_B` (at least one) columns of its slot: (B, H, D)."""
    rows, heads, width = query_BHD.shape
    _, columns, key_heads, _ = keys_SLKD.shape
    parts = parts_of(rows, key_heads)
    out_BHD = torch.empty_like(query_BHD, memory_format=torch.contiguous_format)
    parts_BHND = out_BHD if parts == 1 else query_BHD.new_empty((rows, heads, parts, width), dtype=torch.float32)
    lse_BHN = query_BHD.new_empty((rows, heads, parts), dtype=torch.float32)
    sizes = {"D": width, "WIDTH": max(LEAST_ROWS, triton.next_power_of_2(width)), "N": parts}
    group = {
        "K": key_heads,
        "G": heads // key_heads,
        "GROUP": max(LEAST_ROWS, triton.next_power_of_2(heads // key_heads)),
    }
    tuned = {"BLOCK": BLOCK, "num_warps": WARPS, "num_stages": STAGES[query_BHD.element_size()] if width <= 128 else 2}
    tensors = (query_BHD.contiguous(), keys_SLKD, values_SLKD, slot_B, seen_B, parts_BHND, lse_BHN)
    with torch.cuda.device_of(query_BHD):
        _attend[(rows, key_heads, parts)](*tensors, columns, scale * LOG2_E, **group, **sizes, **tuned)
        if parts > 1:
            _join[(rows * heads,)](parts_BHND, lse_BHN, out_BHD, **sizes)
    return out_BHD
