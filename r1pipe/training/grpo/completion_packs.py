"""Prompts with their responses as packed rows: forward passes of a number of tokens, not of sequences, without padding.

- `deal` decides which sequences share a forward pass.
- `pack_completions` makes the inputs of the pass.
- `loss_weights` says how much a pack's loss weighs in the minibatch's.
- `auto_tokens` says how many tokens fit.

Rows with the same prompt that share a pack share one copy of it (r1pipe/models/shared_prompts.py), where the model's
attention allows it: `row_sizes` says which rows those are.

Shapes: B rows, P prompt columns (padded left), C completion columns (padded right), T tokens of a pack, N sequences of
it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from r1pipe.models.memory import training_need
from r1pipe.models.packed_attention import packed_kwargs
from r1pipe.models.shared_prompts import Part, Rows, key_lengths, key_tokens, ranges, same_prompts

# Limits of `auto` on the tokens of a pack: fewer are not worth a pass's kernel launches, more make no kernel faster.
LEAST_TOKENS = 1024
MOST_TOKENS = 32_768
# The share of the free memory that a pack's activations may take: their estimate is rough.
MEMORY_SHARE = 0.7

# Loss types that TRL normalises by the tokens of all minibatches, counted beforehand.
GLOBAL_TOKEN_LOSSES = ("dapo", "cispo", "vespo")
NOT_SCORED = -100


def row_sizes(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_mask: torch.Tensor,
    *,
    shared: bool,
) -> Rows:
    """The lengths of rows, and which of them have the same prompt.

    Args:
        prompt_ids, prompt_mask: (B, P).
        completion_mask: (B, C).
        shared: rows may share their prompts; else each has its own.
    """
    prompts, responses = torch.stack([prompt_mask.sum(1), completion_mask.sum(1)]).tolist()
    own = list(range(len(prompts)))
    return Rows(prompts, responses, same_prompts(prompt_ids, prompt_mask) if shared else own)


def deal(rows: Rows, packs: int) -> list[list[int]]:
    """Deal rows to packs of similar size, those with the same prompt to the same pack where that does not make the
    largest pack larger.

    How many rows a pack gets depends only on the number of rows and of packs. Ranks that deal the same numbers
    therefore have packs of the same shape, which TRL's gathering of metrics and sharded forward passes need.

    Returns:
        the indices of each pack's rows, in ascending order.

    >>> deal(Rows([0] * 6, [5, 1, 4, 2, 3, 6], list(range(6))), 2)
    [[3, 4, 5], [0, 1, 2]]
    """
    lengths = [rows.tokens([row]) for row in range(len(rows))]
    one_by_one = _there_and_back(lengths, packs)
    members: dict[int, list[int]] = {}
    for row, group in enumerate(rows.groups):
        members.setdefault(group, []).append(row)
    if len(members) == len(rows):
        return one_by_one

    # Whole groups, and what is too much for a pack goes to the next one.
    groups = list(members.values())
    dealt = _there_and_back([rows.tokens(group) for group in groups], packs)
    in_order = iter([row for pack in dealt for group in pack for row in groups[group]])
    by_group = [sorted(islice(in_order, len(pack))) for pack in one_by_one]
    return min(by_group, one_by_one, key=lambda dealt: _largest_pack(rows, dealt))


def _there_and_back(lengths: Sequence[int], packs: int) -> list[list[int]]:
    """Deal these lengths, the longest first, there and back again; the indices of each pack in ascending order."""
    longest_first = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    dealt: list[list[int]] = [[] for _ in range(packs)]
    for place, sequence in enumerate(longest_first):
        turn, position = divmod(place, packs)
        backwards = turn % 2 == 1
        pack = packs - 1 - position if backwards else position
        dealt[pack].append(sequence)
    return [sorted(pack) for pack in dealt]


def dealt_pack_count(rows: Rows, budget: int) -> int:
    """The fewest packs of `deal` with at most `budget` tokens each; a longer row is alone at worst."""
    every = range(len(rows))
    limit = max(budget, max((rows.tokens([row]) for row in every), default=0))
    # from the least number that could do, which even packs would need
    count = max(1, -(-rows.tokens(every) // budget))
    while count < len(rows) and _largest_pack(rows, deal(rows, count)) > limit:
        count += 1
    return min(count, len(rows))


def _largest_pack(rows: Rows, packs: list[list[int]]) -> int:
    """Tokens of the largest pack."""
    return max(rows.tokens(pack) for pack in packs)


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
    *,
    shared: bool = False,
) -> Packed:
    """Lay rows end to end, without their padding.

    A row without a token to score is left out, as long as one row remains: every rank must take part in the forward
    pass.

    Args:
        input_ids, attention_mask: (B, P + C); a row's real tokens are next to each other.
        completion_width: C.
        shared: rows with the same prompt share it.
    """
    width = input_ids.shape[1]
    prompt_width = width - completion_width
    device = input_ids.device
    masks = attention_mask.split([prompt_width, completion_width], dim=1)
    rows = row_sizes(input_ids[:, :prompt_width], *masks, shared=shared)
    scored_rows = [row for row, response in enumerate(rows.responses) if response]
    parts = rows.parts(scored_rows or [0])

    # where each token comes from
    lengths = [part.length for part in parts]
    first_columns = [prompt_width - rows.prompts[part.row] + part.first for part in parts]
    column_T = ranges(first_columns, lengths, device)
    row_T = _repeat([part.row for part in parts], lengths, device)
    position_T = ranges([part.first for part in parts], lengths, device)
    ids_T = input_ids[row_T, column_T]

    # A position's label is the next token of its sequence, where that is a completion token.
    left_T = _repeat(lengths, lengths, device) - ranges([0] * len(parts), lengths, device)
    next_column_T = column_T + 1
    next_scored_T = (left_T > 1) & (next_column_T >= prompt_width)
    next_ids_T = input_ids[row_T, next_column_T.clamp(max=width - 1)]
    labels_T = next_ids_T.masked_fill(~next_scored_T, NOT_SCORED)

    inputs = {"input_ids": ids_T[None], "position_ids": position_T[None], "shift_labels": labels_T[None]}
    inputs |= _attention_inputs(parts, device, shared=shared)
    # The log-prob at a position belongs to the token after it.
    return Packed(inputs, row_T[next_scored_T], next_column_T[next_scored_T] - prompt_width)


def _attention_inputs(
    parts: Sequence[Part],
    device: torch.device,
    *,
    shared: bool,
) -> dict[str, Any]:
    """Which tokens attend to which."""
    lengths = [part.length for part in parts]
    if not shared:
        return packed_kwargs(lengths, device)
    # Also for a pack in which no prompt is shared: compiled layers have one graph for both.
    return {
        **packed_kwargs(lengths, device, key_lengths=key_lengths(parts)),
        "key_tokens": key_tokens(parts, device),
    }


def _repeat(
    values: Sequence[int],
    times: Sequence[int],
    device: torch.device,
) -> torch.Tensor:
    """Each value as often as its number of times says, end to end."""
    value_N = torch.tensor(values, device=device)
    return value_N.repeat_interleave(torch.tensor(times, device=device), output_size=sum(times))


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
