"""A prompt that several responses of a pack answer is read once.

Why it exists: GRPO scores a group of responses to one prompt. Laid end to end with its prompt, each response makes the
model read the prompt again: with groups of 8, prompts of 290 tokens and responses of 240, half of all work. Nothing but
attention looks at other tokens, so only attention has to know that a prompt is shared.

How it works. A group whose rows share a pack is laid as its prompt without the last token, and then, for each response,
the prompt's last token and the response:

    prompt[:-1]   prompt[-1] response A   prompt[-1] response B   ...

- Each part is a sequence of the pack. The prompt's last token, which every response needs for the log-prob of its first
  token, is kept once for each response; so each position still has one label.
- Positions continue from the prompt's, so rotary embeddings are those of the row alone.
- A response's keys are those of the shared prompt and then its own. So a sequence has more keys than queries, and the
  kernel's causal mask is aligned at the end: no mask of the whole pack, and no second call of the kernel. `key_tokens`
  says which token each key is of, and `take_tokens` copies keys and values. The copies are small where key heads are
  fewer than query heads; attention's own work stays what it was.
- The gradient of a prompt's keys and values is the sum over its copies, in float32.

The numbers are those of rows alone but for rounding, gradients included: a prompt's gradient is the sum over its
responses either way. LoRA's dropout is drawn once for a shared prompt.

Shapes: B rows, T tokens of a pack, U keys of a pack, K key heads, F head size, N sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class Part(NamedTuple):
    """A sequence of a pack: a row, or a part of one.

    Attributes:
        row: which row its tokens are of.
        first: where in the row it begins, in tokens.
        length: its tokens.
        prompt: which of the parts before it is its shared prompt, whose tokens it attends to as well; None = its own
            tokens are all it attends to.
    """

    row: int
    first: int
    length: int
    prompt: int | None = None


@dataclass(frozen=True)
class Rows:
    """What decides how rows are laid into packs.

    Attributes:
        prompts: tokens of each row's prompt.
        responses: tokens of each row's response.
        groups: rows with equal numbers have the same prompt and may share it.
    """

    prompts: Sequence[int]
    responses: Sequence[int]
    groups: Sequence[int]

    def __len__(self) -> int:
        return len(self.groups)

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of a pack of these rows."""
        own = sum(self.responses[row] + min(1, self.prompts[row]) for row in rows)
        shared = {self.groups[row]: max(0, self.prompts[row] - 1) for row in rows}
        return own + sum(shared.values())

    def parts(self, rows: Sequence[int]) -> list[Part]:
        """The sequences of a pack of these rows: groups in the order of their first rows."""
        rows_of: dict[int, list[int]] = {}
        for row in rows:
            rows_of.setdefault(self.groups[row], []).append(row)

        parts: list[Part] = []
        for members in rows_of.values():
            shared = self.prompts[members[0]] - 1
            if len(members) == 1 or shared < 1:
                parts += [Part(row, 0, self.prompts[row] + self.responses[row]) for row in members]
                continue
            prompt = len(parts)
            parts.append(Part(members[0], 0, shared))
            parts += [Part(row, shared, 1 + self.responses[row], prompt) for row in members]
        return parts


def same_prompts(prompt_ids: torch.Tensor, prompt_mask: torch.Tensor) -> list[int]:
    """A number for each row, equal where prompts are equal; tokens (B, P), padded on the left."""
    ids_BP = prompt_ids.masked_fill(prompt_mask == 0, -1).cpu().numpy()
    numbers: dict[bytes, int] = {}
    return [numbers.setdefault(row.tobytes(), len(numbers)) for row in ids_BP]


def key_lengths(parts: Sequence[Part]) -> list[int]:
    """How many keys each sequence has."""
    return [part.length + (0 if part.prompt is None else parts[part.prompt].length) for part in parts]


def key_tokens(parts: Sequence[Part], device: torch.device | str | None = None) -> torch.Tensor:
    """Which token of the pack each key is of, (U,)."""
    begins = []
    end = 0
    for part in parts:
        begins.append(end)
        end += part.length

    starts: list[int] = []
    lengths: list[int] = []
    for part, begin in zip(parts, begins, strict=True):
        if part.prompt is not None:
            starts.append(begins[part.prompt])
            lengths.append(parts[part.prompt].length)
        starts.append(begin)
        lengths.append(part.length)
    return ranges(starts, lengths, device)


def ranges(
    starts: Sequence[int],
    lengths: Sequence[int],
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """The numbers from each start on, as many as its length, end to end. A GPU is not waited for.

    >>> ranges([7, 0], [2, 3]).tolist()
    [7, 8, 0, 1, 2]
    """
    total = sum(lengths)
    length_N = torch.tensor(lengths, dtype=torch.long)
    # what has to be added to a place to make it the number there
    shift_N = torch.tensor(starts, dtype=torch.long) - (length_N.cumsum(0) - length_N)
    shift_T = shift_N.to(device).repeat_interleave(length_N.to(device), output_size=total)
    return shift_T + torch.arange(total, device=device)


# --- copies of keys and values, as an operator that torch.compile accepts without looking inside ----------------------


def take_tokens(heads_TKF: torch.Tensor, tokens_U: torch.Tensor) -> torch.Tensor:
    """These tokens' keys or values, (U, K, F). A token may be taken often: its gradient is the sum, made in float32."""
    taken_UKF: torch.Tensor = torch.ops.r1pipe.take_tokens(heads_TKF, tokens_U)
    return taken_UKF


# index_select's own gradient would add up in half precision, and torch.compile would sort the indices to do so.
@torch.library.custom_op("r1pipe::take_tokens", mutates_args=())
def _take(heads_TKF: torch.Tensor, tokens_U: torch.Tensor) -> torch.Tensor:
    return heads_TKF.index_select(0, tokens_U)


@_take.register_fake
def _(heads_TKF: torch.Tensor, tokens_U: torch.Tensor) -> torch.Tensor:
    return heads_TKF.new_empty((tokens_U.shape[0], *heads_TKF.shape[1:]))


@torch.library.custom_op("r1pipe::add_tokens", mutates_args=())
def _add(grad_UKF: torch.Tensor, tokens_U: torch.Tensor, count: int) -> torch.Tensor:
    """The sum of the gradients of each of `count` tokens."""
    exact = torch.promote_types(grad_UKF.dtype, torch.float32)
    sum_TKF = torch.zeros((count, *grad_UKF.shape[1:]), dtype=exact, device=grad_UKF.device)
    sum_TKF.index_add_(0, tokens_U, grad_UKF.to(exact))
    return sum_TKF.to(grad_UKF.dtype)


@_add.register_fake
def _(grad_UKF: torch.Tensor, tokens_U: torch.Tensor, count: int) -> torch.Tensor:
    return grad_UKF.new_empty((count, *grad_UKF.shape[1:]))


def _keep_for_backward(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
    heads_TKF, tokens_U = inputs
    ctx.count = heads_TKF.shape[0]
    ctx.save_for_backward(tokens_U)


def _gradients(ctx: Any, grad_UKF: torch.Tensor) -> tuple[torch.Tensor, None]:
    (tokens_U,) = ctx.saved_tensors
    return torch.ops.r1pipe.add_tokens(grad_UKF, tokens_U, ctx.count), None


_take.register_autograd(_gradients, setup_context=_keep_for_backward)
