"""Prompts with their completions as packed rows: forward passes of so many tokens, not of so many sequences, and none of them padding.

`deal` decides which sequences share a forward pass, `pack_completions` makes its inputs, `loss_weights` says what a pack's loss weighs in
the minibatch's, `auto_tokens` how much fits.

Shapes: B sequences, P prompt columns (padded left), C completion columns (padded right), T tokens of a pack, N sequences in a pack.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from r1pipe.models.memory import training_need
from r1pipe.models.packed_attention import packed_kwargs

LEAST_TOKENS = 1024  # of a pack; less is not worth its launches
MOST_TOKENS = 32_768  # a larger pack makes no kernel faster
MEMORY_SHARE = 0.7  # of what is free, for a pack's activations: the estimate is rough


def deal(lengths: Sequence[int], packs: int) -> list[list[int]]:
    """Sequences dealt to packs, longest first, there and back again, so that packs are of like size.

    How many sequences a pack gets depends on the numbers of sequences and packs alone: ranks that deal the same numbers have packs of the
    same shape, as TRL's gathering of metrics and the sharded forward passes ask.

    >>> deal([5, 1, 4, 2, 3, 6], 2)
    [[3, 4, 5], [0, 1, 2]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    dealt: list[list[int]] = [[] for _ in range(packs)]
    for place, i in enumerate(order):
        turn, at = divmod(place, packs)
        dealt[at if turn % 2 == 0 else packs - 1 - at].append(i)
    return [sorted(pack) for pack in dealt]


def dealt_pack_count(lengths: Sequence[int], budget: int) -> int:
    """The fewest packs of `deal` of at most `budget` tokens each; a sequence that is longer than the budget is alone at worst."""
    packs = max(1, -(-sum(lengths) // budget))
    while packs < len(lengths) and max(sum(lengths[i] for i in pack) for pack in deal(lengths, packs)) > max(
        budget, max(lengths)
    ):
        packs += 1
    return min(packs, len(lengths))


@dataclass(frozen=True)
class Packed:
    """The inputs of one forward pass, and where its log-probs belong.

    Attributes:
        inputs: input_ids_1T, position_ids_1T, shift_labels_1T (the next token where it is scored, else -100), and where sequences begin.
        rows, columns: of each scored token, in the order of the pack, in (B, C).
    """

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor


def pack_completions(input_ids: torch.Tensor, attention_mask: torch.Tensor, completion_width: int) -> Packed:
    """Sequences one after the other, without their padding.

    A sequence without a token to score is left out (as long as one remains: every rank must take part in the forward pass).

    Args:
        input_ids, attention_mask: (B, P + C); a row's real tokens are next to each other.
        completion_width: C.
    """
    width = input_ids.shape[1]
    prompt_width = width - completion_width
    real_BT = attention_mask.bool()
    scored_B = real_BT[:, prompt_width:].any(1)
    if not scored_B.any():
        scored_B[0] = True
    real_BT = real_BT & scored_B[:, None]
    lengths = real_BT.sum(1).tolist()
    rows_BT = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(input_ids)
    columns_BT = torch.arange(width, device=input_ids.device).expand_as(input_ids)
    ids_T, row_T, column_T = input_ids[real_BT], rows_BT[real_BT], columns_BT[real_BT]
    position_T = column_T - real_BT.int().argmax(1)[row_T]
    next_scored_T = (column_T.roll(-1) >= prompt_width) & (row_T.roll(-1) == row_T)
    next_scored_T[-1] = False  # rolled round to the first sequence, which can be the last one's own
    labels_T = ids_T.roll(-1).masked_fill(~next_scored_T, -100)
    after_T = next_scored_T.roll(1)  # the scored tokens themselves
    inputs = {"input_ids": ids_T[None], "position_ids": position_T[None], "shift_labels": labels_T[None]}
    inputs |= packed_kwargs([length for length in lengths if length], input_ids.device)
    return Packed(inputs, row_T[after_T], column_T[after_T] - prompt_width)


def loss_weights(loss_type: str, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """What each pack's loss weighs, so that their sum is the loss of the whole minibatch.

    TRL normalises a minibatch by its sequences (grpo, dr_grpo, sapo, luspo), by its own tokens (bnpo), or by tokens counted over all
    minibatches beforehand (dapo, cispo, vespo), where packs just add up.

    Args:
        rows, tokens: sequences and counted tokens of each pack.
    """
    if loss_type in ("dapo", "cispo", "vespo"):
        return [1.0] * len(rows)
    parts = tokens if loss_type == "bnpo" else rows
    return [part / max(1, sum(parts)) for part in parts]


def auto_tokens(model: torch.nn.Module, free_bytes: float, checkpointing: bool, compiled: bool) -> int:
    """How many tokens a pack may hold.

    Args:
        model: its config tells the sizes.
        free_bytes: what activations may take.
        checkpointing: whether they are recomputed.
        compiled: whether layers are compiled, which keeps fewer of them.
    """
    need = training_need(model, 1, compiled=compiled)
    tokens = int(MEMORY_SHARE * free_bytes / (need.checkpointed if checkpointing else need.activations))
    if tokens < LEAST_TOKENS:
        what = (
            f"by the estimate a forward pass of {LEAST_TOKENS} tokens does not fit: there is room for {max(0, tokens)}"
        )
        warnings.warn(
            f"{what}; gradient_checkpointing: true, a profile that shards more, or grpo.microbatch_tokens", stacklevel=2
        )
    return max(LEAST_TOKENS, min(MOST_TOKENS, tokens // 1024 * 1024))
