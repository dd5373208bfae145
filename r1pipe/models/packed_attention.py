"""Exact packed attention without a flash-attn build: a variable-length kernel as a transformers attention.

A packed batch is one row of T tokens, several sequences one after the other; no token sees another sequence. `use_packed_attention(model)` switches a
model over, `pack(rows)` makes the inputs. On CUDA in half precision the kernel of r1pipe/models/attention_kernels.py runs; elsewhere one
scaled_dot_product_attention a sequence, which is the same number by number. Batches with padding, and generation with a cache, go through
transformers' own SDPA, so that a model that was switched over still samples and scores as before.

Shapes: B batch (1 when packed), T tokens, H query heads, K key heads, D head size of queries and keys, E head size of values, N sequences.

Not covered: sliding windows, attention sinks, soft caps, linear attention, dropout (`packing_obstacle` says so), and packed rows whose
`cu_seq_lens_q` is left out: position ids alone do not keep the sequences apart here.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from r1pipe.models.attention_kernels import attention_kernel
from r1pipe.models.loading import own_device

NAME = "r1pipe_varlen"  # transformers looks for 'flash', 'flex' and 'sdpa' in such names
MAX_HEAD = 256  # of the kernel
AMPERE = (8, 0)  # the compute capability that the kernel needs


# --- which models -----------------------------------------------------------------------------------------------------


def packing_obstacle(config: PreTrainedConfig, model: PreTrainedModel | None = None) -> str:
    """Why packed rows of this model would not be exact or not run; empty where they can be packed."""
    text = config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) and not kinds else None
    reasons = {
        "it is an encoder-decoder": getattr(config, "is_encoder_decoder", False),
        f"it has layers of {', '.join(sorted(kinds - {'full_attention'}))}": kinds - {"full_attention"},
        f"it attends in a window of {window} tokens": window,
        "it caps attention scores": getattr(text, "attn_logit_softcapping", None),
        "it drops attention weights (attention_dropout)": getattr(text, "attention_dropout", None),
        "its attention is sparse": getattr(text, "index_topk", None),
        f"its heads are wider than {MAX_HEAD}": max(head_widths(config)) > MAX_HEAD,
        "the kernel needs a GPU of compute capability 8.0 (Ampere) or later": (gpu_capability() or AMPERE) < AMPERE,
    }
    if model is not None:
        reasons["its class does not take an attention from outside"] = not getattr(
            model, "_supports_attention_backend", False
        )
        reasons["it keeps a state"] = getattr(model, "_is_stateful", False)
        reasons["it has attention sinks"] = any(
            name.rsplit(".", 1)[-1] in ("sinks", "sink") for name, _ in model.named_parameters()
        )
    return next((reason for reason, holds in reasons.items() if holds), "")


def gpu_capability() -> tuple[int, int] | None:
    """The compute capability of this rank's GPU; None without one."""
    return torch.cuda.get_device_capability(own_device()) if torch.cuda.is_available() else None


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Switch the model to packed attention; where it cannot be, warn and leave it as it is.

    Returns:
        whether packed rows may be fed to it.
    """
    if reason := packing_obstacle(model.config, model):
        warnings.warn(f"{type(model).__name__} is trained on padded batches, not packed ones: {reason}", stacklevel=2)
        return False
    if torch.cuda.is_available():
        attention_kernel(full_width(*head_widths(model.config)))
    register_packed_attention()
    model.set_attn_implementation(NAME)
    return True


def head_widths(config: PreTrainedConfig) -> tuple[int, int]:
    """Of queries and keys, and of values."""
    text = config.get_text_config(decoder=True)
    plain = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return getattr(text, "qk_head_dim", None) or plain, getattr(text, "v_head_dim", None) or plain


@cache
def register_packed_attention() -> None:
    """Make NAME known to transformers."""
    AttentionInterface.register(NAME, varlen_attention_forward)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(**told: Any) -> torch.Tensor | None:
    """None for packed rows and for rows without padding, which are causal; else transformers' mask, which SDPA reads."""
    if told.get("attention_mask") is None and told.get("q_length") == told.get("kv_length"):
        return None
    return sdpa_mask(**told)


# --- the inputs -------------------------------------------------------------------------------------------------------


def pack(rows: Sequence[Sequence[int]], device: torch.device | str | None = None) -> dict[str, Any]:
    """Sequences of token ids as the inputs of one forward pass.

    Returns:
        input_ids_1T, position_ids_1T (from 0 in each sequence), and what `packed_kwargs` gives.
    """
    lengths = [len(row) for row in rows]
    ids_1T = torch.tensor([token for row in rows for token in row], device=device)[None]
    positions_1T = torch.cat([torch.arange(n, device=device) for n in lengths])[None]
    return {"input_ids": ids_1T, "position_ids": positions_1T, **packed_kwargs(lengths, device)}


def packed_kwargs(lengths: Sequence[int], device: torch.device | str | None = None) -> dict[str, Any]:
    """What tells the attention where sequences begin, by the names that transformers and TRL's collator use.

    Returns:
        cu_seq_lens_q and _k: int32, (N + 1,); max_length_q and _k: an upper bound of the longest, in tokens.
    """
    ends_N1 = torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)
    longest = rounded(max(lengths))
    return {"cu_seq_lens_q": ends_N1, "cu_seq_lens_k": ends_N1, "max_length_q": longest, "max_length_k": longest}


def rounded(length: int) -> int:
    """The next power of two: the kernel takes any upper bound, and few different numbers mean few compilations.

    >>> rounded(1000), rounded(1024), rounded(1025)
    (1024, 1024, 2048)
    """
    return 1 << max(0, length - 1).bit_length()


# --- the attention ----------------------------------------------------------------------------------------------------


def varlen_attention_forward(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTE: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each sequence of a packed row; the signature is transformers'.

    Args:
        cu_seq_lens_q: where sequences begin and the last ends, (N + 1,); they cover all T. None: the batch is not packed, and SDPA runs.
        max_length_q: an upper bound of the longest sequence.

    Returns:
        attention output_BTHE, and no weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query_BHTD, key_BKTD, value_BKTE, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    assert dropout == 0.0, "packed attention has no dropout"
    assert query_BHTD.shape[0] == 1, f"a packed batch is one row, not {query_BHTD.shape[0]}"
    assert query_BHTD.shape[2] == key_BKTD.shape[2], "packed rows are not generated from a cache"
    assert not any(kwargs.get(name) is not None for name in ("sliding_window", "s_aux", "softcap", "position_bias")), (
        "see packing_obstacle"
    )
    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    device = query_BHTD.device.type
    if torch.is_autocast_enabled(
        device
    ):  # rotary embeddings in float32 lift queries and keys out of the half precision that values have
        half = torch.get_autocast_dtype(device)
        query_BHTD, key_BKTD, value_BKTE = query_BHTD.to(half), key_BKTD.to(half), value_BKTE.to(half)
    if _has_kernel(query_BHTD):
        if max_length_q is None or isinstance(max_length_q, torch.Tensor):
            max_length_q = int(cu_seq_lens_q.diff().max())
        return _kernel(query_BHTD, key_BKTD, value_BKTE, cu_seq_lens_q, max_length_q, scale)[None], None
    return _one_by_one(query_BHTD, key_BKTD, value_BKTE, cu_seq_lens_q, scale), None


def _has_kernel(query_BHTD: torch.Tensor) -> bool:
    return query_BHTD.is_cuda and query_BHTD.dtype in (
        torch.bfloat16,
        torch.float16,
    )  # on a GPU that has it: see packing_obstacle


def _one_by_one(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTE: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """SDPA for each sequence: what the kernel does, where there is none."""
    groups = query_BHTD.shape[1] // key_BKTD.shape[1]
    key_BHTD, value_BHTE = repeat_kv(key_BKTD, groups), repeat_kv(value_BKTE, groups)
    lengths = cu_seq_lens_q.diff().tolist()
    assert sum(lengths) == query_BHTD.shape[2], f"cu_seq_lens_q covers {sum(lengths)} of {query_BHTD.shape[2]} tokens"
    parts = [  # split, not sliced: the gradient of each slice would be as long as the pack
        scaled_dot_product_attention(query_BHSD, key_BHSD, value_BHSE, is_causal=True, scale=scale)
        for query_BHSD, key_BHSD, value_BHSE in zip(
            *(x.split(lengths, dim=2) for x in (query_BHTD, key_BHTD, value_BHTE)), strict=True
        )
        if query_BHSD.shape[2]
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


def _kernel(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTE: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    max_length: int,
    scale: float,
) -> torch.Tensor:
    """The kernel, which wants heads of one width, a multiple of 8: narrower ones are padded with zeros, and the output is cropped."""
    groups, out_width = query_BHTD.shape[1] // key_BKTD.shape[1], value_BKTE.shape[-1]
    full = full_width(query_BHTD.shape[-1], out_width)
    kernel = attention_kernel(full)
    if groups > 1 and not kernel.grouped:
        key_BKTD, value_BKTE = repeat_kv(key_BKTD, groups), repeat_kv(value_BKTE, groups)
    query_THF, key_TKF, value_TKF = (
        _widen(x.transpose(1, 2)[0], full).contiguous() for x in (query_BHTD, key_BKTD, value_BKTE)
    )
    return kernel.attend(query_THF, key_TKF, value_TKF, cu_seq_lens_q.to(torch.int32), max_length, scale)[
        ..., :out_width
    ]


def full_width(width: int, value_width: int) -> int:
    """The width of heads that the kernel sees.

    >>> full_width(192, 128), full_width(20, 12)
    (192, 24)
    """
    return -(-max(width, value_width) // 8) * 8


def _widen(x: torch.Tensor, width: int) -> torch.Tensor:
    return x if x.shape[-1] == width else pad(x, (0, width - x.shape[-1]))
