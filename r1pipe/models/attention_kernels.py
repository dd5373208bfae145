"""The causal attention kernel over packed sequences: FlashAttention 4 where it can be used, else the one in torch.

Why it exists: torch's `varlen_attn` is FlashAttention 2. On Hopper GPUs and later, FlashAttention 4
(`pip install 'r1pipe[flash]'`) is faster. torch has a switch that replaces its own kernel by it, but with torch 2.11
the switch fails: the forward pass returns five values where torch expects fewer, and the backward pass rejects the
window that means "causal". So FlashAttention 4 is called here, as two operators that torch.compile understands.

What it gives: supervised fine-tuning of a 1.5B model on an H100 went from 40,241 to 45,449 tokens/s (with rows kept as
arrays); attention fell from 430 to 218 of 2,189 ms (LOG.md, 2026-11-22). With 8 rows of 32,768 tokens it went from
15,701 to 22,965 tokens/s (LOG.md, 2026-11-23).

A sequence may have more keys than queries: then its queries are its last tokens, and the causal mask is aligned at the
end. r1pipe/models/shared_prompts.py needs that, and `extra_keys_work` tries it.

Shapes: T tokens, U tokens with keys (T where every sequence has as many keys as queries), H query heads, K key heads, F
head size (the same for queries, keys and values), N sequences.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from r1pipe.models.loading import own_device

# The compute capability from which FlashAttention 4 has a backward pass.
HOPPER = (9, 0)

# The largest relative distance of outputs and gradients that passes as equal. The rounding of bf16 alone is 0.004.
ALIKE = 0.02

Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int, float], torch.Tensor
]


class Kernel(NamedTuple):
    """A kernel, and what it accepts.

    Attributes:
        name: for messages.
        attend: (query_THF, key_UKF, value_UKF, query_ends_N1 and key_ends_N1 as int32, a bound of the longest sequence,
            scale) -> output_THF.
        grouped: it accepts fewer key heads than query heads.
    """

    name: str
    attend: Attend
    grouped: bool


# The kernel that was chosen for each width of heads, once a process.
_KERNELS: dict[int, Kernel] = {}


def attention_kernel(width: int) -> Kernel:
    """The kernel for heads of this width.

    The first call for a width runs a small case on the GPU, so it must come before anything is compiled.
    """
    if width not in _KERNELS:
        torch_kernel = _torch_kernel()
        _KERNELS[width] = _flash4_kernel(torch_kernel, width) or torch_kernel
    return _KERNELS[width]


@functools.cache
def extra_keys_work(width: int) -> bool:
    """Whether the kernel is right where a sequence has more keys than queries.

    As `attention_kernel` it must be called before anything is compiled.
    """
    kernel = attention_kernel(width)
    known = kernel.attend
    tried = known if kernel.grouped else _repeating(known)
    return _difference(tried, known, width, extra_keys=True) is None


@functools.cache
def _torch_kernel() -> Kernel:
    from torch.nn.attention.varlen import varlen_attn

    # The argument that means "causal" has another name in each version of torch.
    parameters = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {}
    if "window_size" in parameters:
        options["window_size"] = (-1, 0)
    else:
        options["is_causal"] = True
    if "enable_gqa" in parameters:
        options["enable_gqa"] = True

    def attend(
        query_THF: torch.Tensor,
        key_UKF: torch.Tensor,
        value_UKF: torch.Tensor,
        query_ends_N1: torch.Tensor,
        key_ends_N1: torch.Tensor,
        longest: int,
        scale: float,
    ) -> torch.Tensor:
        output: Any = varlen_attn(
            query_THF,
            key_UKF,
            value_UKF,
            query_ends_N1,
            key_ends_N1,
            longest,
            longest,
            scale=scale,
            **options,
        )
        return output

    # torch 2.11 has no such argument and does not say whether its kernel accepts grouped heads, so that is tried.
    grouped = "enable_gqa" in parameters or _difference(attend, attend, 64) is None
    return Kernel("torch", attend, grouped)


def _flash4_kernel(torch_kernel: Kernel, width: int) -> Kernel | None:
    """FlashAttention 4, or None where it is not installed, cannot run on this GPU, or differs from torch's kernel."""
    if torch.cuda.get_device_capability(own_device()) < HOPPER:
        return None
    try:
        import flash_attn.cute.interface  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        return None

    # It is compiled for each width of heads, and for heads of 8 it computed something else. So it is tried first.
    known = torch_kernel.attend if torch_kernel.grouped else _repeating(torch_kernel.attend)
    difference = _difference(flash4, known, width)
    if difference:
        warnings.warn(
            f"FlashAttention 4 is installed and not used for heads of {width}: {difference}",
            stacklevel=4,
        )
        return None
    return Kernel("FlashAttention 4", flash4, grouped=True)


def _repeating(attend: Attend) -> Attend:
    """The same kernel for grouped heads, where it accepts equal numbers of heads only."""

    def repeated(
        query_THF: torch.Tensor,
        key_UKF: torch.Tensor,
        value_UKF: torch.Tensor,
        query_ends_N1: torch.Tensor,
        key_ends_N1: torch.Tensor,
        longest: int,
        scale: float,
    ) -> torch.Tensor:
        groups = query_THF.shape[1] // key_UKF.shape[1]
        key_UHF = key_UKF.repeat_interleave(groups, 1)
        value_UHF = value_UKF.repeat_interleave(groups, 1)
        return attend(query_THF, key_UHF, value_UHF, query_ends_N1, key_ends_N1, longest, scale)

    return repeated


def _difference(
    tried: Attend,
    known: Attend,
    width: int,
    *,
    extra_keys: bool = False,
) -> str | None:
    """Compare two kernels on a small case with grouped heads, forward and backward.

    Args:
        tried: the kernel that is in question; it gets grouped heads.
        known: the kernel that is right; it gets repeated heads.
        extra_keys: try a sequence with more keys than queries, too.

    Returns:
        what is wrong with `tried`, or None.
    """
    device = own_device()
    draw = torch.Generator(device).manual_seed(0)

    def random_heads(heads: int) -> torch.Tensor:
        values = torch.randn(96, heads, width, device=device, generator=draw)
        return values.to(torch.bfloat16).requires_grad_()

    # Two sequences of 32 and 64 tokens, and two query heads for each key head.
    query_THF = random_heads(4)
    key_UKF = random_heads(2)
    value_UKF = random_heads(2)
    ends_N1 = torch.tensor([0, 32, 96], device=device, dtype=torch.int32)
    every_Q = torch.arange(96, device=device)
    # The queries of `tried`: all, or all of the first sequence and the last 17 of the second.
    asked_Q = every_Q
    asked_ends_N1 = ends_N1
    if extra_keys:
        asked_Q = torch.cat([every_Q[:32], every_Q[-17:]])
        asked_ends_N1 = torch.tensor([0, 32, 49], device=device, dtype=torch.int32)

    def attend_all(attend: Attend) -> torch.Tensor:
        output_THF = attend(query_THF, key_UKF, value_UKF, ends_N1, ends_N1, 64, width**-0.5)
        return output_THF[asked_Q]

    def attend_asked(attend: Attend) -> torch.Tensor:
        return attend(query_THF[asked_Q], key_UKF, value_UKF, asked_ends_N1, ends_N1, 64, width**-0.5)

    def with_gradients(output_QHF: torch.Tensor) -> list[torch.Tensor]:
        loss = output_QHF.float().square().sum()
        gradients = torch.autograd.grad(loss, (query_THF, key_UKF, value_UKF))
        return [output_QHF.detach(), *gradients]

    # The caller may be inside no_grad or autocast, where gradients or types would not be those of training.
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        right = with_gradients(attend_all(_repeating(known)))
        try:
            results = with_gradients(attend_asked(tried))
        # A kernel that does not fit this machine or its libraries may raise anything.
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]

    distances = []
    for result, reference in zip(results, right, strict=True):
        distance = (result.float() - reference.float()).norm() / reference.float().norm()
        distances.append(float(distance))
    largest = max(distances)
    if largest < ALIKE:
        return None
    return f"its output or gradients are {100 * largest:.1f} % away from torch's"


# --- FlashAttention 4 as operators that torch.compile accepts without looking inside ----------------------------------


def flash4(
    query_THF: torch.Tensor,
    key_UKF: torch.Tensor,
    value_UKF: torch.Tensor,
    query_ends_N1: torch.Tensor,
    key_ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """FlashAttention 4's causal attention, with a gradient."""
    output_THF, _ = torch.ops.r1pipe.flash4(
        query_THF, key_UKF, value_UKF, query_ends_N1, key_ends_N1, longest, scale
    )
    return output_THF


# The forward pass also returns the log-normalisers of the scores, which the backward pass needs.
@torch.library.custom_op("r1pipe::flash4", mutates_args=())
def _forward(
    query_THF: torch.Tensor,
    key_UKF: torch.Tensor,
    value_UKF: torch.Tensor,
    query_ends_N1: torch.Tensor,
    key_ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    from flash_attn.cute.interface import _flash_attn_fwd  # type: ignore[import-not-found]

    output_THF, log_sum_HT, *_ = _flash_attn_fwd(
        query_THF,
        key_UKF,
        value_UKF,
        **_sequences(query_ends_N1, key_ends_N1, longest),
        softmax_scale=scale,
        causal=True,
        return_lse=True,
    )
    return output_THF, log_sum_HT


def _sequences(
    query_ends_N1: torch.Tensor,
    key_ends_N1: torch.Tensor,
    longest: int,
) -> dict[str, Any]:
    """Where the queries and the keys of sequences begin and end, by FlashAttention's names."""
    return {
        "cu_seqlens_q": query_ends_N1,
        "cu_seqlens_k": key_ends_N1,
        "max_seqlen_q": longest,
        "max_seqlen_k": longest,
    }


# Shapes and types of the results, from which torch.compile traces without running the kernel.
@_forward.register_fake
def _(
    query_THF: torch.Tensor,
    key_UKF: torch.Tensor,
    value_UKF: torch.Tensor,
    query_ends_N1: torch.Tensor,
    key_ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, heads, _ = query_THF.shape
    return torch.empty_like(query_THF), query_THF.new_empty((heads, tokens), dtype=torch.float32)


@torch.library.custom_op("r1pipe::flash4_backward", mutates_args=())
def _backward(
    grad_THF: torch.Tensor,
    query_THF: torch.Tensor,
    key_UKF: torch.Tensor,
    value_UKF: torch.Tensor,
    output_THF: torch.Tensor,
    log_sum_HT: torch.Tensor,
    query_ends_N1: torch.Tensor,
    key_ends_N1: torch.Tensor,
    longest: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from flash_attn.cute.interface import _flash_attn_bwd  # type: ignore[import-not-found]

    gradients = _flash_attn_bwd(
        query_THF,
        key_UKF,
        value_UKF,
        output_THF,
        # The kernel reads memory in order, and autograd may pass an expanded gradient.
        grad_THF.contiguous(),
        log_sum_HT,
        scale,
        causal=True,
        **_sequences(query_ends_N1, key_ends_N1, longest),
    )
    return gradients[0], gradients[1], gradients[2]


@_backward.register_fake
def _(
    grad_THF: torch.Tensor,
    query_THF: torch.Tensor,
    key_UKF: torch.Tensor,
    value_UKF: torch.Tensor,
    *rest: Any,
) -> tuple[torch.Tensor, ...]:
    return torch.empty_like(query_THF), torch.empty_like(key_UKF), torch.empty_like(value_UKF)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    query_THF, key_UKF, value_UKF, query_ends_N1, key_ends_N1, longest, scale = inputs
    ctx.longest = longest
    ctx.scale = scale
    ctx.save_for_backward(query_THF, key_UKF, value_UKF, *output, query_ends_N1, key_ends_N1)


def _gradients(ctx: Any, grad_THF: torch.Tensor, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    gradients = torch.ops.r1pipe.flash4_backward(grad_THF, *ctx.saved_tensors, ctx.longest, ctx.scale)
    # The ends, longest and scale have no gradient.
    return *gradients, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep_for_backward)
