"""TRL's SFTTrainer: which rows share an update and a pass and, where rows are packed, a loss that never holds all logits. All else is TRL's."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch.nn.functional import pad
from torch.utils.data import Sampler
from trl import SFTTrainer

from r1pipe.models.linear_ce import add_linear_ce, linear_ce_obstacle
from r1pipe.models.loading import without_adapter
from r1pipe.models.packed_attention import rounded
from r1pipe.training.sft.pack_sampler import PackSampler, UpdateSampler

ROUND = {
    "cuda": 256
}  # tokens of a pass, a multiple: for matrices of each new size cuBLAS looks for a kernel, while the GPU waits


class PaddedSFTTrainer(SFTTrainer):
    """Overrides where rows come from.

    Args:
        sampler: the passes of this rank, of which the arguments must accumulate as many as it says; None = as `train_sampling_strategy` says.
    """

    def __init__(self, sampler: UpdateSampler | None, **arguments: Any) -> None:
        self.sampler = sampler
        super().__init__(**arguments)
        if sampler is not None:
            assert self.args.gradient_accumulation_steps == sampler.accumulation, (
                "an update would not be one global batch"
            )
            assert self.accelerator.num_processes == sampler.ranks, "rows were dealt to other ranks than there are"

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        return super()._get_train_sampler(train_dataset) if self.sampler is None else self.sampler


class PackedSFTTrainer(PaddedSFTTrainer):
    """Overrides the loss, too, and when its numbers are read: once an update, not three times a pass.

    Attributes:
        linear_ce: the loss is that of r1pipe/models/linear_ce.py: the model allows it and the plain negative log-likelihood is asked for; else TRL's.
    """

    def __init__(self, sampler: PackSampler, **arguments: Any) -> None:
        super().__init__(sampler, **arguments)
        base = without_adapter(self.model)
        if isinstance(
            self.train_dataset, Dataset
        ):  # token ids as arrays: as lists, a pass of 14k tokens took 9 ms to gather while the GPU waited
            self.train_dataset = self.train_dataset.with_format("numpy")
        args: Any = self.args
        plain = args.loss_type == "nll" and not args.label_smoothing_factor and self.compute_loss_func is None
        self.linear_ce = (
            plain and not self.aux_loss_enabled and not self.is_fsdp_enabled and not linear_ce_obstacle(base)
        )
        if self.linear_ce:
            add_linear_ce(base)
        self._sums = torch.zeros(
            4, device=self.args.device, dtype=torch.float64
        )  # tokens with loss, entropy, right, all tokens; since the last log

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The negative log-likelihood summed over the pass, divided by the tokens with loss of the whole update on all ranks."""
        inputs.pop("seq_idx", None)
        inputs["max_length_q"] = inputs["max_length_k"] = rounded(int(inputs["max_length_q"]))
        if not self.linear_ce or return_outputs or not model.training:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        tokens = inputs["input_ids"].numel()
        round_up(inputs)
        out = model(**inputs, linear_ce=True)
        loss = out.nll / (
            out.tokens.clamp(min=1) if num_items_in_batch is None else torch.as_tensor(num_items_in_batch).clamp(min=1)
        )
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = (
                loss * self.accelerator.num_processes
            )  # gradients are averaged over ranks, and the count is of all ranks
        with torch.no_grad():
            seen = torch.full_like(out.entropy, tokens)
            self._sums += torch.stack(
                [out.tokens.to(out.entropy.dtype), out.entropy, out.right.to(out.entropy.dtype), seen]
            ).double()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        model: Any = self.model
        if self.linear_ce and model.training:
            sums: Any = self.accelerator.reduce(self._sums, reduction="sum")
            counted, entropy, right, seen = sums.tolist()
            self._sums.zero_()
            self._total_train_tokens += int(seen)
            if counted:
                self._metrics["train"]["entropy"] = [entropy / counted]
                self._metrics["train"]["mean_token_accuracy"] = [right / counted]
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        super().log(logs, start_time)


def round_up(inputs: dict[str, Any]) -> None:
    """Fill the pass up to a multiple of ROUND tokens with one more sequence, which has no loss and which no other sees."""
    short = -inputs["input_ids"].shape[1] % ROUND.get(inputs["input_ids"].device.type, 1)
    if not short:
        return
    ids_1T, labels_1T, ends_N1 = inputs["input_ids"], inputs["labels"], inputs["cu_seq_lens_q"]
    inputs["input_ids"], inputs["labels"] = pad(ids_1T, (0, short)), pad(labels_1T, (0, short), value=-100)
    inputs["position_ids"] = torch.cat([inputs["position_ids"], torch.arange(short, device=ids_1T.device)[None]], dim=1)
    inputs["cu_seq_lens_q"] = inputs["cu_seq_lens_k"] = torch.cat([ends_N1, ends_N1[-1:] + short])
    inputs["max_length_q"] = inputs["max_length_k"] = max(inputs["max_length_q"], rounded(short))
