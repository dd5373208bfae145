"""Exact packed attention without a build of flash-attn: a variable-length kernel as an attention of transformers.

Why it exists: transformers packs rows only with flash-attn, which has to be built for each version of torch; without
it, a packed row needs a block-diagonal mask over all its tokens. Here a packed batch is one row of T tokens, several
sequences end to end, and no token sees another sequence. `use_packed_attention(model)` switches a model over, and
`pack(rows)` makes its inputs. On CUDA in half precision the kernel of r1pipe/models/attention_kernels.py runs.
Elsewhere scaled_dot_product_attention runs for each sequence, which gives the same numbers. Batches with padding, and
generation with a cache, still go through transformers' own SDPA, so a model that was switched over samples and scores
as before.

What it gives: a 1.5B model on an H100 trains 24,458 tokens/s, and 40,663 where layers are compiled; TRL packed with a
block-diagonal mask trains 22,121, and stock TRL with padding 6,582 (LOG.md, 2026-11-22, the table of SFT). On two CPU
cores an update of second-sft takes 159 to 180 ms packed and 213 to 226 ms padded (LOG.md, 2026-11-23).

Not covered: sliding windows, attention sinks, soft caps, linear attention and dropout (`packing_obstacle` reports
them); and packed rows without `cu_seq_lens_q`, since position ids alone do not keep the sequences apart here.

Sequences that begin alike may share the tokens that they begin with: r1pipe/models/shared_prompts.py.

Shapes: B batch (1 when packed), T tokens, U tokens of the keys that are attended to (T where none is shared), H query
heads, K key heads, D head size of queries and keys, E head size of values, F head size that the kernel sees, N
sequences, S tokens of one sequence.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from r1pipe.models.attention_kernels import attention_kernel, extra_keys_work
from r1pipe.models.loading import own_device, routed
from r1pipe.models.shared_prompts import take_tokens

# transformers treats names that contain 'flash', 'flex' or 'sdpa' in its own way, so this one contains none of them.
NAME = "r1pipe_varlen"

# The widest head that the kernels accept.
MAX_HEAD = 256

# The compute capability that the kernels need.
AMPERE = (8, 0)


# --- which models -----------------------------------------------------------------------------------------------------


def packing_obstacle(config: PreTrainedConfig, model: PreTrainedModel | None = None) -> str:
    """Why packed rows of this model would not be exact, or would not run; empty where they can be packed."""
    # Of a model with several parts (images, sound), the part that writes text.
    text = config.get_text_config(decoder=True)
    layer_types = set(getattr(text, "layer_types", None) or ())
    other_layers = layer_types - {"full_attention"}

    # Where a config lists the types of its layers, they say which of them have a window.
    window = None
    if getattr(text, "use_sliding_window", True) and not layer_types:
        window = getattr(text, "sliding_window", None)

    obstacles: dict[str, Any] = {
        "it is an encoder-decoder": getattr(config, "is_encoder_decoder", False),
        f"it has layers of {', '.join(sorted(other_layers))}": other_layers,
        f"it attends in a window of {window} tokens": window,
        "it caps attention scores": getattr(text, "attn_logit_softcapping", None),
        "it drops attention weights (attention_dropout)": getattr(text, "attention_dropout", None),
        "its attention is sparse": getattr(text, "index_topk", None),
        f"its heads are wider than {MAX_HEAD}": max(head_widths(config)) > MAX_HEAD,
        "the kernel needs a GPU of compute capability 8.0 (Ampere) or later": (gpu_capability() or AMPERE)
        < AMPERE,
    }
    if model is not None:
        accepts_attention = getattr(model, "_supports_attention_backend", False)
        has_sinks = any(name.rsplit(".", 1)[-1] in ("sinks", "sink") for name, _ in model.named_parameters())
        obstacles["its class does not accept an attention from outside"] = not accepts_attention
        obstacles["it keeps a state"] = getattr(model, "_is_stateful", False)
        obstacles["it has attention sinks"] = has_sinks
    return next((obstacle for obstacle, applies in obstacles.items() if applies), "")


def gpu_capability() -> tuple[int, int] | None:
    """The compute capability of this rank's GPU; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability(own_device())


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Switch the model to packed attention. Where it cannot be packed, warn and leave it as it is.

    Returns:
        whether the model now accepts packed rows.
    """
    obstacle = packing_obstacle(model.config, model)
    if obstacle:
        warnings.warn(
            f"{type(model).__name__} is trained on padded batches, not packed ones: {obstacle}", stacklevel=2
        )
        return False
    if torch.cuda.is_available():
        # Choosing the kernel runs a small case, which must not happen while layers are being compiled.
        attention_kernel(full_width(*head_widths(model.config)))
    register_packed_attention()
    model.set_attn_implementation(NAME)
    return True


def prompts_can_be_shared(model: PreTrainedModel) -> bool:
    """Whether packed rows of this model, switched over already, may share their prompts (shared_prompts.py).

    As `use_packed_attention` it must be called before layers are compiled.
    """
    # A mixture of experts balances the tokens that it sees, and would see a shared prompt once.
    if routed(model.config):
        return False
    # Without a GPU SDPA computes it.
    return not torch.cuda.is_available() or extra_keys_work(full_width(*head_widths(model.config)))


def head_widths(config: PreTrainedConfig) -> tuple[int, int]:
    """The head size of queries and keys, and that of values."""
    text = config.get_text_config(decoder=True)
    plain = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    # DeepSeek-V3 has wider queries and keys than values.
    query_width = getattr(text, "qk_head_dim", None) or plain
    value_width = getattr(text, "v_head_dim", None) or plain
    return query_width, value_width


@cache
def register_packed_attention() -> None:
    """Make NAME known to transformers."""
    AttentionInterface.register(NAME, varlen_attention_forward)
    AttentionMaskInterface.register(NAME, _mask)


def _mask(**arguments: Any) -> torch.Tensor | None:
    """None for packed rows and rows without padding, which are causal; else transformers' mask, which SDPA reads."""
    without_padding = arguments.get("attention_mask") is None
    without_cache = arguments.get("q_length") == arguments.get("kv_length")
    if without_padding and without_cache:
        return None
    return sdpa_mask(**arguments)


# --- the inputs -------------------------------------------------------------------------------------------------------


def pack(rows: Sequence[Sequence[int]], device: torch.device | str | None = None) -> dict[str, Any]:
    """Sequences of token ids as the inputs of one forward pass.

    Returns:
        input_ids (1, T), position_ids (1, T) which begin at 0 in each sequence, and the result of `packed_kwargs`.
    """
    lengths = [len(row) for row in rows]
    tokens = [token for row in rows for token in row]
    ids_T = torch.tensor(tokens, device=device)
    positions_T = torch.cat([torch.arange(length, device=device) for length in lengths])
    return {
        "input_ids": ids_T[None],
        "position_ids": positions_T[None],
        **packed_kwargs(lengths, device),
    }


def packed_kwargs(
    lengths: Sequence[int],
    device: torch.device | str | None = None,
    *,
    key_lengths: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The arguments that tell the attention where sequences begin, by the names of transformers and TRL's collator.

    Args:
        lengths: tokens of each sequence.
        key_lengths: tokens that each sequence's last token attends to, where they are more.

    Returns:
        cu_seq_lens_q and cu_seq_lens_k: int32, (N + 1,); max_length_q and max_length_k: an upper bound of the longest
        sequence, in tokens, and the same number, so that there is one number less to compile for.
    """
    ends_N1 = _ends(lengths, device)
    key_ends_N1 = ends_N1 if key_lengths is None else _ends(key_lengths, device)
    longest = rounded(max([*lengths, *(key_lengths or ())]))
    return {
        "cu_seq_lens_q": ends_N1,
        "cu_seq_lens_k": key_ends_N1,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _ends(lengths: Sequence[int], device: torch.device | str | None) -> torch.Tensor:
    """Where sequences of these lengths begin and end, (N + 1,)."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)


def rounded(length: int) -> int:
    """The next power of two. The kernel accepts any upper bound, and few different numbers mean few compilations.

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
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    key_tokens: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each sequence of a packed row. The signature is that of transformers.

    Args:
        cu_seq_lens_q: where sequences begin, and where the last one ends, (N + 1,); together they cover all T tokens.
            None: the batch is not packed, and SDPA runs.
        cu_seq_lens_k: the same of the keys, (N + 1,); read with `key_tokens` alone.
        max_length_q: an upper bound of the longest sequence, its keys included.
        key_tokens: which token each key is of, (U,), where a sequence has more keys than tokens: the tokens are the
            last ones of its keys. None: a sequence's keys are its own.

    Returns:
        the output, of shape (B, T, H, E), and no attention weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module,
            query_BHTD,
            key_BKTD,
            value_BKTE,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **kwargs,
        )

    # `packing_obstacle` has refused models that need any of these.
    assert dropout == 0.0, "packed attention has no dropout"
    assert query_BHTD.shape[0] == 1, f"a packed batch is one row, not {query_BHTD.shape[0]}"
    assert query_BHTD.shape[2] == key_BKTD.shape[2], "packed rows are not generated from a cache"
    not_covered = ("sliding_window", "s_aux", "softcap", "position_bias")
    assert not any(kwargs.get(name) is not None for name in not_covered), "see packing_obstacle"

    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    device = query_BHTD.device.type
    if torch.is_autocast_enabled(device):
        # Rotary embeddings in float32 lift queries and keys out of the half precision that values still have.
        half = torch.get_autocast_dtype(device)
        query_BHTD = query_BHTD.to(half)
        key_BKTD = key_BKTD.to(half)
        value_BKTE = value_BKTE.to(half)

    ends = Ends(cu_seq_lens_q, cu_seq_lens_q)
    if key_tokens is not None:
        assert cu_seq_lens_k is not None, (
            "key_tokens say of which tokens keys are, cu_seq_lens_k of which sequence"
        )
        ends = Ends(cu_seq_lens_q, cu_seq_lens_k, key_tokens)

    if not _has_kernel(query_BHTD):
        return _attend_each(query_BHTD, key_BKTD, value_BKTE, ends, scale), None
    # Reading a number from the GPU waits for it, so callers pass the bound as a number.
    if max_length_q is None or isinstance(max_length_q, torch.Tensor):
        max_length_q = int(ends.keys_N1.diff().max())
    output_THE = _attend_packed(query_BHTD, key_BKTD, value_BKTE, ends, max_length_q, scale)
    return output_THE[None], None


class Ends(NamedTuple):
    """Which queries and keys are of one sequence.

    Attributes:
        queries_N1, keys_N1: where those of each sequence begin, and where the last ones end.
        key_tokens_U: the token of each key; None = keys are those of the tokens, in their order.
    """

    queries_N1: torch.Tensor
    keys_N1: torch.Tensor
    key_tokens_U: torch.Tensor | None = None


def _has_kernel(query_BHTD: torch.Tensor) -> bool:
    """Whether a kernel takes these. `packing_obstacle` has made sure that a GPU is new enough."""
    return query_BHTD.is_cuda and query_BHTD.dtype in (torch.bfloat16, torch.float16)


def _attend_each(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTE: torch.Tensor,
    ends: Ends,
    scale: float,
) -> torch.Tensor:
    """SDPA for each sequence, where there is no kernel; (B, T, H, E)."""
    lengths = ends.queries_N1.diff().tolist()
    key_lengths = ends.keys_N1.diff().tolist()
    assert sum(lengths) == query_BHTD.shape[2], (
        f"cu_seq_lens_q covers {sum(lengths)} of {query_BHTD.shape[2]} tokens"
    )
    if ends.key_tokens_U is not None:
        key_BKTD = key_BKTD.index_select(2, ends.key_tokens_U)
        value_BKTE = value_BKTE.index_select(2, ends.key_tokens_U)
    groups = query_BHTD.shape[1] // key_BKTD.shape[1]
    key_BHUD = repeat_kv(key_BKTD, groups)
    value_BHUE = repeat_kv(value_BKTE, groups)

    # Split, not sliced: the gradient of each slice would be as long as the whole pack.
    queries = query_BHTD.split(lengths, dim=2)
    keys = key_BHUD.split(key_lengths, dim=2)
    values = value_BHUE.split(key_lengths, dim=2)
    outputs = []
    for query_BHSD, key_BHSD, value_BHSE in zip(queries, keys, values, strict=True):
        # An empty sequence has no output.
        if query_BHSD.shape[2] == 0:
            continue
        # SDPA's own causal mask is aligned at the beginning.
        aligned: Any = {"is_causal": True}
        if query_BHSD.shape[2] != key_BHSD.shape[2]:
            aligned = {"attn_mask": _aligned_at_the_end(query_BHSD, key_BHSD)}
        outputs.append(scaled_dot_product_attention(query_BHSD, key_BHSD, value_BHSE, scale=scale, **aligned))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _aligned_at_the_end(query_BHSD: torch.Tensor, key_BHSD: torch.Tensor) -> torch.Tensor:
    """The causal mask of queries that belong to the last of the keys; true where a query sees the key."""
    queries = query_BHSD.shape[2]
    keys = key_BHSD.shape[2]
    every = torch.ones(queries, keys, dtype=torch.bool, device=query_BHSD.device)
    return every.tril(keys - queries)


def _attend_packed(
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTE: torch.Tensor,
    ends: Ends,
    max_length: int,
    scale: float,
) -> torch.Tensor:
    """The kernel on all sequences at once; (T, H, E).

    The kernel wants heads of one width, a multiple of 8. Narrower ones are padded with zeros, and the output is
    cropped.
    """
    # Query heads for each key head.
    groups = query_BHTD.shape[1] // key_BKTD.shape[1]
    value_width = value_BKTE.shape[-1]
    width = full_width(query_BHTD.shape[-1], value_width)
    kernel = attention_kernel(width)

    query_THF = _kernel_layout(query_BHTD, width)
    key_UKF = _kernel_layout(key_BKTD, width)
    value_UKF = _kernel_layout(value_BKTE, width)
    if ends.key_tokens_U is not None:
        key_UKF = take_tokens(key_UKF, ends.key_tokens_U)
        value_UKF = take_tokens(value_UKF, ends.key_tokens_U)
    if groups > 1 and not kernel.grouped:
        key_UKF = key_UKF.repeat_interleave(groups, 1)
        value_UKF = value_UKF.repeat_interleave(groups, 1)

    # Zeros in queries and keys add nothing to a score, and zeros in values give the columns that are cropped.
    query_ends_N1 = ends.queries_N1.to(torch.int32)
    key_ends_N1 = ends.keys_N1.to(torch.int32)
    output_THF = kernel.attend(query_THF, key_UKF, value_UKF, query_ends_N1, key_ends_N1, max_length, scale)
    return output_THF[..., :value_width]


def full_width(width: int, value_width: int) -> int:
    """The width of heads that the kernel sees: the next multiple of 8.

    >>> full_width(192, 128), full_width(20, 12)
    (192, 24)
    """
    return -(-max(width, value_width) // 8) * 8


def _kernel_layout(heads_BHTD: torch.Tensor, width: int) -> torch.Tensor:
    """The only row of the batch as (T, H, F), its heads widened with zeros to `width`."""
    heads_THD = heads_BHTD.transpose(1, 2)[0]
    missing = width - heads_THD.shape[-1]
    if missing:
        heads_THD = pad(heads_THD, (0, missing))
    return heads_THD.contiguous()
