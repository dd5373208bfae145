"""TRL's SFTTrainer with two changes, on top of ResumableTrainer; all else is TRL's.

- PaddedSFTTrainer chooses which rows share an update and a pass.
- PackedSFTTrainer also has a loss that never holds the logits of all tokens (r1pipe/models/linear_ce.py).

tests/training/sft/test_sft_packed.py holds hashes of TRL's methods that are overridden here.
"""

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
from r1pipe.training.resumable import ResumableTrainer
from r1pipe.training.sft.pack_sampler import PackSampler, UpdateSampler
from r1pipe.training.trial_pass import go_backwards, trial_passes

# The tokens of a pass are filled up to a multiple of this. For matrices of each new size cuBLAS looks for a kernel,
# while the GPU waits.
ROUND = {"cuda": 256}


class PaddedSFTTrainer(ResumableTrainer, SFTTrainer):
    """SFTTrainer whose rows come from a sampler of ours.

    Args:
        sampler: the passes of this rank; the arguments must accumulate as many of them as it says.
            None = as `train_sampling_strategy` says.
        arguments: of ResumableTrainer and TRL's SFTTrainer.
    """

    def __init__(self, sampler: UpdateSampler | None, **arguments: Any) -> None:
        self.sampler = sampler
        super().__init__(**arguments)
        if sampler is not None:
            accumulation = self.args.gradient_accumulation_steps
            assert accumulation == sampler.accumulation, "an update would not be one global batch"
            assert self.accelerator.num_processes == sampler.ranks, (
                "rows were dealt to a different number of ranks"
            )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self.sampler is None:
            return super()._get_train_sampler(train_dataset)
        return self.sampler


class PackedSFTTrainer(PaddedSFTTrainer):
    """SFTTrainer on packed rows, with a loss of ours, whose numbers are read once an update and not three times a pass.

    Attributes:
        linear_ce: the loss is that of r1pipe/models/linear_ce.py. Where the model does not allow it, or another loss
            than the plain negative log-likelihood is configured, it is TRL's.
    """

    def __init__(self, sampler: PackSampler, **arguments: Any) -> None:
        super().__init__(sampler, **arguments)
        if isinstance(self.train_dataset, Dataset):
            # Token ids as arrays. As lists, a pass of 14k tokens took 9 ms to gather while the GPU waited.
            self.train_dataset = self.train_dataset.with_format("numpy")

        base = without_adapter(self.model)
        self.linear_ce = self._is_plain_nll() and not self.is_fsdp_enabled and not linear_ce_obstacle(base)
        if self.linear_ce:
            add_linear_ce(base)
        # Since the last log: tokens with loss, their entropy, how many are the most likely word, and all tokens. They
        # stay on the device until then, since reading a number there stops the GPU.
        self._sums = torch.zeros(4, device=self.args.device, dtype=torch.float64)

    def _is_plain_nll(self) -> bool:
        """Whether the configured loss is the negative log-likelihood and nothing else."""
        args: Any = self.args
        without_changes = not args.label_smoothing_factor and self.compute_loss_func is None
        return args.loss_type == "nll" and without_changes and not self.aux_loss_enabled

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The negative log-likelihood of the pass, summed, divided by the tokens with loss of the whole update.

        Args:
            num_items_in_batch: those tokens, over all passes of the update and all ranks.
        """
        # Of TRL's collator; the model does not know it.
        inputs.pop("seq_idx", None)
        inputs["max_length_q"] = inputs["max_length_k"] = rounded(int(inputs["max_length_q"]))
        if not self.linear_ce or return_outputs or not model.training:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )

        # Counted before the pass is filled up, since only tokens of rows count.
        tokens = inputs["input_ids"].numel()
        round_up(inputs)
        output = model(**inputs, linear_ce=True)
        counted = output.tokens if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = output.nll / counted.clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # Gradients are averaged over ranks, and the count is of all ranks.
            loss = loss * self.accelerator.num_processes

        with torch.no_grad():
            dtype = output.entropy.dtype
            all_tokens = torch.full_like(output.entropy, tokens)
            sums = [output.tokens.to(dtype), output.entropy, output.right.to(dtype), all_tokens]
            self._sums += torch.stack(sums).double()
        return loss

    def compile_first(self) -> None:
        """Make the first pass, so that layers are compiled before training begins; nothing of it is kept."""
        assert self.sampler is not None
        rows = next(iter(self.sampler))
        sums = self._sums.clone()
        with trial_passes(self.model, self.args.device):
            inputs = self._prepare_inputs(self.data_collator([self.train_dataset[row] for row in rows]))
            with self.accelerator.autocast():
                loss = self.compute_loss(self.model, inputs)
            go_backwards(self.model, loss)
        self._sums = sums

    def divisible(self) -> bool:
        """A pass may be one long row, which nothing makes shorter."""
        assert isinstance(self.sampler, PackSampler)
        return self.sampler.capacity > max(self.sampler.lengths)

    def own_state(self) -> dict[str, Any]:
        return super().own_state() | {"sums": self._sums.clone()}

    def take_own_state(self, state: dict[str, Any]) -> None:
        super().take_own_state(state)
        self._sums.copy_(state["sums"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        model: Any = self.model
        if self.linear_ce and model.training:
            self._take_sums()
        super().log(logs, start_time)

    def _take_sums(self) -> None:
        """Hand the sums since the last log to TRL's log, over all ranks."""
        sums: Any = self.accelerator.reduce(self._sums, reduction="sum")
        counted, entropy, right, all_tokens = sums.tolist()
        self._sums.zero_()
        self._total_train_tokens += int(all_tokens)

        metrics = self._metrics["train"]
        # Since the last log there may have been no token with loss.
        if counted:
            metrics["entropy"] = [entropy / counted]
            metrics["mean_token_accuracy"] = [right / counted]
        metrics["num_tokens"] = [self._total_train_tokens]


def round_up(inputs: dict[str, Any]) -> None:
    """Fill the pass up to a multiple of ROUND tokens.

    What is added is one more sequence, which has no loss and which no other sequence sees.
    """
    ids_1T = inputs["input_ids"]
    missing = -ids_1T.shape[1] % ROUND.get(ids_1T.device.type, 1)
    if not missing:
        return
    positions_1M = torch.arange(missing, device=ids_1T.device)[None]
    ends_N1 = inputs["cu_seq_lens_q"]
    more_ends_N2 = torch.cat([ends_N1, ends_N1[-1:] + missing])
    longest = max(inputs["max_length_q"], rounded(missing))

    inputs["input_ids"] = pad(ids_1T, (0, missing))
    inputs["labels"] = pad(inputs["labels"], (0, missing), value=-100)
    inputs["position_ids"] = torch.cat([inputs["position_ids"], positions_1M], dim=1)
    inputs["cu_seq_lens_q"] = inputs["cu_seq_lens_k"] = more_ends_N2
    inputs["max_length_q"] = inputs["max_length_k"] = longest
