"""A step of decoding as a CUDA graph.

Without it a small model on a GPU waits for Python at every kernel of every token. One graph is a whole step: it reads
the last tokens, samples the next and notes which sequences have ended, all in memory that stays in place, so the CPU
only has to start it. There is a graph for each of a few batch sizes, and sequences that have ended leave when a
smaller one suffices. The layers may be compiled first, which joins their small kernels.

Shapes: P prompts, T their tokens, R rows (sequences that there is room for), S = R + 1 slots of the cache (rows without
a sequence write to the last), B rows in use, L columns of a slot, K key heads, D head size, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from importlib.util import find_spec
from typing import Any

import torch
from transformers import DynamicCache

from r1pipe.generation.backends import DENSE
from r1pipe.generation.cached_attention import NAME, CacheEntries, register
from r1pipe.generation.joint_linear import join_linears
from r1pipe.generation.stop_strings import StopStates
from r1pipe.generation.token_sampling import (
    EndedReporter,
    Noted,
    OnEnded,
    SamplingSettings,
    cut,
    log_probs,
    sample_tokens,
)
from r1pipe.models.loading import compile_layers
from r1pipe.models.memory import free_memory
from r1pipe.models.packed_attention import head_widths

# Rotary embeddings that depend on the longest of all rows, which a graph cannot know.
GROWING_ROPE = {"dynamic", "longrope"}

# Rows and columns of a cache are multiples of these.
ROW_STEP = 8
COLUMN_STEP = 128

# Rows of the smallest step that is recorded, where the cache has as many. A GPU takes as long for fewer, and recording
# a step takes Python as long as starting its kernels one by one does, twice.
LEAST_ROWS = 64

# Steps between two checks of which sequences still run.
STEPS_PER_CHECK = 8

# Share of the GPU's free memory that the cache may take. The rest is for reading prompts.
CACHE_SHARE = 0.5

# Bytes a logit that sampling may take, and that graphs keep: a copy in float32, for log-probabilities.
SAMPLING_BYTES = 4

# Parameters from which layers are compiled: a smaller model is done before they are (our choice).
COMPILED_FROM = 10**8

# Variants of a compiled layer: for training, without gradients, and for steps.
RECOMPILE_LIMIT = 32


def graph_obstacle(model: Any) -> str:
    """Return why this model's steps cannot be CUDA graphs; an empty string where they can."""
    text_config = model.config.get_text_config()
    architecture = type(model).__name__
    layer_types = set(getattr(text_config, "layer_types", None) or ())
    rope = getattr(text_config, "rope_parameters", None) or {}

    if model.device.type != "cuda":
        return "it is not on a GPU"
    if architecture not in DENSE:
        return f"{architecture} is not one of {', '.join(sorted(DENSE))}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if layer_types - {"full_attention"}:
        return "it attends in a window"
    if rope.get("rope_type") in GROWING_ROPE:
        return "its rotary embeddings change with the length"
    if getattr(model.config, "quantization_config", None) is not None:
        return "it is quantized"
    return ""


def size_up(count: int, least: int) -> int:
    """Return the next of the sizes that graphs are recorded for.

    They are multiples of `least`, and from eight times that on four between each two powers of two.

    >>> [size_up(n, 64) for n in (1, 65, 300, 513, 1024)]
    [64, 128, 320, 640, 1024]
    """
    step = max(least, 1 << max(0, (count - 1).bit_length() - 3))
    return -(-count // step) * step


def cache_shape(config: Any, rows: int, columns: int) -> tuple[int, int, int, int]:
    """Return the shape (S, L, K, D) of a layer's keys, and of its values."""
    return rows + 1, columns, config.get_text_config().num_key_value_heads, head_widths(config)[0]


def cache_bytes(config: Any, rows: int, columns: int, itemsize: int) -> int:
    """Return the bytes of keys, values, logits and what sampling takes beside them.

    Args:
        config: the model's.
        rows: sequences.
        columns: tokens of each sequence.
        itemsize: bytes of a number.
    """
    text_config = config.get_text_config()
    numbers = 2 * text_config.num_hidden_layers * math.prod(cache_shape(config, rows, columns))
    logits = rows * text_config.vocab_size
    return itemsize * numbers + (itemsize + SAMPLING_BYTES) * logits


def cache_fits(config: Any, rows: int, columns: int, itemsize: int, free: float) -> bool:
    """Whether the cache leaves enough of `free` bytes; the other arguments are those of cache_bytes."""
    return cache_bytes(config, rows, columns, itemsize) <= CACHE_SHARE * free


class GraphedModel:
    """A model whose decoding steps are CUDA graphs. On a CPU it does the same without graphs, for the tests.

    Its memory stays in place for good.

    Args:
        model: in the precision that it samples in. Its attention is replaced and some of its linear layers are joined.
        compiled: whether the layers are compiled.
    """

    def __init__(self, model: Any, compiled: bool = False) -> None:
        register()
        self.model: Any = model.eval()
        model.set_attn_implementation(NAME)
        self.weights = join_linears(model)
        self._attentions = [layer.self_attn for layer in model.base_model.layers]
        if compiled:
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
            compile_layers(model)
        self._given_up = False
        self._stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None
        self.release()

    @classmethod
    def twin(cls, model: Any, dtype: torch.dtype, compiled: bool = False) -> GraphedModel:
        """Return a copy of a model that is trained, for sampling; `copy_weights` gives it the weights."""
        config = copy.deepcopy(model.config)
        config.tie_word_embeddings = (
            model.get_output_embeddings().weight is model.get_input_embeddings().weight
        )
        devices = [model.device] if model.device.type == "cuda" else []
        # The random numbers of its initial weights must not shift those of training.
        with torch.device(model.device), torch.random.fork_rng(devices):
            return cls(type(model)._from_config(config, dtype=dtype), compiled)

    @torch.no_grad()
    def copy_weights(self, model: Any) -> None:
        """Take over this model's weights."""
        new = dict(model.named_parameters())
        assert self.weights.keys() == new.keys(), self.weights.keys() ^ new.keys()
        torch._foreach_copy_(list(self.weights.values()), [new[name] for name in self.weights])

    # --- memory -------------------------------------------------------------------------------------------------------

    def make_room(self, rows: int, columns: int, reserve: float = 0.0) -> bool:
        """Make room for sequences; return whether there is room. Where there cannot be, nothing is changed.

        Args:
            rows: sequences.
            columns: tokens of each, prompt included.
            reserve: bytes that others will allocate.
        """
        if self.has_room(rows, columns):
            return True
        if self._given_up:
            return False
        config = self.model.config
        itemsize = self.model.dtype.itemsize
        rows = -(-rows // ROW_STEP) * ROW_STEP
        columns = -(-columns // COLUMN_STEP) * COLUMN_STEP
        own = cache_bytes(config, self._rows, self._columns, itemsize)
        # What there is now grows if it can; if both do not fit, the new size alone may.
        for new_rows, new_columns in ((max(rows, self._rows), max(columns, self._columns)), (rows, columns)):
            free = free_memory(self.model.device) + own - reserve
            if cache_fits(config, new_rows, new_columns, itemsize, free):
                self.release()
                self._allocate(new_rows, new_columns)
                return True
        return False

    def _allocate(self, rows: int, columns: int) -> None:
        shape = cache_shape(self.model.config, rows, columns)
        slots = rows + 1
        dtype = self.model.dtype
        with torch.device(self.model.device):
            for attention in self._attentions:
                # Zeros, since a CPU multiplies masked values by zero, which gives NaN where they are not finite.
                attention.cached = (torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype))
            self._tokens_SL = torch.zeros(slots, columns, dtype=torch.long)
            self._logps_SL = torch.zeros(slots, columns)
            # Of each sequence, the tokens of its prompt, and its length once it has ended.
            self._start_S = torch.zeros(slots, dtype=torch.long)
            self._length_S = torch.zeros(slots, dtype=torch.long)
            # The sequence in each row of the batch; R where there is none.
            self._sequence_R = torch.zeros(rows, dtype=torch.long)
            # The number of tokens so far.
            self._t_1 = torch.zeros(1, dtype=torch.long)
            # Without a mask, transformers looks at the positions, and waits for the GPU.
            self._no_mask_1111 = torch.zeros(1, 1, 1, 1, dtype=dtype)
        self._rows = rows
        self._columns = columns

    def has_room(self, rows: int, columns: int) -> bool:
        """Whether there is room for this number of sequences and of tokens each, prompts included."""
        return rows <= self._rows and columns <= self._columns

    def release(self) -> None:
        """Give back the memory of cache and graphs."""
        self._rows = 0
        self._columns = 0
        # By the number of rows, all recorded with the same settings.
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._settings: SamplingSettings | None = None
        self._tokens_SL = torch.empty(0)
        self._logps_SL = self._tokens_SL
        for attention in self._attentions:
            attention.cached = ()

    def give_up(self) -> None:
        """Never try again, because a step cannot be recorded; free a twin's weights."""
        self._given_up = True
        self.release()
        self.model = None
        self.weights = {}
        self._attentions = []
        if self._stream is not None:
            # Before torch 2.12 an aborted recording keeps the generator from drawing (pytorch#171265).
            generator = torch.cuda.default_generators[self._stream.device.index]
            generator.graphsafe_set_state(generator.clone_state())

    # --- decoding -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def run(
        self,
        ids_PT: torch.Tensor,
        mask_PT: torch.Tensor,
        n: int,
        max_new_tokens: int,
        *,
        settings: SamplingSettings,
        on_ended: OnEnded | None = None,
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Sample n continuations of each prompt; `make_room` was called before.

        Args:
            ids_PT: prompts, padded on the left.
            mask_PT: their attention mask.
            n: continuations of each prompt.
            max_new_tokens: tokens of a continuation, at most.
            settings: how tokens are sampled.
            on_ended: gets sequences that have ended while others are drawn.

        Returns:
            Token ids of the P * n sequences and, where they are kept, log-probabilities.
        """
        total = len(ids_PT) * n
        rows = total
        reporter = EndedReporter(on_ended, max_new_tokens)
        self._use_settings(settings)
        self._length_S.fill_(max_new_tokens)
        self._t_1.zero_()
        if self._stops is not None:
            self._stops.state_S.zero_()
        self._sequence_R.fill_(self._rows)[:total] = torch.arange(total, device=ids_PT.device)
        self._sample(self._read(ids_PT, mask_PT, n))

        noted: Noted | None = None
        for t in range(1, max_new_tokens):
            if t % STEPS_PER_CHECK == 1:
                # A check sees what stood there at the one before, so the GPU has steps to do meanwhile. It is always
                # exactly one, so the result does not depend on time.
                earlier, noted = noted, Noted(self._tokens_SL[:total, :t], self._length_S[:total])
                if earlier is not None:
                    left = earlier.running()
                    reporter.report(earlier.tokens_ST, earlier.length_S)
                    if left == 0:
                        break
                    if self._size(left) < self._size(rows):
                        # Rows without a sequence have the highest number, so they come last.
                        kept_B = self._sequence_R[:rows].sort().values[:left]
                        self._sequence_R.fill_(self._rows)[:left] = kept_B
                        rows = left
            self._step(self._size(rows))

        length_S = self._length_S[:total]
        token_ids = cut(self._tokens_SL[:total, :max_new_tokens], length_S)
        logps = cut(self._logps_SL[:total, :max_new_tokens], length_S) if settings.logps else []
        return token_ids, logps

    def _use_settings(self, settings: SamplingSettings) -> None:
        """Sample like this from now on; graphs that sample otherwise are deleted."""
        if settings == self._settings:
            return
        self._graphs = {}
        self._settings = settings
        if self._stream is not None:
            # The pool of the deleted graphs takes no new ones, so its memory is given back.
            torch.cuda.empty_cache()
            self._pool = torch.cuda.graph_pool_handle()
        self._ends = torch.tensor(settings.ends, device=self.model.device)
        self._stops: StopStates | None = None
        if settings.stop is not None:
            vocabulary = self.model.config.get_text_config().vocab_size
            self._stops = StopStates(settings.stop, self._rows + 1, vocabulary, self.model.device)

    def _size(self, rows: int) -> int:
        return min(size_up(rows, LEAST_ROWS), self._rows)

    def _read(self, ids_PT: torch.Tensor, mask_PT: torch.Tensor, n: int) -> torch.Tensor:
        """Fill the slots with the prompts; return the logits after them, (P * n, V)."""
        prompts, width = ids_PT.shape
        prompt_cache: Any = DynamicCache(config=self.model.config)
        position_PT = (mask_PT.cumsum(-1) - 1).clamp(min=0)
        with torch.compiler.set_stance("force_eager"):
            logits_PV = self.model(
                input_ids=ids_PT,
                attention_mask=mask_PT,
                position_ids=position_PT,
                past_key_values=prompt_cache,
                logits_to_keep=1,
            ).logits[:, -1]

        # A slot has no padding: token i of a prompt is in column i.
        length_P = mask_PT.sum(-1)
        prompt_P1 = torch.arange(prompts, device=ids_PT.device)[:, None]
        column_T = torch.arange(width, device=ids_PT.device)
        source_PT = (column_T + (width - length_P)[:, None]).clamp(max=width - 1)
        for attention, layer in zip(self._attentions, prompt_cache.layers, strict=True):
            for cache_SLKD, prompt_PKTD in zip(attention.cached, (layer.keys, layer.values), strict=True):
                slots_PnLKD = cache_SLKD[: prompts * n].unflatten(0, (prompts, n))
                slots_PnLKD[:, :, :width] = prompt_PKTD.transpose(1, 2)[prompt_P1, source_PT][:, None]
        self._start_S.zero_()[: prompts * n] = length_P.repeat_interleave(n, 0)
        return logits_PV.repeat_interleave(n, 0)

    def _step(self, size: int) -> None:
        if self._stream is None:
            self._advance(size)
        elif size in self._graphs:
            self._graphs[size].replay()
        else:
            self._graphs[size] = self._record(size, self._stream)

    def _record(self, size: int, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
        """Do a step, and record it for the next time."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(stream.device):
            current = torch.cuda.current_stream()
            stream.wait_stream(current)
            # The context manager torch.cuda.graph would collect garbage each time.
            with torch.cuda.stream(stream):
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
        """Draw one more token for the sequences in the first `size` rows."""
        slot_B = self._sequence_R[:size]
        column_B = self._start_S[slot_B] + self._t_1 - 1
        # Rows without a sequence read one column of the last slot: a softmax over nothing would be NaN.
        visible_B = (column_B + 1).masked_fill(slot_B == self._rows, 1)
        out = self.model(
            input_ids=self._tokens_SL[slot_B, self._t_1 - 1][:, None],
            attention_mask=self._no_mask_1111,
            position_ids=column_B[:, None],
            use_cache=False,
            cache_entries=CacheEntries(slot_B, column_B, visible_B),
        )
        self._sample(out.logits[:, -1])

    def _sample(self, logits_BV: torch.Tensor) -> None:
        """Sample a token for the sequence in each of the first rows, and note which sequences end with it."""
        settings = self._settings
        assert settings is not None
        sequence_B = self._sequence_R[: len(logits_BV)].clone()
        if settings.adjust is not None:
            logits_BV = settings.adjust(self._t_1, sequence_B, logits_BV)
        token_B = sample_tokens(logits_BV, settings.temperature, settings.top_p)
        self._tokens_SL[sequence_B, self._t_1] = token_B
        if settings.logps:
            self._logps_SL[sequence_B, self._t_1] = log_probs(logits_BV, token_B, settings.temperature)
        ended_B = (token_B[:, None] == self._ends).any(-1)
        if self._stops is not None:
            ended_B |= self._stops.advance(sequence_B, token_B)
        self._length_S[sequence_B] = torch.where(ended_B, self._t_1 + 1, self._length_S[sequence_B])
        self._sequence_R[: len(logits_BV)] = sequence_B.masked_fill(ended_B, self._rows)
        self._t_1 += 1
