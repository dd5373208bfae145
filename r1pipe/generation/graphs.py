"""A step of decoding as a CUDA graph: without it a small model on a GPU waits for Python at every kernel of every token.

The cache is one piece of memory that stays where it is. For each pair of (rows, columns) in use, rounded up to a few sizes, the step is recorded once
and then started as a whole; all graphs share their scratch memory and the place where logits are left. Layers may be compiled first, which joins their
small kernels: the cache is written and read by one operator that the compiler does not look into.

Shapes: R rows that there is room for, B rows in use, L columns of the cache, H query heads, K key heads, D head size, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from functools import cache
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from r1pipe.generation import DENSE
from r1pipe.training.memory import free_memory
from r1pipe.training.models import compile_layers
from r1pipe.training.varlen import head_widths

NAME = "r1pipe_graphed"
KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # cuDNN's plan for a new shape is made when a step is recorded
GROWING_ROPE = {"dynamic", "longrope"}  # rotary embeddings that look at the longest of all rows
LEAST = {"rows": 8, "columns": 128}
ROOM = 0.5  # share of the GPU's free memory that the cache may take
COMPILED_FROM = 10**8  # parameters; a smaller model is done before its layers are compiled (our choice)
RECOMPILED = 32  # variants of a layer: trained, without gradients, and for cache views of other strides


def why_not_graphed(model: Any) -> str:
    """Why this model's steps cannot be CUDA graphs; empty where they can."""
    text = model.config.get_text_config()
    reasons = {
        "it is not on a GPU": model.device.type != "cuda",
        f"{type(model).__name__} is not one of {', '.join(sorted(DENSE))}": type(model).__name__ not in DENSE,
        "it attends in a window": set(getattr(text, "layer_types", None) or ()) - {"full_attention"},
        "its rotary embeddings change with the length": (getattr(text, "rope_parameters", None) or {}).get("rope_type") in GROWING_ROPE,
        "it is quantized": getattr(model.config, "quantization_config", None) is not None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def size_up(count: int, least: int) -> int:
    """The next of the sizes that graphs are recorded for: multiples of `least`, from eight times that on four between each two powers of two.

    >>> [size_up(n, 8) for n in (1, 20, 65, 257, 512)]
    [8, 24, 80, 320, 512]
    """
    step = max(least, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-count // step) * step


def cache_shape(config: Any, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Of a layer's keys, and of its values, (R, K, L, D)."""
    return rows, config.get_text_config().num_key_value_heads, columns, head_widths(config)[0]


def cache_bytes(config: Any, rows: int, columns: int, itemsize: int) -> int:
    """Of keys, values and logits."""
    text = config.get_text_config()
    return itemsize * (2 * text.num_hidden_layers * math.prod(cache_shape(config, rows, columns)) + rows * text.vocab_size)


def fits(config: Any, rows: int, columns: int, itemsize: int, free: float) -> bool:
    """Whether the cache leaves enough of so many free bytes."""
    return cache_bytes(config, rows, columns, itemsize) <= ROOM * free


class Graphed:
    """A model whose steps of decoding are CUDA graphs; on a CPU the same without graphs, which the tests use. It stays where it is for good.

    Args:
        model: in the precision that it samples in; its attention is exchanged.
        compiled: compile the layers.
    """

    def __init__(self, model: Any, compiled: bool = False) -> None:
        register()
        self.model, self.compiled = model.eval(), compiled
        model.set_attn_implementation(NAME)
        self._attentions = [layer.self_attn for layer in model.base_model.layers]
        if compiled:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILED)
            compile_layers(model)
        self.given_up = False
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        self.drop()

    @classmethod
    def twin(cls, model: Any, dtype: torch.dtype, compiled: bool = False) -> Graphed:
        """A copy beside a model that is trained; `take` gives it the weights."""
        config = copy.deepcopy(model.config)
        config.tie_word_embeddings = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.device(model.device), torch.random.fork_rng(devices):
            return cls(type(model)._from_config(config, dtype=dtype), compiled)

    @torch.no_grad()
    def take(self, model: Any) -> None:
        """This model's weights."""
        own, new = dict(self.model.named_parameters()), dict(model.named_parameters())
        assert own.keys() == new.keys(), own.keys() ^ new.keys()
        torch._foreach_copy_(list(own.values()), [new[name] for name in own])

    def make_room(self, rows: int, columns: int, reserve: float = 0.0) -> bool:
        """See to it that the cache has room for so many rows and columns; False, and nothing is changed, where it cannot.

        Args:
            reserve: bytes that others will allocate.
        """
        if rows <= self._rows and columns <= self._columns:
            return True
        if self.given_up:
            return False
        config, dtype, device = self.model.config, self.model.dtype, self.model.device
        rows, columns = (-(-count // LEAST[name]) * LEAST[name] for count, name in ((rows, "rows"), (columns, "columns")))
        own = cache_bytes(config, self._rows, self._columns, dtype.itemsize)
        for chosen in ((max(rows, self._rows), max(columns, self._columns)), (rows, columns)):
            if fits(config, *chosen, dtype.itemsize, free_memory(device) + own - reserve):
                self.drop()
                self._allocate(*chosen)
                return True
        return False

    def _allocate(self, rows: int, columns: int) -> None:
        config, device, dtype = self.model.config, self.model.device, self.model.dtype
        with torch.device(device):
            shape = cache_shape(config, rows, columns)
            self._cache = [(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in self._attentions]
            self._logits_RV = torch.zeros(rows, config.get_text_config().vocab_size, dtype=dtype)
            self._mask_RL = torch.zeros(rows, columns, dtype=torch.bool)
            self._ids_R1, self._position_R1 = torch.zeros(rows, 1, dtype=torch.long), torch.zeros(rows, 1, dtype=torch.long)
            self._at_1 = torch.zeros(1, dtype=torch.long)
        if device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        self._rows, self._columns = rows, columns

    def drop(self) -> None:
        """Give back the memory of cache and graphs."""
        self._rows = self._columns = 0
        self._recorded: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        self._cache: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._logits_RV = self._mask_RL = torch.empty(0)
        for attention in self._attentions:
            attention.cached = ()

    def read(self, ids_PT: torch.Tensor, mask_PT: torch.Tensor, n: int, most: int) -> torch.Tensor:
        rows, self._at = len(ids_PT) * n, ids_PT.shape[1]
        assert rows <= self._rows and self._at + most <= self._columns, "make_room was asked before"
        read: Any = DynamicCache(config=self.model.config)
        position_PT = (mask_PT.cumsum(-1) - 1).clamp(min=0)
        with torch.compiler.set_stance("force_eager"):
            logits_PV = self.model(input_ids=ids_PT, attention_mask=mask_PT, position_ids=position_PT, past_key_values=read, logits_to_keep=1).logits[:, -1]
        for (keys, values), layer in zip(self._cache, read.layers, strict=True):
            for each in (keys, values):
                each.zero_()  # what is masked is multiplied by zero, which must not meet what is not finite
            keys[:rows, :, : self._at], values[:rows, :, : self._at] = layer.keys.repeat_interleave(n, 0), layer.values.repeat_interleave(n, 0)
        self._mask_RL.zero_()[:rows, : self._at] = mask_PT.bool().repeat_interleave(n, 0)
        self._position_R1.zero_()[:rows] = mask_PT.sum(-1, keepdim=True).repeat_interleave(n, 0)
        return logits_PV.repeat_interleave(n, 0)

    def step(self, token_B: torch.Tensor) -> torch.Tensor:
        rows = min(size_up(len(token_B), LEAST["rows"]), self._rows)
        columns = min(size_up(self._at + 1, LEAST["columns"]), self._columns)
        self._ids_R1[: len(token_B), 0] = token_B
        self._at_1.fill_(self._at)
        if self._stream is None:
            self._forward(rows, columns)
        else:
            if (rows, columns) not in self._recorded:
                self._recorded[rows, columns] = self._record(rows, columns, self._stream)
            self._recorded[rows, columns].replay()
        self._position_R1 += 1
        self._at += 1
        return self._logits_RV[: len(token_B)]

    def pays(self, left: int, rows: int) -> bool:
        return size_up(left, LEAST["rows"]) < size_up(rows, LEAST["rows"])

    def keep(self, kept_B: torch.Tensor) -> None:
        count = len(kept_B)
        for keys, values in self._cache:
            keys[:count, :, : self._at], values[:count, :, : self._at] = keys[kept_B, :, : self._at], values[kept_B, :, : self._at]
        self._mask_RL[:count], self._position_R1[:count] = self._mask_RL[kept_B], self._position_R1[kept_B]

    def _forward(self, rows: int, columns: int) -> None:
        """The first rows' last tokens, which take column `_at_1` of the first columns; leaves the first rows of the logits."""
        for attention, (keys, values) in zip(self._attentions, self._cache, strict=True):
            attention.cached = (keys[:rows, :, :columns], values[:rows, :, :columns])
        self._mask_RL.index_fill_(1, self._at_1, True)
        seen_BL = self._mask_RL[:rows, :columns]
        bias_B11L = torch.zeros(seen_BL.shape, device=seen_BL.device, dtype=self.model.dtype).masked_fill_(~seen_BL, -torch.inf)[:, None, None]
        out = self.model(input_ids=self._ids_R1[:rows], attention_mask=bias_B11L, position_ids=self._position_R1[:rows], use_cache=False, at_1=self._at_1)
        self._logits_RV[:rows] = out.logits[:, -1]  # a graph's own would be kept for each graph

    def _record(self, rows: int, columns: int, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """The graph of a step, which is done once before: it writes what the first replay will write again."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(stream.device):
            current = torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):  # torch.cuda.graph would collect garbage each time
                self._forward(rows, columns)
                torch.cuda.synchronize()
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    self._forward(rows, columns)
                finally:
                    graph.capture_end()
            current.wait_stream(stream)
        return graph


# --- the attention ----------------------------------------------------------------------------------------------------


@cache
def register() -> None:
    """Make NAME known to transformers."""
    AttentionInterface.register(NAME, graphed_attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def graphed_attention_forward(
    module: Any,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    at_1: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token a row over the module's cache; transformers' own SDPA where `at_1` is not given. The signature is transformers'.

    Args:
        at_1: the column that the new token's key and value are written to.

    Returns:
        attention output_B1HD, and no weights.
    """
    if at_1 is None:
        return sdpa_attention_forward(module, query_BHTD, key_BKTD, value_BKTD, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    keys, values = module.cached
    assert attention_mask is not None
    scale = scaling if scaling is not None else query_BHTD.shape[-1] ** -0.5
    return attend_cached(query_BHTD, key_BKTD, value_BKTD, keys, values, attention_mask, at_1, scale), None


@torch.library.custom_op("r1pipe::attend_cached", mutates_args=("keys", "values"))
def attend_cached(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, at: torch.Tensor, scale: float
) -> torch.Tensor:
    """Write key and value (B, K, 1, D) to column `at` of the cache (B, K, L, D), and attend: (B, 1, H, D).

    The query heads that share a key head are rows of one query, so that no key is read or written twice.
    """
    keys.index_copy_(2, at, key)
    values.index_copy_(2, at, value)
    rows, heads, _, width = query.shape
    grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], width)
    with sdpa_kernel(KERNELS, set_priority=True):
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return out.reshape(rows, 1, heads, width).contiguous()


@attend_cached.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, at: torch.Tensor, scale: float
) -> torch.Tensor:
    rows, heads, _, width = query.shape
    return query.new_empty(rows, 1, heads, width)
