"""Which kernel packed attention runs on, and FlashAttention 4 as operators of torch."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from noted_graphs import by_sdpa

from r1pipe.models import attention_kernels as kernels
from r1pipe.models.attention_kernels import Kernel, flash4

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def aligned_at_the_beginning(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
    """SDPA's own causal mask: right where queries and keys are equal in number."""
    ends, key_ends, _, scale = rest
    parts = zip(
        q.split(ends.diff().tolist()), *(x.split(key_ends.diff().tolist()) for x in (k, v)), strict=True
    )
    groups = q.shape[1] // k.shape[1]
    outputs = []
    for part in parts:
        one, other, third = (x.transpose(0, 1)[None] for x in part)
        other, third = (x.repeat_interleave(groups, 1) for x in (other, third))
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(one, other, third, is_causal=True, scale=scale)
        )
    return torch.cat(outputs, 2)[0].transpose(0, 1)


def half_of_it(q: torch.Tensor, *rest: Any) -> torch.Tensor:
    return by_sdpa(q, *rest) / 2


def too_old(*_: Any) -> torch.Tensor:
    raise ValueError("too many values to unpack")


@pytest.mark.parametrize(
    ("tried", "why"),
    [(by_sdpa, None), (half_of_it, "away from torch's"), (too_old, "ValueError: too many values")],
)
def test_a_kernel_is_tried_before_it_is_used(tried: Any, why: str | None) -> None:
    difference = kernels._difference(tried, by_sdpa, 64)
    assert difference is None if why is None else why in (difference or "")


def test_more_keys_than_queries_are_tried_before_they_are_used() -> None:
    """A causal mask that is aligned at the beginning is found by this case, and by no other."""
    assert kernels._difference(by_sdpa, by_sdpa, 64, extra_keys=True) is None
    assert kernels._difference(aligned_at_the_beginning, by_sdpa, 64) is None
    found = kernels._difference(aligned_at_the_beginning, by_sdpa, 64, extra_keys=True)
    assert "away from torch's" in (found or "")


@pytest.fixture
def flash_by_sdpa(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """FlashAttention 4's two functions by their contract, on the CPU; the arguments of their calls."""
    calls: list[dict[str, Any]] = []

    def forward(q: Any, k: Any, v: Any, **more: Any) -> tuple[Any, ...]:
        calls.append(more)
        return (
            by_sdpa(
                q, k, v, more["cu_seqlens_q"], more["cu_seqlens_k"], 0, more["softmax_scale"]
            ).contiguous(),
            q.new_zeros((q.shape[1], q.shape[0]), dtype=torch.float32),
            None,
        )

    def backward(
        q: Any, k: Any, v: Any, out: Any, grad: Any, log_sum: Any, scale: float, **more: Any
    ) -> tuple[Any, ...]:
        calls.append(more)
        groups = q.shape[1] // k.shape[1]
        ends, key_ends = (more[f"cu_seqlens_{name}"].tolist() for name in ("q", "k"))
        parts = []
        for a, b, c, d in zip(
            ends, ends[1:], key_ends, key_ends[1:], strict=False
        ):  # H heads, T and S tokens
            q_HTF, g_HTF = (x[a:b].transpose(0, 1) for x in (q, grad))
            k_HSF, v_HSF = (x[c:d].repeat_interleave(groups, 1).transpose(0, 1) for x in (k, v))
            ahead_TS = torch.ones(b - a, d - c, dtype=torch.bool).triu(1 + d - c - b + a)
            p_HTS = (scale * q_HTF @ k_HSF.mT).masked_fill(ahead_TS, float("-inf")).softmax(-1)
            dp_HTS = g_HTF @ v_HSF.mT
            ds_HTS = scale * p_HTS * (dp_HTS - (dp_HTS * p_HTS).sum(-1, keepdim=True))
            dk_SHF, dv_SHF = (
                (x.mT @ y).transpose(0, 1).unflatten(1, (-1, groups)).sum(2)
                for x, y in ((ds_HTS, q_HTF), (p_HTS, g_HTF))
            )
            parts.append(((ds_HTS @ k_HSF).transpose(0, 1), dk_SHF, dv_SHF))
        return tuple(torch.cat(x) for x in zip(*parts, strict=True))

    module = types.SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)
    for name in ("flash_attn", "flash_attn.cute"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", module)  # type: ignore[arg-type]
    return calls


def case(width: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    draw = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(9, heads, width, generator=draw, device=device).to(dtype).requires_grad_()
        for heads in (4, 2, 2)
    )
    ends = torch.tensor([0, 4, 9], dtype=torch.int32, device=device)
    return q, k, v, ends, ends, 8, 0.25


def case_of_more_keys(width: int) -> tuple[Any, ...]:
    """Of the second sequence the last two queries alone."""
    q, k, v, key_ends, *rest = case(width)
    ends = torch.tensor([0, 4, 6], dtype=torch.int32)
    return q.detach()[:6].clone().requires_grad_(), k, v, ends, key_ends, *rest[1:]


def test_the_operators_are_what_torch_expects(flash_by_sdpa: list[dict[str, Any]]) -> None:
    """Schema, shapes without data, gradients and compilation: torch's own check."""
    torch.library.opcheck(
        torch.ops.r1pipe.flash4.default,
        case(16),
        test_utils=(
            "test_schema",
            "test_autograd_registration",
            "test_faketensor",
            "test_aot_dispatch_dynamic",
        ),
    )
    assert all(call["causal"] and call["max_seqlen_q"] == call["max_seqlen_k"] == 8 for call in flash_by_sdpa)
    for q, k, v, *rest in (case(16), case_of_more_keys(16)):
        wanted = torch.autograd.grad(by_sdpa(q, k, v, *rest).square().sum(), (q, k, v))
        found = torch.autograd.grad(flash4(q, k, v, *rest).square().sum(), (q, k, v))
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the stand-in computes on a CPU")
def test_where_it_is_chosen(flash_by_sdpa: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    own = Kernel("torch", by_sdpa, True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 6))
    assert kernels._flash4_kernel(own, 64) is None, "no backward pass before Hopper"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert kernels._flash4_kernel(own, 64) == Kernel("FlashAttention 4", flash4, True)
    with pytest.warns(UserWarning, match="not used for heads of 64: its output or gradients are"):
        assert kernels._flash4_kernel(Kernel("torch", half_of_it, False), 64) is None
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", None)
    assert kernels._flash4_kernel(own, 64) is None, "not installed: nothing to warn of"


@cuda
@pytest.mark.parametrize("width", [64, 128, 192])
def test_on_the_gpu_it_is_what_torch_computes(width: int) -> None:
    pytest.importorskip("flash_attn.cute.interface")
    if torch.cuda.get_device_capability() < kernels.HOPPER:
        pytest.skip("FlashAttention 4 needs Hopper")
    assert kernels._difference(flash4, kernels._torch_kernel().attend, width) is None
    assert kernels.extra_keys_work(width)
    assert kernels.attention_kernel(width).name == "FlashAttention 4"
