"""Prompts with their responses as packed rows: forward passes of a number of tokens, not of sequences, without padding.

- `deal` decides which sequences share a forward pass.
- `pack_completions` makes the inputs of the pass.
- `loss_weights` says how much a pack's loss weighs in the minibatch's.
- `auto_tokens` says how many tokens fit.

Shapes: B sequences, P prompt columns (padded left), C completion columns (padded right), T tokens of a pack, N
    sequences in a
pack.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from r1pipe.models.memory import training_need
from r1pipe.models.packed_attention import packed_kwargs

# Limits of `auto` on the tokens of a pack: fewer are not worth a pass's kernel launches, more make no kernel faster.
LEAST_TOKENS = 1024
MOST_TOKENS = 32_768
# The share of the free memory that a pack's activations may take: their estimate is rough.
MEMORY_SHARE = 0.7

# Loss types that TRL normalises by the tokens of all minibatches, counted beforehand.
GLOBAL_TOKEN_LOSSES = ("dapo", "cispo", "vespo")
NOT_SCORED = -100


def deal(lengths: Sequence[int], packs: int) -> list[list[int]]:
    """Deal sequences to packs, the longest first, there and back again, so that packs are of similar size.

    How many sequences a pack gets depends only on the number of sequences and of packs. Ranks that deal the same
    numbers therefore have packs of the same shape, which TRL's gathering of metrics and sharded forward passes need.

    Returns:
        the indices of each pack's sequences, in ascending order.

    >>> deal([5, 1, 4, 2, 3, 6], 2)
    [[3, 4, 5], [0, 1, 2]]
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    dealt: list[list[int]] = [[] for _ in range(packs)]
    for place, sequence in enumerate(longest_first):
        turn, position = divmod(place, packs)
        backwards = turn % 2 == 1
        pack = packs - 1 - position if backwards else position
        dealt[pack].append(sequence)
    return [sorted(pack) for pack in dealt]


def dealt_pack_count(lengths: Sequence[int], budget: int) -> int:
    """The fewest packs of `deal` with at most `budget` tokens each; a longer sequence is alone at worst."""
    limit = max(budget, max(lengths, default=0))
    # from the least number that could do, which even packs would need
    count = max(1, -(-sum(lengths) // budget))
    while count < len(lengths) and _largest(lengths, deal(lengths, count)) > limit:
        count += 1
    return min(count, len(lengths))


def _largest(lengths: Sequence[int], packs: list[list[int]]) -> int:
    """Tokens of the largest pack."""
    return max(sum(lengths[i] for i in pack) for pack in packs)


@dataclass(frozen=True)
class Packed:
    """The inputs of one forward pass, and where its log-probs belong.

    Attributes:
        inputs: input_ids_1T, position_ids_1T, shift_labels_1T (the next token where it is scored, else -100), and
            where sequences begin.
        rows: the row in (B, C) of each scored token, in the order of the pack.
        columns: its column.
    """

    inputs: dict[str, Any]
    rows: torch.Tensor
    columns: torch.Tensor


def pack_completions(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    completion_width: int,
) -> Packed:
    """Lay sequences end to end, without their padding.

    A sequence without a token to score is left out, as long as one sequence remains: every rank must take part in the
    forward pass.

    Args:
        input_ids, attention_mask: (B, P + C); a row's real tokens are next to each other.
        completion_width: C.
    """
    width = input_ids.shape[1]
    prompt_width = width - completion_width
    device = input_ids.device

    # which tokens are laid into the pack
    real_BT = attention_mask.bool()
    scored_B = real_BT[:, prompt_width:].any(1)
    if not scored_B.any():
        scored_B[0] = True
    real_BT = real_BT & scored_B[:, None]
    lengths = real_BT.sum(1).tolist()

    # where each of them comes from
    row_BT = torch.arange(len(input_ids), device=device)[:, None].expand_as(input_ids)
    column_BT = torch.arange(width, device=device).expand_as(input_ids)
    ids_T = input_ids[real_BT]
    row_T = row_BT[real_BT]
    column_T = column_BT[real_BT]
    first_column_B = real_BT.int().argmax(1)
    position_T = column_T - first_column_B[row_T]

    # A position's label is the next token, where that is a completion token of the same sequence.
    same_sequence_T = row_T.roll(-1) == row_T
    next_scored_T = (column_T.roll(-1) >= prompt_width) & same_sequence_T
    # roll brings the first token of the pack behind the last, and both may be of one sequence
    next_scored_T[-1] = False
    labels_T = ids_T.roll(-1).masked_fill(~next_scored_T, NOT_SCORED)

    inputs = {"input_ids": ids_T[None], "position_ids": position_T[None], "shift_labels": labels_T[None]}
    inputs |= packed_kwargs([length for length in lengths if length], device)
    # The log-prob at a position belongs to the token after it.
    scored_T = next_scored_T.roll(1)
    return Packed(inputs, row_T[scored_T], column_T[scored_T] - prompt_width)


def loss_weights(
    loss_type: str,
    rows: Sequence[int],
    tokens: Sequence[int],
) -> list[float]:
    """How much each pack's loss weighs, so that the weighted sum is the loss of the whole minibatch.

    TRL normalises a minibatch by its sequences (grpo, dr_grpo, sapo, luspo), by its own tokens (bnpo), or by tokens
    counted over all minibatches beforehand (GLOBAL_TOKEN_LOSSES), in which case packs just add up.

    Args:
        rows: the sequences of each pack.
        tokens: the counted tokens of each pack.
    """
    if loss_type in GLOBAL_TOKEN_LOSSES:
        return [1.0] * len(rows)
    # TRL has divided by the pack's own rows or tokens; it shall be the minibatch's.
    parts = tokens if loss_type == "bnpo" else rows
    whole = max(1, sum(parts))
    return [part / whole for part in parts]


def auto_tokens(
    model: torch.nn.Module,
    free_bytes: float,
    checkpointing: bool,
    compiled: bool,
) -> int:
    """How many tokens a pack may hold.

    Args:
        model: its config says the sizes.
        free_bytes: what activations may take.
        checkpointing: whether activations are recomputed in the backward pass.
        compiled: whether layers are compiled, which keeps fewer activations.
    """
    # memory grows with the tokens: what one takes says how many fit
    need = training_need(model, 1, compiled=compiled)
    bytes_per_token = need.checkpointed if checkpointing else need.activations
    tokens = int(MEMORY_SHARE * free_bytes / bytes_per_token)
    if tokens < LEAST_TOKENS:
        warnings.warn(
            f"by the estimate a forward pass of {LEAST_TOKENS} tokens does not fit: "
            f"there is room for {max(0, tokens)}; "
            "set gradient_checkpointing: true, a profile that shards more, or grpo.microbatch_tokens",
            stacklevel=2,
        )
    whole_thousands = tokens // 1024 * 1024
    return max(LEAST_TOKENS, min(MOST_TOKENS, whole_thousands))
