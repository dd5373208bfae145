"""Sampling with a plain PyTorch model, as fast as one process can do it; the back end `hf`, and RL without vLLM, sample with it.

Three things make it faster than `model.generate` for groups of responses: each prompt is read once for all its
responses; keys and values are written in place instead of concatenated at every token (the concatenation was 58 % of
the time at 512 sequences); sequences that ended leave the batch. On a GPU a step is a CUDA graph where the model allows it
(r1pipe/generation/cuda_graphs.py). Models whose cache is not plain attention (sliding windows, state spaces) go through `model.generate`.

Shapes: P prompts, B = P * n sequences still running, T tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from r1pipe.generation.cuda_graphs import LOOK_EVERY, GraphedModel
from r1pipe.generation.token_sampling import EndedReporter, OnEnded, SamplingSettings, cut, log_probs, sample_tokens

COMPACT_BELOW = 0.85  # the batch is compacted when less than this share of it still runs; a copy costs about one token
FIRST_ROOM = 256  # new tokens that a cache has room for at first


class Decoded(NamedTuple):
    """What was drawn for each sequence.

    Args:
        token_ids: the sequences, each with the token that ended it.
        logps: each token's log-probability at the sampling temperature; empty where they are not kept.
    """

    token_ids: list[list[int]]
    logps: list[list[float]]


class InPlaceLayer(DynamicLayer):
    """A DynamicLayer with room for tokens to come: for FIRST_ROOM at first, then twice as many whenever it is full.

    Args:
        most: tokens that there will be at most. Room for all of them at once would be hundreds of GB for long responses, most of which end early.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        if start == 0:
            self.lazy_initialization(key_states, value_states)
            self._room = [
                states.new_empty(*states.shape[:-2], min(self.most, stop + FIRST_ROOM), states.shape[-1])
                for states in (key_states, value_states)
            ]
        elif stop > self._room[0].shape[-2]:
            self._grow(start, stop)
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., start:stop, :] = states
        self.keys, self.values = (room[..., :stop, :] for room in self._room)
        return self.keys, self.values

    def _grow(self, length: int, wanted: int) -> None:
        """Room for twice as many tokens, and at least `wanted`; one tensor after the other, so that only one stands twice."""
        self.keys = self.values = None  # views of the room that is left
        capacity = min(max(2 * self._room[0].shape[-2], wanted), max(self.most, wanted))
        for i in range(len(self._room)):
            old = self._room[i]
            self._room[i] = old.new_empty(*old.shape[:-2], capacity, old.shape[-1])
            self._room[i][..., :length, :] = old[..., :length, :]

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        length = self.get_seq_length()
        for i, room in enumerate(self._room):
            kept = room.new_empty(len(indices), *room.shape[1:])
            kept[..., :length, :] = room[..., :length, :][indices]
            self._room[i] = kept
        self.keys, self.values = (room[..., :length, :] for room in self._room)

    def batch_repeat_interleave(self, repeats: int) -> None:
        assert self.keys is not None, "the prompts were read before"
        batch = torch.arange(self.keys.shape[0], device=self.keys.device)
        self.batch_select_indices(batch.repeat_interleave(repeats))


class Eager:
    """The model called token by token, with a cache that grows."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        # layers that training has compiled would be compiled again for each length
        compiled = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
        self._stance = partial(torch.compiler.set_stance, "force_eager") if compiled else nullcontext

    def read(self, ids_PT: torch.Tensor, mask_PT: torch.Tensor, n: int, most: int) -> torch.Tensor:
        """Logits after the prompts, (P * n, V). `most` tokens at most follow."""
        self._length = ids_PT.shape[1]
        self._cache = DynamicCache(config=self._model.config)
        self._cache.layers[:] = [InPlaceLayer(self._length + most) for _ in self._cache.layers]
        position_PT = (mask_PT.cumsum(-1) - 1).clamp(min=0)
        asked = {
            "attention_mask": mask_PT,
            "position_ids": position_PT,
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        logits_PV = self._call(input_ids=ids_PT, **asked)
        if n > 1:
            self._cache.batch_repeat_interleave(n)
        self._mask_BT = mask_PT.new_ones(len(ids_PT) * n, self._length + most)
        self._mask_BT[:, : self._length] = mask_PT.repeat_interleave(n, 0)
        self._position_B1 = mask_PT.sum(-1, keepdim=True).repeat_interleave(n, 0)
        return logits_PV.repeat_interleave(n, 0)

    def step(self, token_B: torch.Tensor) -> torch.Tensor:
        """Logits after one more token of each sequence, (B, V)."""
        self._length += 1
        asked = {
            "attention_mask": self._mask_BT[:, : self._length],
            "position_ids": self._position_B1,
            "past_key_values": self._cache,
            "use_cache": True,
        }
        logits_BV = self._call(input_ids=token_B[:, None], **asked)
        self._position_B1 = self._position_B1 + 1
        return logits_BV

    def _call(self, **asked: Any) -> torch.Tensor:
        with self._stance():
            return self._model(**asked).logits[:, -1]

    def keep(self, kept_B: torch.Tensor) -> None:
        """Go on with these rows of the batch."""
        self._cache.batch_select_indices(kept_B)
        self._position_B1, self._mask_BT = self._position_B1[kept_B], self._mask_BT[kept_B]


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
    pad_id: int,
    graphed: GraphedModel | None = None,
    keep_logps: bool = False,
    adjust: Any = None,
    on_ended: OnEnded | None = None,
) -> Decoded:
    """Sample n continuations of each prompt.

    Args:
        prompt_ids: P lists of token ids, of any lengths.
        max_new_tokens: a continuation that has not ended by then is cut.
        eos_ids: tokens that end a continuation; the one that did is its last token.
        graphed: the model, or its twin, with tokens as CUDA graphs and room for all of this.
        adjust: see SamplingSettings; benchmarks force lengths with it.
        keep_logps: also return the log-probabilities, which a model that goes through `model.generate` does not have.
        on_ended: gets continuations that have ended, their places and their tokens, while others are drawn; not of all.

    Returns:
        P * n sequences, the n continuations of a prompt next to each other.
    """
    device = model.device
    width = max(map(len, prompt_ids))
    ids_PT = torch.full((len(prompt_ids), width), pad_id, dtype=torch.long)
    mask_PT = torch.zeros_like(ids_PT)
    for row, ids in enumerate(prompt_ids):  # padded on the left, so that every row's next token is in the same column
        ids_PT[row, width - len(ids) :] = torch.tensor(ids, dtype=torch.long)
        mask_PT[row, width - len(ids) :] = 1
    ids_PT, mask_PT = ids_PT.to(device), mask_PT.to(device)
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        assert adjust is None, "only the loop below has a place for it"
        return _generate(model, ids_PT, mask_PT, n, max_new_tokens, temperature, top_p, eos_ids, pad_id)

    how = SamplingSettings(temperature, top_p, tuple(eos_ids), adjust, keep_logps)
    asked = (ids_PT, mask_PT, n, max_new_tokens, how, on_ended)
    return _graphs_or_none(graphed, *asked) or _loop(Eager(model), *asked, pad_id)


def _graphs_or_none(
    graphed: GraphedModel | None,
    ids_PT: torch.Tensor,
    mask_PT: torch.Tensor,
    n: int,
    most: int,
    how: SamplingSettings,
    on_ended: OnEnded | None,
) -> Decoded | None:
    """What graphs draw; None, and a warning, where a step cannot be recorded."""
    if graphed is None:
        return None
    assert graphed.has_room(len(ids_PT) * n, ids_PT.shape[1] + most), "make_room was asked before"
    try:
        return Decoded(*graphed.run(ids_PT, mask_PT, n, most, how, on_ended))
    except Exception as error:  # of the compilers that may be missing or fail, too, each has errors of its own
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


def _loop(
    eager: Eager,
    ids_PT: torch.Tensor,
    mask_PT: torch.Tensor,
    n: int,
    most: int,
    how: SamplingSettings,
    on_ended: OnEnded | None,
    pad_id: int,
) -> Decoded:
    """Draw, see who ended, step."""
    ended = EndedReporter(on_ended, most)
    device, total = ids_PT.device, len(ids_PT) * n
    eos = torch.tensor(how.ends, device=device)
    tokens = torch.full((total, most), pad_id, dtype=torch.long, device=device)
    logp = torch.zeros(total, most, device=device) if how.logps else None
    lengths = torch.full((total,), most, dtype=torch.long, device=device)
    running_B = torch.arange(total, device=device)  # which of the sequences each row of the batch is
    alive_B = torch.ones(total, dtype=torch.bool, device=device)
    logits_BV = eager.read(ids_PT, mask_PT, n, most)
    for t in range(most):
        if how.adjust is not None:
            logits_BV = how.adjust(t, running_B, logits_BV)
        token_B = sample_tokens(logits_BV, how.temperature, how.top_p)
        tokens[running_B, t] = token_B.masked_fill(~alive_B, pad_id)
        if logp is not None:
            logp[running_B, t] = log_probs(logits_BV, token_B, how.temperature)
        ended_B = alive_B & torch.isin(token_B, eos)
        lengths[running_B] = lengths[running_B].masked_fill(ended_B, t + 1)
        alive_B = alive_B & ~ended_B
        if t + 1 == most:
            break
        if device.type == "cpu" or t % LOOK_EVERY == 0:
            ended.look(tokens, lengths)
            left = int(alive_B.sum())
            if left == 0:
                break
            if left < COMPACT_BELOW * len(alive_B):
                kept_B = alive_B.nonzero().squeeze(-1)
                eager.keep(kept_B)
                token_B, running_B, alive_B = token_B[kept_B], running_B[kept_B], alive_B[kept_B]
        logits_BV = eager.step(token_B)
    return Decoded(cut(tokens, lengths), cut(logp, lengths) if logp is not None else [])


def _generate(
    model: Any,
    ids_PT: torch.Tensor,
    mask_PT: torch.Tensor,
    n: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    eos_ids: list[int],
    pad_id: int,
) -> Decoded:
    """The same through the library's own loop; draws from torch's default generator."""
    chosen = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature > 0
        else {"do_sample": False}
    )
    ids_BT, mask_BT = ids_PT.repeat_interleave(n, 0), mask_PT.repeat_interleave(n, 0)
    out = model.generate(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos_ids,
        pad_token_id=pad_id,
        **chosen,
    )
    ends = set(eos_ids)
    rows = []
    for row in out[:, ids_PT.shape[1] :].tolist():
        stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
        rows.append(row[:stop])
    return Decoded(rows, [])
