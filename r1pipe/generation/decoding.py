"""Sampling with a plain PyTorch model. The back end `hf`, and RL without vLLM, sample with it.

Three things make it faster than `model.generate` for groups of responses. Each prompt is read once for all its
responses. Keys and values are written in place instead of concatenated at every token (the concatenation took 58 % of
the time at 512 sequences). Sequences that have ended leave the batch. On a GPU a step is a CUDA graph where the model
allows it (cuda_graphs.py). Models whose cache is not plain attention (sliding windows, state spaces) go through
`model.generate`.

Shapes: P prompts, S = P * n sequences, B sequences still running, T tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from r1pipe.generation.cuda_graphs import STEPS_PER_CHECK, GraphedModel
from r1pipe.generation.stop_strings import StopStates, StopStrings
from r1pipe.generation.token_sampling import (
    Adjust,
    EndedReporter,
    OnEnded,
    SamplingSettings,
    cut,
    log_probs,
    sample_tokens,
)

# The batch is compacted when less than this share of it still runs. A copy takes about as long as one token.
COMPACT_BELOW = 0.85

# New tokens that a cache has room for at first.
FIRST_ROOM = 256


class Decoded(NamedTuple):
    """What was sampled for each sequence.

    Attributes:
        token_ids: the sequences, each with the token that ended it. One that is shorter than it might be has ended.
        logps: each token's log-probability at the sampling temperature; empty where they are not kept.
    """

    token_ids: list[list[int]]
    logps: list[list[float]]


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompt_ids: list[list[int]],
    *,
    n: int = 1,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    eos_ids: list[int],
    stop: StopStrings | None = None,
    pad_id: int,
    graphed: GraphedModel | None = None,
    keep_logps: bool = False,
    adjust: Adjust | None = None,
    on_ended: OnEnded | None = None,
) -> Decoded:
    """Sample n continuations of each prompt.

    Args:
        model: the model, in the precision that it samples in.
        prompt_ids: P lists of token ids, of any lengths.
        n: continuations of each prompt.
        max_new_tokens: a continuation that has not ended by then is cut.
        temperature: 0 takes the most probable token.
        top_p: 1 = all tokens.
        eos_ids: tokens that end a continuation; the one that did is its last token.
        stop: strings that end one, too; the token that completes one is the last.
        pad_id: fills the prompts up to the same length.
        graphed: the model or its twin with CUDA graphs, with room for all sequences.
        keep_logps: also return log-probabilities. A model that goes through `model.generate` has none.
        adjust: see SamplingSettings; benchmarks force lengths with it.
        on_ended: gets continuations that have ended while others are drawn, but not necessarily all of them.

    Returns:
        P * n sequences, the n continuations of a prompt next to each other.
    """
    ids_PT, mask_PT = _padded_left(prompt_ids, pad_id, model.device)
    if not _has_plain_cache(model):
        assert adjust is None, "only our own loop can adjust logits"
        return _generate(
            model,
            ids_PT,
            mask_PT,
            n=n,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            eos_ids=eos_ids,
            stop=stop,
            pad_id=pad_id,
        )

    settings = SamplingSettings(temperature, top_p, tuple(eos_ids), stop, adjust, keep_logps)
    if graphed is not None:
        decoded = _decode_with_graphs(
            graphed, ids_PT, mask_PT, n=n, max_new_tokens=max_new_tokens, settings=settings, on_ended=on_ended
        )
        if decoded is not None:
            return decoded
    return _decode_step_by_step(
        EagerModel(model),
        ids_PT,
        mask_PT,
        n=n,
        max_new_tokens=max_new_tokens,
        settings=settings,
        on_ended=on_ended,
        pad_id=pad_id,
    )


def _padded_left(
    prompt_ids: list[list[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the prompts' ids and attention mask. Padded on the left, every row's next token is in the same column."""
    width = max(map(len, prompt_ids))
    ids_PT = torch.full((len(prompt_ids), width), pad_id, dtype=torch.long)
    mask_PT = torch.zeros_like(ids_PT)
    for row, ids in enumerate(prompt_ids):
        ids_PT[row, width - len(ids) :] = torch.tensor(ids, dtype=torch.long)
        mask_PT[row, width - len(ids) :] = 1
    return ids_PT.to(device), mask_PT.to(device)


def _has_plain_cache(model: PreTrainedModel) -> bool:
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _decode_with_graphs(
    graphed: GraphedModel,
    ids_PT: torch.Tensor,
    mask_PT: torch.Tensor,
    *,
    n: int,
    max_new_tokens: int,
    settings: SamplingSettings,
    on_ended: OnEnded | None,
) -> Decoded | None:
    """Return what graphs sample; None, with a warning, where a step cannot be recorded."""
    has_room = graphed.has_room(len(ids_PT) * n, ids_PT.shape[1] + max_new_tokens)
    assert has_room, "make_room was called before"
    try:
        return Decoded(*graphed.run(ids_PT, mask_PT, n, max_new_tokens, settings=settings, on_ended=on_ended))
    # Compilers may be missing or fail, and each raises errors of its own.
    except Exception as error:
        if ids_PT.device.type != "cuda":
            raise
        if isinstance(error, torch.OutOfMemoryError):
            graphed.release()
            what = "there was no memory for CUDA graphs this time"
        else:
            graphed.give_up()
            what = "tokens of decoding could not be recorded as CUDA graphs"
        reason = (str(error).splitlines() or [""])[0]
        warnings.warn(f"{what}, so a plain loop draws: {type(error).__name__}: {reason}", stacklevel=3)
        return None


def _decode_step_by_step(
    eager: EagerModel,
    ids_PT: torch.Tensor,
    mask_PT: torch.Tensor,
    *,
    n: int,
    max_new_tokens: int,
    settings: SamplingSettings,
    on_ended: OnEnded | None,
    pad_id: int,
) -> Decoded:
    reporter = EndedReporter(on_ended, max_new_tokens)
    device = ids_PT.device
    total = len(ids_PT) * n
    eos = torch.tensor(settings.ends, device=device)
    tokens_ST = torch.full((total, max_new_tokens), pad_id, dtype=torch.long, device=device)
    logps_ST = torch.zeros(total, max_new_tokens, device=device) if settings.logps else None
    length_S = torch.full((total,), max_new_tokens, dtype=torch.long, device=device)
    # The number of the sequence in each row of the batch, and whether it still runs.
    sequence_B = torch.arange(total, device=device)
    running_B = torch.ones(total, dtype=torch.bool, device=device)

    logits_BV = eager.read(ids_PT, mask_PT, n, max_new_tokens)
    stops = StopStates(settings.stop, total, logits_BV.shape[1], device) if settings.stop else None
    for t in range(max_new_tokens):
        if settings.adjust is not None:
            logits_BV = settings.adjust(t, sequence_B, logits_BV)
        token_B = sample_tokens(logits_BV, settings.temperature, settings.top_p)
        tokens_ST[sequence_B, t] = token_B.masked_fill(~running_B, pad_id)
        if logps_ST is not None:
            logps_ST[sequence_B, t] = log_probs(logits_BV, token_B, settings.temperature)
        ended_B = running_B & torch.isin(token_B, eos)
        if stops is not None:
            ended_B |= running_B & stops.advance(sequence_B, token_B)
        length_S[sequence_B] = length_S[sequence_B].masked_fill(ended_B, t + 1)
        running_B = running_B & ~ended_B
        if t + 1 == max_new_tokens:
            break

        # On a GPU this check waits for everything that was started, so it is made only every few steps.
        if device.type == "cpu" or t % STEPS_PER_CHECK == 0:
            reporter.report(tokens_ST, length_S)
            left = int(running_B.sum())
            if left == 0:
                break
            if left < COMPACT_BELOW * len(running_B):
                kept_B = running_B.nonzero().squeeze(-1)
                eager.keep(kept_B)
                token_B = token_B[kept_B]
                sequence_B = sequence_B[kept_B]
                running_B = running_B[kept_B]
        logits_BV = eager.step(token_B)

    logps = cut(logps_ST, length_S) if logps_ST is not None else []
    return Decoded(cut(tokens_ST, length_S), logps)


def _generate(
    model: Any,
    ids_PT: torch.Tensor,
    mask_PT: torch.Tensor,
    *,
    n: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    eos_ids: list[int],
    stop: StopStrings | None,
    pad_id: int,
) -> Decoded:
    """Sample with transformers' own loop, which draws from torch's default generator.

    A model's generation config holds token ids and nothing else (r1pipe/models/loading.py), so what is passed here is
    all that shapes the draw.
    """
    options: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        options = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if stop is not None:
        options |= {"stop_strings": list(stop.strings), "tokenizer": stop.tokenizer}
    generated_ST = model.generate(
        input_ids=ids_PT.repeat_interleave(n, 0),
        attention_mask=mask_PT.repeat_interleave(n, 0),
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_ids,
        pad_token_id=pad_id,
        **options,
    )
    ends = set(eos_ids)
    token_ids = []
    for row in generated_ST[:, ids_PT.shape[1] :].tolist():
        length = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        # What follows a stop string is padding, which need not be an end token.
        stopped = stop.length(row[:length]) if stop is not None else None
        token_ids.append(row[: stopped or length])
    return Decoded(token_ids, [])


class EagerModel:
    """A model that is called token by token, with a cache that grows."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        # Layers that training has compiled would be compiled again for every length.
        compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
        self._stance = partial(torch.compiler.set_stance, "force_eager") if compiled else nullcontext

    def read(self, ids_PT: torch.Tensor, mask_PT: torch.Tensor, n: int, max_new_tokens: int) -> torch.Tensor:
        """Read the prompts, each for n sequences; return the logits after them, (S, V)."""
        self._length = ids_PT.shape[1]
        longest = self._length + max_new_tokens
        self._cache = DynamicCache(config=self._model.config)
        self._cache.layers[:] = [InPlaceLayer(longest) for _ in self._cache.layers]
        logits_PV = self._logits(
            input_ids=ids_PT,
            attention_mask=mask_PT,
            # Padding is not counted.
            position_ids=(mask_PT.cumsum(-1) - 1).clamp(min=0),
            logits_to_keep=1,
        )
        if n > 1:
            self._cache.batch_repeat_interleave(n)
        self._mask_BT = mask_PT.new_ones(len(ids_PT) * n, longest)
        self._mask_BT[:, : self._length] = mask_PT.repeat_interleave(n, 0)
        self._position_B1 = mask_PT.sum(-1, keepdim=True).repeat_interleave(n, 0)
        return logits_PV.repeat_interleave(n, 0)

    def step(self, token_B: torch.Tensor) -> torch.Tensor:
        """Read one more token of each sequence; return the logits after it, (B, V)."""
        self._length += 1
        logits_BV = self._logits(
            input_ids=token_B[:, None],
            attention_mask=self._mask_BT[:, : self._length],
            position_ids=self._position_B1,
        )
        self._position_B1 = self._position_B1 + 1
        return logits_BV

    def _logits(self, **inputs: Any) -> torch.Tensor:
        with self._stance():
            return self._model(**inputs, past_key_values=self._cache, use_cache=True).logits[:, -1]

    def keep(self, kept_B: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        self._cache.batch_select_indices(kept_B)
        self._position_B1 = self._position_B1[kept_B]
        self._mask_BT = self._mask_BT[kept_B]


class InPlaceLayer(DynamicLayer):
    """A DynamicLayer with room for tokens to come.

    It has room for FIRST_ROOM tokens at first, and for twice as many whenever it is full. Room for all of them at once
    would be hundreds of GB for long responses, most of which end early.

    Args:
        max_length: tokens that there will be at most.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        if start == 0:
            self.lazy_initialization(key_states, value_states)
            capacity = min(self.max_length, stop + FIRST_ROOM)
            # The tensors with room: keys and values are views of their first columns.
            self._room = [
                states.new_empty(*states.shape[:-2], capacity, states.shape[-1])
                for states in (key_states, value_states)
            ]
        elif stop > self._room[0].shape[-2]:
            self._grow(start, stop)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:stop, :] = states
        return self._show(stop)

    def _grow(self, length: int, needed: int) -> None:
        """Make room for twice as many tokens, and for at least `needed`."""
        # The views would keep the old tensors alive. One tensor is copied after the other, so that only one of them is
        # in memory twice.
        self.keys = self.values = None
        capacity = min(max(2 * self._room[0].shape[-2], needed), max(self.max_length, needed))
        for i in range(len(self._room)):
            old = self._room[i]
            self._room[i] = old.new_empty(*old.shape[:-2], capacity, old.shape[-1])
            self._room[i][..., :length, :] = old[..., :length, :]

    def _show(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make keys and values views of the first `length` tokens."""
        keys, values = (room[..., :length, :] for room in self._room)
        self.keys = keys
        self.values = values
        return keys, values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        for i, room in enumerate(self._room):
            kept = room.new_empty(len(indices), *room.shape[1:])
            kept[..., :length, :] = room[..., :length, :][indices]
            self._room[i] = kept
        self._show(length)

    def batch_repeat_interleave(self, repeats: int) -> None:
        assert self.keys is not None, "the prompts were read before"
        batch = torch.arange(self.keys.shape[0], device=self.keys.device)
        self.batch_select_indices(batch.repeat_interleave(repeats))
