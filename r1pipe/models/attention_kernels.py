"""The causal kernel over packed sequences: FlashAttention 4 where it is installed and agrees, else the one that torch brings.

torch's `varlen_attn` is FlashAttention 2. On a Hopper GPU or later FlashAttention 4 (`pip install 'r1pipe[flash]'`) is faster; it compiles itself
on first use. torch can put it in the place of its own kernel, but 2.11 fails with what FlashAttention 4 returns today, so it is called here.

Shapes: T tokens, H query heads, K key heads, F head size of all three, N sequences.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from r1pipe.models.loading import own_device

HOPPER = (9, 0)  # the compute capability from which FlashAttention 4 has a backward pass
ALIKE = 0.02  # relative distance of outputs and of gradients in bf16, whose own rounding is 0.004
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, float], torch.Tensor]


class Kernel(NamedTuple):
    """attend(query_THF, key_TKF, value_TKF, ends_N1 in int32, a bound of the longest sequence, scale) is output_THF."""

    name: str
    attend: Attend
    grouped: bool  # it takes fewer key heads than query heads


_KERNELS: dict[int, Kernel] = {}


def attention_kernel(width: int) -> Kernel:
    """The kernel for heads of `width`. Found out once, before anything is compiled: a small case is tried on the GPU."""
    if width not in _KERNELS:
        own = _of_torch()
        _KERNELS[width] = _flash4(own, width) or own
    return _KERNELS[width]


@functools.cache
def _of_torch() -> Kernel:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    more: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        more["enable_gqa"] = True

    def attend(
        query_THF: torch.Tensor,
        key_TKF: torch.Tensor,
        value_TKF: torch.Tensor,
        ends_N1: torch.Tensor,
        longest: int,
        scale: float,
    ) -> torch.Tensor:
        out: Any = varlen_attn(query_THF, key_TKF, value_TKF, ends_N1, ends_N1, longest, longest, scale=scale, **more)
        return out

    # torch 2.11 does not say whether its kernel takes grouped heads as they are
    return Kernel("torch", attend, "enable_gqa" in known or _difference(attend, attend, 64) is None)


def _flash4(own: Kernel, width: int) -> Kernel | None:
    """FlashAttention 4; None where it is not installed, cannot run here, or differs from torch's kernel."""
    if torch.cuda.get_device_capability(own_device()) < HOPPER:
        return None
    try:
        import flash_attn.cute.interface  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        return None
    if why := _difference(flash4, own.attend if own.grouped else _repeating(own.attend), width):
        warnings.warn(f"FlashAttention 4 is installed and not used for heads of {width}: {why}", stacklevel=4)
        return None
    return Kernel("FlashAttention 4", flash4, True)


def _repeating(attend: Attend) -> Attend:
    def repeated(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, ends: torch.Tensor, longest: int, scale: float
    ) -> torch.Tensor:
        groups = query.shape[1] // key.shape[1]
        return attend(query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), ends, longest, scale)

    return repeated


def _difference(tried: Attend, known: Attend, width: int) -> str | None:
    """What is wrong with `tried` on grouped heads, forward and backward, beside `known` on repeated ones; None where nothing is."""
    device = own_device()
    draw = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(96, heads, width, device=device, generator=draw).to(torch.bfloat16).requires_grad_()
        for heads in (4, 2, 2)
    )
    ends = torch.tensor([0, 32, 96], device=device, dtype=torch.int32)

    def run(attend: Attend) -> list[torch.Tensor]:
        out = attend(q, k, v, ends, 64, width**-0.5)
        return [out.detach(), *torch.autograd.grad(out.float().square().sum(), (q, k, v))]

    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        wanted = run(_repeating(known))
        try:
            found = run(tried)
        except Exception as error:  # whatever a kernel that does not fit this machine raises
            return f"{type(error).__name__}: {error}"[:300]
    far = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(found, wanted, strict=True))
    return None if far < ALIKE else f"its output or gradients are {100 * far:.1f} % away from torch's"


# --- FlashAttention 4 as operators that torch.compile takes as they are -------------------------------------------------


def flash4(
    query_THF: torch.Tensor,
    key_TKF: torch.Tensor,
    value_TKF: torch.Tensor,
    ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    return torch.ops.r1pipe.flash4(query_THF, key_TKF, value_TKF, ends_N1, longest, scale)[0]


@torch.library.custom_op("r1pipe::flash4", mutates_args=())
def _forward(
    query_THF: torch.Tensor,
    key_TKF: torch.Tensor,
    value_TKF: torch.Tensor,
    ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    from flash_attn.cute.interface import _flash_attn_fwd  # type: ignore[import-not-found]

    of = {"cu_seqlens_q": ends_N1, "cu_seqlens_k": ends_N1, "max_seqlen_q": longest, "max_seqlen_k": longest}
    output_THF, log_sum_HT, *_ = _flash_attn_fwd(
        query_THF, key_TKF, value_TKF, **of, softmax_scale=scale, causal=True, return_lse=True
    )
    return output_THF, log_sum_HT


@_forward.register_fake
def _(
    query_THF: torch.Tensor,
    key_TKF: torch.Tensor,
    value_TKF: torch.Tensor,
    ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, heads, _ = query_THF.shape
    return torch.empty_like(query_THF), query_THF.new_empty((heads, tokens), dtype=torch.float32)


@torch.library.custom_op("r1pipe::flash4_backward", mutates_args=())
def _backward(
    grad_THF: torch.Tensor,
    query_THF: torch.Tensor,
    key_TKF: torch.Tensor,
    value_TKF: torch.Tensor,
    output_THF: torch.Tensor,
    log_sum_HT: torch.Tensor,
    ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from flash_attn.cute.interface import _flash_attn_bwd  # type: ignore[import-not-found]

    of = {"cu_seqlens_q": ends_N1, "cu_seqlens_k": ends_N1, "max_seqlen_q": longest, "max_seqlen_k": longest}
    grads = _flash_attn_bwd(
        query_THF, key_TKF, value_TKF, output_THF, grad_THF.contiguous(), log_sum_HT, scale, causal=True, **of
    )
    return grads[0], grads[1], grads[2]


@_backward.register_fake
def _(
    grad_THF: torch.Tensor, query_THF: torch.Tensor, key_TKF: torch.Tensor, value_TKF: torch.Tensor, *more: Any
) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(query_THF), torch.empty_like(key_TKF), torch.empty_like(value_TKF)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query_THF, key_TKF, value_TKF, ends_N1, ctx.longest, ctx.scale = inputs
    ctx.save_for_backward(query_THF, key_TKF, value_TKF, *output, ends_N1)


def _gradients(ctx: Any, grad_THF: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    grads = torch.ops.r1pipe.flash4_backward(grad_THF, *ctx.saved_tensors, ctx.longest, ctx.scale)
    return *grads, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)
