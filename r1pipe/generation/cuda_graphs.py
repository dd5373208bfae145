"""A token of decoding as a CUDA graph: without it a small model on a GPU waits for Python at every kernel of every token.

One graph is the whole of a token: the last tokens are read, the next are drawn and what ended is noted, all in memory that stays where it is, so that
nothing is left for the CPU but to start it. There is a graph for each of a few numbers of rows; sequences that ended leave when a smaller one will do. Layers
may be compiled first, which joins their small kernels.

Shapes: P prompts, T their tokens, R sequences that there is room for, S = R + 1 slots of the cache (rows without a sequence write to the last),
B rows in use, L columns of a slot, K key heads, D head size, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec
from typing import Any

import torch
from transformers import DynamicCache

from r1pipe.generation.backends import DENSE
from r1pipe.generation.cached_attention import NAME, Places, register
from r1pipe.generation.joint_linear import join
from r1pipe.generation.token_sampling import EndedReporter, OnEnded, SamplingSettings, cut, log_probs, sample_tokens
from r1pipe.models.loading import compile_layers
from r1pipe.models.memory import free_memory
from r1pipe.models.packed_attention import head_widths

GROWING_ROPE = {"dynamic", "longrope"}  # rotary embeddings that look at the longest of all rows
LEAST = {"rows": 8, "columns": 128}
LOOK_EVERY = 8  # tokens between two looks at how many sequences still run: a look waits for the GPU
ROOM = 0.5  # share of the GPU's free memory that the cache may take
DRAW = 8  # bytes a logit that a draw takes, which graphs keep; with top-p 32, for which the rest of the free memory is there
COMPILED_FROM = 10**8  # parameters; a smaller model is done before its layers are compiled (our choice)
RECOMPILED = 32  # variants of a layer: trained, without gradients, and for steps


def graph_obstacle(model: Any) -> str:
    """Why this model's steps cannot be CUDA graphs; empty where they can."""
    text = model.config.get_text_config()
    reasons = {
        "it is not on a GPU": model.device.type != "cuda",
        f"{type(model).__name__} is not one of {', '.join(sorted(DENSE))}": type(model).__name__ not in DENSE,
        "Triton is not installed": find_spec("triton") is None,
        "it attends in a window": set(getattr(text, "layer_types", None) or ()) - {"full_attention"},
        "its rotary embeddings change with the length": (getattr(text, "rope_parameters", None) or {}).get("rope_type")
        in GROWING_ROPE,
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
    """Of a layer's keys, and of its values, (S, L, K, D)."""
    return rows + 1, columns, config.get_text_config().num_key_value_heads, head_widths(config)[0]


def cache_bytes(config: Any, rows: int, columns: int, itemsize: int) -> int:
    """Of keys, values, logits and what a draw takes beside them."""
    text = config.get_text_config()
    return (
        itemsize * (2 * text.num_hidden_layers * math.prod(cache_shape(config, rows, columns)))
        + (itemsize + DRAW) * rows * text.vocab_size
    )


def cache_fits(config: Any, rows: int, columns: int, itemsize: int, free: float) -> bool:
    """Whether the cache leaves enough of so many free bytes."""
    return cache_bytes(config, rows, columns, itemsize) <= ROOM * free


class GraphedModel:
    """A model whose tokens of decoding are CUDA graphs; on a CPU the same without graphs, which the tests use. It stays where it is for good.

    Args:
        model: in the precision that it samples in; its attention is exchanged and some of its linear layers are joined.
        compiled: compile the layers and the draw.
    """

    def __init__(self, model: Any, compiled: bool = False) -> None:
        register()
        self.model: Any = model.eval()
        self.compiled = compiled
        model.set_attn_implementation(NAME)
        self.weights = join(model)
        self._attentions = [layer.self_attn for layer in model.base_model.layers]
        if compiled:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILED)
            compile_layers(model)
        self._given_up = False
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        self.release()

    @classmethod
    def twin(cls, model: Any, dtype: torch.dtype, compiled: bool = False) -> GraphedModel:
        """A copy beside a model that is trained; `copy_weights` gives it the weights."""
        config = copy.deepcopy(model.config)
        config.tie_word_embeddings = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.device(model.device), torch.random.fork_rng(devices):
            return cls(type(model)._from_config(config, dtype=dtype), compiled)

    @torch.no_grad()
    def copy_weights(self, model: Any) -> None:
        """This model's weights."""
        new = dict(model.named_parameters())
        assert self.weights.keys() == new.keys(), self.weights.keys() ^ new.keys()
        torch._foreach_copy_(list(self.weights.values()), [new[name] for name in self.weights])

    def make_room(self, rows: int, columns: int, reserve: float = 0.0) -> bool:
        """See to it that there is room for so many sequences of so many tokens; False, and nothing is changed, where there cannot be.

        Args:
            reserve: bytes that others will allocate.
        """
        if self.has_room(rows, columns):
            return True
        if self._given_up:
            return False
        config, dtype, device = self.model.config, self.model.dtype, self.model.device
        rows, columns = (
            -(-count // LEAST[name]) * LEAST[name] for count, name in ((rows, "rows"), (columns, "columns"))
        )
        own = cache_bytes(config, self._rows, self._columns, dtype.itemsize)
        for chosen in ((max(rows, self._rows), max(columns, self._columns)), (rows, columns)):
            if cache_fits(config, *chosen, dtype.itemsize, free_memory(device) + own - reserve):
                self.release()
                self._allocate(*chosen)
                return True
        return False

    def _allocate(self, rows: int, columns: int) -> None:
        shape, slots = cache_shape(self.model.config, rows, columns), rows + 1
        with torch.device(self.model.device):
            for attention in (
                self._attentions
            ):  # zeros, since what is masked on a CPU is multiplied by zero, which must not meet what is not finite
                attention.cached = (
                    torch.zeros(shape, dtype=self.model.dtype),
                    torch.zeros(shape, dtype=self.model.dtype),
                )
            self._tokens_SL, self._logps_SL = torch.zeros(slots, columns, dtype=torch.long), torch.zeros(slots, columns)
            self._start_S, self._length_S = torch.zeros(slots, dtype=torch.long), torch.zeros(slots, dtype=torch.long)
            self._sequence_R = torch.zeros(
                rows, dtype=torch.long
            )  # which each row of the batch is; R where none is left
            self._t_1 = torch.zeros(1, dtype=torch.long)
            self._no_mask_1111 = torch.zeros(
                1, 1, 1, 1, dtype=self.model.dtype
            )  # with none, transformers looks at the positions, and waits for the GPU
        self._rows, self._columns = rows, columns

    def has_room(self, rows: int, columns: int) -> bool:
        """For so many sequences of so many tokens, prompts included."""
        return rows <= self._rows and columns <= self._columns

    def release(self) -> None:
        """Give back the memory of cache and graphs."""
        self._rows = self._columns = 0
        self._recorded: dict[int, torch.cuda.CUDAGraph] = {}  # by rows, all of one way of drawing
        self._how: SamplingSettings | None = None
        self._tokens_SL = self._logps_SL = torch.empty(0)
        for attention in self._attentions:
            attention.cached = ()

    def give_up(self) -> None:
        """A step cannot be recorded: never try again, and let a twin's weights go."""
        self._given_up = True
        self.release()
        self.model, self.weights, self._attentions = None, {}, []
        if (
            self._stream is not None
        ):  # before torch 2.12, what was being recorded keeps the generator from drawing (pytorch#171265)
            generator = torch.cuda.default_generators[self._stream.device.index]
            generator.graphsafe_set_state(generator.clone_state())

    @torch.no_grad()
    def run(
        self,
        ids_PT: torch.Tensor,
        mask_PT: torch.Tensor,
        n: int,
        most: int,
        how: SamplingSettings,
        on_ended: OnEnded | None = None,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """n continuations of each prompt, of at most `most` tokens; `make_room` was asked before.

        Args:
            ids_PT, mask_PT: prompts, padded on the left.
            on_ended: gets sequences that have ended while others are drawn.

        Returns:
            token ids of the P * n sequences and, where they are kept, log-probabilities.
        """
        total = rows = len(ids_PT) * n
        ended = EndedReporter(on_ended, most)
        self._draw_as(how)
        self._length_S.fill_(most)
        self._t_1.zero_()
        self._sequence_R.fill_(self._rows)[:total] = torch.arange(total, device=ids_PT.device)
        self._draw(self._read(ids_PT, mask_PT, n))
        for t in range(1, most):
            if t % LOOK_EVERY == 1:
                ended.look(self._tokens_SL[:total], self._length_S[:total])
                left = int((self._sequence_R[:rows] < self._rows).sum())
                if left == 0:
                    break
                if self._size(left) < self._size(rows):
                    kept_B = self._sequence_R[self._sequence_R < self._rows]
                    self._sequence_R.fill_(self._rows)[:left] = kept_B
                    rows = left
            self._step(self._size(rows))
        tokens_ST, logps_ST = self._tokens_SL[:total, :most], self._logps_SL[:total, :most]
        return cut(tokens_ST, self._length_S[:total]), cut(logps_ST, self._length_S[:total]) if how.logps else []

    def _draw_as(self, how: SamplingSettings) -> None:
        """Draw like this from now on; graphs that draw otherwise go."""
        if how != self._how:
            self._recorded, self._how = {}, how
            if self._stream is not None:
                torch.cuda.empty_cache()  # of the pool of the graphs that went, which takes no more
                self._pool = torch.cuda.graph_pool_handle()
            self._ends = torch.tensor(how.ends, device=self.model.device)

    def _size(self, rows: int) -> int:
        return min(size_up(rows, LEAST["rows"]), self._rows)

    def _read(self, ids_PT: torch.Tensor, mask_PT: torch.Tensor, n: int) -> torch.Tensor:
        """Fill the slots with the prompts; logits after them, (P * n, V)."""
        prompts, width = ids_PT.shape
        read: Any = DynamicCache(config=self.model.config)
        position_PT = (mask_PT.cumsum(-1) - 1).clamp(min=0)
        with torch.compiler.set_stance("force_eager"):
            logits_PV = self.model(
                input_ids=ids_PT,
                attention_mask=mask_PT,
                position_ids=position_PT,
                past_key_values=read,
                logits_to_keep=1,
            ).logits[:, -1]
        length_P = mask_PT.sum(-1)
        prompt_P1 = torch.arange(prompts, device=ids_PT.device)[:, None]
        from_PT = (torch.arange(width, device=ids_PT.device) + (width - length_P)[:, None]).clamp(
            max=width - 1
        )  # a slot has no padding
        for attention, layer in zip(self._attentions, read.layers, strict=True):
            for cache_SLKD, read_PKTD in zip(attention.cached, (layer.keys, layer.values), strict=True):
                own_PnLKD = cache_SLKD[: prompts * n].unflatten(0, (prompts, n))
                own_PnLKD[:, :, :width] = read_PKTD.transpose(1, 2)[prompt_P1, from_PT][:, None]
        self._start_S.zero_()[: prompts * n] = length_P.repeat_interleave(n, 0)
        return logits_PV.repeat_interleave(n, 0)

    def _step(self, size: int) -> None:
        if self._stream is None:
            self._advance(size)
        elif size in self._recorded:
            self._recorded[size].replay()
        else:
            self._recorded[size] = self._record(size, self._stream)

    def _record(self, size: int, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """Do a step, and record it for the next time."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(stream.device):
            current = torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):  # torch.cuda.graph would collect garbage each time
                self._advance(size)
                torch.cuda.synchronize()
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    self._advance(size)
                finally:
                    graph.capture_end()
            current.wait_stream(stream)
        return graph

    def _advance(self, size: int) -> None:
        """One more token of the first `size` rows' sequences."""
        slot_B = self._sequence_R[:size]
        column_B = self._start_S[slot_B] + self._t_1 - 1
        seen_B = (column_B + 1).masked_fill(slot_B == self._rows, 1)
        out = self.model(
            input_ids=self._tokens_SL[slot_B, self._t_1 - 1][:, None],
            attention_mask=self._no_mask_1111,
            position_ids=column_B[:, None],
            use_cache=False,
            places=Places(slot_B, column_B, seen_B),
        )
        self._draw(out.logits[:, -1])

    def _draw(self, logits_BV: torch.Tensor) -> None:
        """A token of each of the first rows' sequences, and which of them end with it."""
        how = self._how
        assert how is not None
        sequence_B = self._sequence_R[: len(logits_BV)].clone()
        if how.adjust is not None:
            logits_BV = how.adjust(self._t_1, sequence_B, logits_BV)
        token_B = sample_tokens(logits_BV, how.temperature, how.top_p, self.compiled)
        self._tokens_SL[sequence_B, self._t_1] = token_B
        if how.logps:
            self._logps_SL[sequence_B, self._t_1] = log_probs(logits_BV, token_B, how.temperature)
        ended_B = (token_B[:, None] == self._ends).any(-1)
        self._length_S[sequence_B] = torch.where(ended_B, self._t_1 + 1, self._length_S[sequence_B])
        self._sequence_R[: len(logits_BV)] = sequence_B.masked_fill(ended_B, self._rows)
        self._t_1 += 1
