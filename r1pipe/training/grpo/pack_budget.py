"""How many tokens a forward pass holds, and which of a rank's rows share one."""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import GRPOTrainer

from r1pipe.here import Here
from r1pipe.models.memory import first_update_bytes, free_memory, state_shares
from r1pipe.training.grpo.completion_packs import auto_tokens, deal, dealt_pack_count, row_sizes
from r1pipe.training.grpo.ranks import gathered
from r1pipe.training.smaller_passes import smaller_tokens

# Left free for what the estimate of a pack's memory does not see: kernels' workspaces, fragments.
SPARE_BYTES = 2**31
# The share of the tokens of an earlier attempt that must fit for its packs to be made again.
LEAST_SHARE_OF_BEFORE = 0.9


class PackBudget:
    """The tokens of a pack.

    Args:
        trainer: TRL's trainer.
        here: the running stage, whose profile says how the optimizer's state is spread over ranks.
        tokens: as the config says; auto = by the free memory, when a pack is first made; None = rows, as TRL cuts
            them.
        compiled: the layers are compiled, which keeps fewer activations.
        shared: rows of a pack share a prompt that they have in common, so that its tokens count once.

    Attributes:
        tokens: the number itself once `auto` is settled.
        before: the number that an earlier attempt has settled; None = none has.
        most_rows: of the packs that were dealt last, in the one with most rows.
    """

    def __init__(
        self,
        trainer: GRPOTrainer,
        *,
        here: Here,
        tokens: int | Literal["auto"] | None,
        compiled: bool,
        shared: bool,
    ) -> None:
        self.trainer = trainer
        self.here = here
        self.tokens = tokens
        self.compiled = compiled
        self.shared = shared
        self.by_memory = tokens == "auto"
        self.before: int | None = None
        self.most_rows = 0

    @property
    def settled_by_memory(self) -> bool:
        """The size of packs is what memory was free at the first of them."""
        return self.by_memory and self.tokens != "auto"

    def packs(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        completion_mask: torch.Tensor,
    ) -> list[list[int]]:
        """The rows of each pack; as many packs on every rank.

        Args:
            prompt_ids, prompt_mask: (B, P).
            completion_mask: (B, C).
        """
        rows = row_sizes(prompt_ids, prompt_mask, completion_mask, shared=self.shared)
        # Ranks that need fewer packs make as many as the one that needs most: their forward passes are collective.
        count = dealt_pack_count(rows, self.size())
        if self.trainer.accelerator.num_processes > 1:
            count = int(gathered(torch.tensor([count], device=prompt_ids.device)).max())
        dealt = deal(rows, count)
        self.most_rows = max(len(pack) for pack in dealt)
        return dealt

    def size(self) -> int:
        """Tokens of a pack.

        `auto` is settled at the first call, once all models are loaded and before the optimizer's state is allocated.
        """
        if self.tokens == "auto":
            tokens = self._fitting()
            # Other packs sum in another order, so an attempt that goes on keeps those of before. Free memory is never
            # quite the same; on a GPU with clearly less of it the packs are smaller.
            if self.before is not None and tokens > LEAST_SHARE_OF_BEFORE * self.before:
                tokens = self.before
            # the fullest GPU decides for all
            device = self.trainer.accelerator.device
            self.tokens = int(gathered(torch.tensor([tokens], device=device)).min())
        assert isinstance(self.tokens, int)
        return smaller_tokens(self.tokens, self.here)

    def at_most(self) -> int:
        """Tokens that a pass may hold right now, on this rank; settles nothing."""
        tokens = self._fitting() if self.tokens == "auto" else self.tokens
        assert isinstance(tokens, int)
        return smaller_tokens(tokens, self.here)

    def _fitting(self) -> int:
        """Tokens of a pass that the free memory of this rank's device has room for."""
        accelerator = self.trainer.accelerator
        policy: Any = accelerator.unwrap_model(self.trainer.model)
        free = free_memory(accelerator.device) - self.still_to_come() - SPARE_BYTES
        return auto_tokens(policy, free, bool(self.trainer.args.gradient_checkpointing), self.compiled)

    def still_to_come(self) -> float:
        """Bytes that the first update will allocate: gradients, and the optimizer's moments.

        A run that goes on from a checkpoint has its moments already, and ZeRO-3 makes the gradients when it makes the
        engine.
        """
        # with LoRA only the adapter has gradients and moments
        policy: Any = self.trainer.model
        trained = [p for p in policy.parameters() if p.requires_grad]
        without_gradient = [] if is_deepspeed_zero3_enabled() else [p for p in trained if p.grad is None]
        without_moments = [] if getattr(self.trainer.optimizer, "state", None) else trained
        shares = state_shares(self.here)
        return first_update_bytes(_elements(without_gradient), _elements(without_moments), shares)


def _elements(parameters: list[Any]) -> int:
    """Numbers in these parameters on all ranks together; ZeRO-3 leaves an empty tensor in the place of each."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
