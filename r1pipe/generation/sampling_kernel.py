"""Sampling one token a row from logits, as a Triton kernel. It needs a GPU with Triton.

Sorting 640 rows of 152,000 logits for top-p takes 11 ms and 3.3 GiB on an H200, several times as long as the step of a
small model that computed them. Nothing has to be sorted: the limit of top-p is found by cutting the range of possible
logits into parts, again and again, and asking which part holds it.

Shapes: B rows, V vocabulary, C entries of a block, W parts that a range is cut into.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
from __future__ import annotations

import torch
import triton
import triton.language as tl

# Entries of a block, where each is looked at once and where it is compared with the limits of all parts.
BLOCK = 4096
SEARCHED = 2048

# Parts that the range of possible logits is cut into. With more, fewer passes are made over the row, and each compares
# more often.
PARTS = 4

WARPS = 8

# Below every logit that is finite: the highest of a block in which none is.
LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def _key(logit_C, BITS: tl.constexpr):
    """Return a whole number for each logit, in the order of the logits: a float's own bits, those after the sign turned
    over where it is negative."""
    if BITS == 16:
        bits_C = logit_C.to(tl.int16, bitcast=True).to(tl.int32)
        key_C = tl.where(bits_C < 0, bits_C ^ 0x7FFF, bits_C)
    else:
        bits_C = logit_C.to(tl.int32, bitcast=True)
        key_C = tl.where(bits_C < 0, bits_C ^ 0x7FFFFFFF, bits_C)
    return key_C


@triton.jit
def _draw(
    logits_ptr, uniform_ptr, token_ptr, stride, vocabulary, scale, top_p,
    CUT: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, SEARCHED: tl.constexpr, W: tl.constexpr,
    PASSES: tl.constexpr,
):  # fmt: skip
    """Draw the token of one row by inverting its cumulative distribution."""
    row = tl.program_id(0)
    row_ptr = logits_ptr + row.to(tl.int64) * stride
    c = tl.arange(0, BLOCK)

    highest = tl.full((), LOWEST, tl.float32)
    for at in range(0, vocabulary, BLOCK):
        logit_C = tl.load(row_ptr + at + c, mask=at + c < vocabulary, other=float("-inf")).to(tl.float32)
        highest = tl.maximum(highest, tl.max(logit_C, 0))

    # The lowest key that is kept. It is in the range that begins here, and a part of the range takes the range's place.
    least = tl.full((), -(2 ** (BITS - 1)), tl.int32)
    if CUT:
        total = tl.zeros((), tl.float32)
        for at in range(0, vocabulary, BLOCK):
            logit_C = tl.load(row_ptr + at + c, mask=at + c < vocabulary, other=float("-inf")).to(tl.float32)
            total += tl.sum(tl.exp((logit_C - highest) * scale), 0)

        s = tl.arange(0, SEARCHED)
        w = tl.arange(0, W)
        size = tl.full((), 2**BITS // W, tl.int32)
        for _ in range(PASSES):
            held_W = tl.zeros((W,), tl.float32)
            for at in range(0, vocabulary, SEARCHED):
                own_C = tl.load(row_ptr + at + s, mask=at + s < vocabulary, other=float("-inf"))
                weight_C = tl.exp((own_C.to(tl.float32) - highest) * scale)
                above_CW = _key(own_C, BITS)[:, None] >= (least + w * size)[None, :]
                held_W += tl.sum(tl.where(above_CW, weight_C[:, None], 0.0), 0)
            # The first part holds enough in any case, whatever rounding says.
            enough = tl.sum((held_W >= top_p * total).to(tl.int32), 0)
            least += tl.maximum(enough - 1, 0) * size
            size = size // W

    # The sum of what is kept is added up as the walk below does it, so that the walk reaches the target.
    kept = tl.zeros((), tl.float32)
    for at in range(0, vocabulary, BLOCK):
        own_C = tl.load(row_ptr + at + c, mask=at + c < vocabulary, other=float("-inf"))
        weight_C = tl.exp((own_C.to(tl.float32) - highest) * scale)
        kept += tl.sum(tl.where(_key(own_C, BITS) >= least, weight_C, 0.0), 0)

    target = tl.load(uniform_ptr + row) * kept
    reached = tl.zeros((), tl.float32)
    before = tl.zeros((), tl.float32)
    start = tl.zeros((), tl.int32)
    for at in range(0, vocabulary, BLOCK):
        own_C = tl.load(row_ptr + at + c, mask=at + c < vocabulary, other=float("-inf"))
        weight_C = tl.exp((own_C.to(tl.float32) - highest) * scale)
        after = reached + tl.sum(tl.where(_key(own_C, BITS) >= least, weight_C, 0.0), 0)
        here = (reached <= target) & (after > target)
        start = tl.where(here, at, start)
        before = tl.where(here, reached, before)
        reached = after

    own_C = tl.load(row_ptr + start + c, mask=start + c < vocabulary, other=float("-inf"))
    weight_C = tl.exp((own_C.to(tl.float32) - highest) * scale)
    weight_C = tl.where(_key(own_C, BITS) >= least, weight_C, 0.0)
    possible_C = weight_C > 0
    passed_C = tl.cumsum(weight_C, 0) > target - before
    first = tl.min(tl.where(possible_C & passed_C, c, BLOCK), 0)
    # The sum inside a block is rounded otherwise than that of whole blocks, and may end just below the target.
    last = tl.max(tl.where(possible_C, c, 0), 0)
    tl.store(token_ptr + row, (start + tl.minimum(first, last)).to(tl.int64))


def draw(logits_BV: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Sample one token a row, (B,), with torch's default generator.

    Args:
        logits_BV: in float32, bfloat16 or float16, a row's entries next to each other.
        temperature: above 0.
        top_p: 1 = all tokens. Tokens of one probability are kept or cut together.
    """
    # One number a row, below 1 in float32.
    uniform_B = torch.rand(len(logits_BV), device=logits_BV.device)
    return draw_with(logits_BV, uniform_B, temperature, top_p)


# An operator, so that tensors without numbers never reach the kernel.
@torch.library.custom_op("r1pipe::draw_with", mutates_args=())
def draw_with(logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Return the token of each row, (B,), at these places of the rows' cumulative distributions.

    Args:
        logits: (B, V).
        uniform: (B,), at least 0 and below 1.
        temperature: see draw.
        top_p: see draw.
    """
    rows, vocabulary = logits.shape
    assert logits.stride(1) == 1, logits.stride()
    bits = 8 * logits.element_size()
    token_B = torch.empty(rows, dtype=torch.long, device=logits.device)
    with torch.cuda.device_of(logits):
        _draw[(rows,)](
            logits,
            uniform,
            token_B,
            logits.stride(0),
            vocabulary,
            1.0 / temperature,
            top_p,
            CUT=top_p < 1,
            BITS=bits,
            BLOCK=BLOCK,
            SEARCHED=SEARCHED,
            W=PARTS,
            # Parts are powers of two, and so each pass settles the same number of bits.
            PASSES=bits // (PARTS.bit_length() - 1),
            num_warps=WARPS,
        )
    return token_B


@draw_with.register_fake
def _(logits: torch.Tensor, uniform: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    return logits.new_empty(len(logits), dtype=torch.long)
