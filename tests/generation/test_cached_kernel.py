"""The kernel on a GPU.

`TRITON_INTERPRET=1 pytest` runs it without one where Triton is installed (and a NumPy below 2.4).
"""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

GPU = torch.cuda.is_available()
INTERPRETED = find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(not GPU and not INTERPRETED, reason="needs a GPU, or Triton's interpreter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16 if GPU else torch.float16])
@pytest.mark.parametrize(
    ("rows", "heads", "key_heads", "width"),
    [
        (6, 14, 2, 64),
        (3, 6, 2, 8),
        (5, 4, 4, 80),
        pytest.param(520, 4, 2, 16, id="one part a row"),
        pytest.param(100, 28, 4, 128, id="7B"),
    ],
)
def test_rows_see_their_slots_first_columns(
    rows: int, heads: int, key_heads: int, width: int, dtype: torch.dtype, monkeypatch
) -> None:
    if not GPU:
        monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: contextlib.nullcontext())
    from r1pipe.generation.cached_kernel import attend

    torch.manual_seed(0)
    columns, device = 300 if rows < 100 else 70, "cuda" if GPU else "cpu"
    keys, values = torch.randn(2, rows + 1, columns, key_heads, width, dtype=dtype, device=device)
    query = torch.randn(rows, heads, width, dtype=dtype, device=device)
    slot = torch.randperm(rows + 1, device=device)[:rows]
    seen = torch.randint(1, columns + 1, (rows,), device=device)
    seen[0], seen[-1] = 1, columns
    keys[slot[0], 1:] = torch.nan
    found = attend(query, keys, values, slot, seen, width**-0.5)
    assert found.dtype == dtype
    mask_BL = torch.arange(columns, device=device) < seen[:, None]
    own = [each[slot].nan_to_num().transpose(1, 2).float() for each in (keys, values)]
    wanted = scaled_dot_product_attention(
        query[:, :, None].float(), *own, attn_mask=mask_BL[:, None, None], scale=width**-0.5, enable_gqa=True
    )[:, :, 0]
    assert (found.float() - wanted).abs().max() < {
        torch.float32: 1e-5,
        torch.float16: 2e-3,
        torch.bfloat16: 2e-2,
    }[dtype]
