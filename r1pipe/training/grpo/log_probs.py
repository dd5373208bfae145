"""Log-probs of responses without work on padding: packed rows, or on a CPU rows of like length.

Shapes: B sequences on this rank, P prompt tokens (padded left), C completion tokens (padded right), T tokens of a
    pack or of a
chunk's longest row, b rows of a chunk.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from trl import GRPOTrainer

from r1pipe.models.loading import compile_layers, without_adapter
from r1pipe.models.packed_attention import prompts_can_be_shared, use_packed_attention
from r1pipe.models.plain_head import add_plain_head
from r1pipe.training.grpo.completion_packs import NOT_SCORED, pack_completions
from r1pipe.training.grpo.pack_budget import PackBudget

# Sequences of a forward pass where rows are not packed: few enough to be of like length, enough for the cores.
CHUNK = 16


class ForwardPass(NamedTuple):
    """A forward pass over some rows.

    Attributes:
        inputs: the model's.
        scored: which of the log-probs that the model returns are of completion tokens.
        places: rows and columns of these in (B, C).
    """

    inputs: dict[str, Any]
    scored: torch.Tensor
    places: tuple[torch.Tensor, torch.Tensor]


class TokenLogProbs(NamedTuple):
    """What TRL's `_get_per_token_logps_and_entropies` returns.

    Attributes:
        logps_BC: of the completion tokens; 0 where there is none.
        entropy_BC: of the distributions they were drawn from; None where it was not asked for.
        aux_loss: a mixture of experts' loss for balance; None where it was not asked for.
    """

    logps_BC: torch.Tensor
    entropy_BC: torch.Tensor | None
    aux_loss: torch.Tensor | None


class LogProbs:
    """Computes log-probs and entropies with any of the trainer's models.

    Args:
        trainer: TRL's trainer.
        budget: which rows share a pack where there are no gradients.
        packed: rows are packed; otherwise they are sorted by length.
    """

    def __init__(
        self,
        trainer: GRPOTrainer,
        *,
        budget: PackBudget,
        packed: bool,
    ) -> None:
        self.trainer = trainer
        self.budget = budget
        self.packed = packed

    def compute(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        width: int,
        entropies: bool,
        aux_losses: bool,
    ) -> TokenLogProbs:
        """Log-probs of the completion tokens.

        Args:
            input_ids, attention_mask: (B, P + C).
            width: C.
            entropies: compute entropies, too; with gradients only for the entropy bonus.
            aux_losses: return the mean of the passes' losses for balance, too.
        """
        logps_BC = torch.zeros(len(input_ids), width, device=input_ids.device)
        entropy_BC = torch.zeros_like(logps_BC) if entropies else None
        aux: list[torch.Tensor] = []
        # mixtures of experts return their loss for balance only with their router's logits
        more = {"output_router_logits": True} if aux_losses else {}
        for part in self._passes(input_ids, attention_mask, width):
            with self.trainer.accelerator.autocast():
                out = model(
                    **part.inputs,
                    **more,
                    fused_lm_head=True,
                )
            logps = out.log_probs[part.scored].to(logps_BC.dtype)
            logps_BC = logps_BC.index_put(part.places, logps)
            if entropy_BC is not None:
                entropy = out.entropy[part.scored].to(entropy_BC.dtype)
                # without the bonus the entropy is only logged, and its gradient would cost memory
                if not self.trainer._entropy_bonus_enabled:
                    entropy = entropy.detach()
                entropy_BC = entropy_BC.index_put(part.places, entropy)
            if aux_losses:
                aux.append(out.aux_loss)
        return TokenLogProbs(logps_BC, entropy_BC, torch.stack(aux).mean() if aux else None)

    def _passes(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        width: int,
    ) -> Iterator[ForwardPass]:
        if not self.packed:
            return self._sorted_passes(input_ids, attention_mask, width)
        # With gradients the rows are one pack already: updates.py has cut the minibatch.
        packs = [list(range(len(input_ids)))]
        if not torch.is_grad_enabled():
            prompt_width = input_ids.shape[1] - width
            masks = attention_mask.split([prompt_width, width], dim=1)
            packs = self.budget.packs(input_ids[:, :prompt_width], *masks)
        return self._packed_passes(input_ids, attention_mask, width, packs)

    def _packed_passes(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        width: int,
        packs: list[list[int]],
    ) -> Iterator[ForwardPass]:
        for members in packs:
            row_N = torch.tensor(members, device=input_ids.device)
            pack = pack_completions(input_ids[row_N], attention_mask[row_N], width, shared=self.budget.shared)
            scored_1T = pack.inputs["shift_labels"] != NOT_SCORED
            yield ForwardPass(pack.inputs, scored_1T, (row_N[pack.rows], pack.columns))

    def _sorted_passes(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        width: int,
    ) -> Iterator[ForwardPass]:
        """Rows moved to the left edge, those of like length together.

        A row's real tokens are next to each other (prompt padded left, completion right), and relative positions are
        all that rotary attention sees, so the numbers are those of the padded pass.
        """
        tokenizer: Any = self.trainer._tokenizer
        prompt_width = input_ids.shape[1] - width
        length_B = attention_mask.sum(1)
        first_B = attention_mask.argmax(1)  # the column of a row's first real token
        for row_b in length_B.argsort().split(CHUNK):
            longest = int(length_B[row_b].max())
            step_T = torch.arange(longest, device=input_ids.device)
            column_bT = first_B[row_b, None] + step_T
            real_bT = step_T < length_B[row_b, None]
            # of a row's real tokens, those of the completion
            scored_bT = real_bT & (column_bT >= prompt_width)

            last_column = input_ids.shape[1] - 1
            shifted_bT = input_ids[row_b].gather(1, column_bT.clamp(max=last_column))
            ids_bT = shifted_bT.masked_fill(~real_bT, tokenizer.pad_token_id)
            inputs = {
                "input_ids": ids_bT,
                "attention_mask": real_bT.long(),
                "labels": ids_bT.masked_fill(~scored_bT, NOT_SCORED),
            }
            row_bT = row_b[:, None].expand_as(column_bT)
            places = (row_bT[scored_bT], (column_bT - prompt_width)[scored_bT])
            # The head scores each token from the one before it: a column fewer, and a row's first token is its
            # prompt's.
            yield ForwardPass(inputs, scored_bT[:, 1:], places)


class PassPlan(NamedTuple):
    """How forward passes are made.

    Attributes:
        packed: rows are packed.
        compiled: layers are compiled.
        shared: rows of a pack share a prompt that they have in common.
    """

    packed: bool
    compiled: bool
    shared: bool


def set_up_models(
    trainer: GRPOTrainer,
    *,
    packed: bool,
    compiled: bool,
    sharded: bool,
) -> PassPlan:
    """Make the policy and the reference ready for such passes.

    Args:
        packed: rows shall be packed.
        compiled: layers shall be compiled.
        sharded: this rank holds only a part of the weights.

    Returns:
        What of it is done: the model's attention may not allow packs, and padded rows are not worth compiling.
    """
    policy: Any = trainer.accelerator.unwrap_model(trainer.model)
    reference: Any = trainer.ref_model and trainer.accelerator.unwrap_model(trainer.ref_model)
    base = without_adapter(policy)
    args: Any = trainer.args
    # TRL has set its fused head on both models; on a CPU ours goes over it, with the same numbers
    if not args.cast_lm_head_to_fp32 and not sharded:
        add_plain_head(base, trainer.temperature, ("log_probs", "entropy"))
        if reference is not None:
            add_plain_head(reference, trainer.temperature, ("log_probs",))

    # warns where the attention of the model cannot keep sequences of a pack apart
    packed = packed and use_packed_attention(base)
    if packed and reference is not None:
        use_packed_attention(reference)
    shared = packed and prompts_can_be_shared(base)

    if compiled and not packed:
        warnings.warn("grpo.compile is ignored: it needs packed rows, and rows are padded here", stacklevel=3)
    compiled = packed and compiled
    if compiled:
        compile_layers(policy)
        if reference is not None:
            compile_layers(reference)
    return PassPlan(packed, compiled, shared)


def runs_without_adapter(model: Any) -> bool:
    """Whether a LoRA policy's adapter is switched off right now, so that the model is the reference."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, BaseTunerLayer) and module.disable_adapters for module in model.modules())
