"""The half of the trainer that computes: log-probs without padding, and updates in microbatches of so many tokens.

    _get_per_token_logps_and_entropies  packed rows (r1pipe/training/grpo/completion_packs.py), on a CPU rows of like length; a rollout's old log-probs are
                                        those it was drawn with on a CPU, and cost nothing
    _compute_loss                       TRL has one forward pass of so many rows a training step: a step's rows are dealt to packs here, and
                                        all but the last are differentiated at once

Shapes: B sequences on this rank, P prompt tokens (padded left), C completion tokens (padded right), T tokens of a pack.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from accelerate.utils import DistributedType, gather
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer

from r1pipe.here import Here
from r1pipe.models.loading import compile_layers, without_adapter
from r1pipe.models.memory import first_update_bytes, free_memory, state_shares
from r1pipe.models.packed_attention import use_packed_attention
from r1pipe.models.plain_head import add_plain_head
from r1pipe.training.grpo.completion_packs import auto_tokens, deal, dealt_pack_count, loss_weights, pack_completions
from r1pipe.training.grpo.vllm_rollouts import gap_of, importance_ratio, share_masked
from r1pipe.training.stopwatch import Stopwatch

CHUNK = 16  # sequences a forward pass of log-probs where rows are not packed: small enough for equal lengths, large enough for the cores


class Pass(NamedTuple):
    """A forward pass of some rows: the model's inputs, which of its log-probs are of completions' tokens, and where these belong in (B, C)."""

    inputs: dict[str, Any]
    scored: torch.Tensor
    at: tuple[torch.Tensor, torch.Tensor]


Logps = tuple[
    torch.Tensor, torch.Tensor | None, torch.Tensor | None
]  # log-probs and entropies (B, C), a mixture of experts' loss


class TokenMicrobatches(GRPOTrainer):
    """GRPO without work on padding.

    Args:
        here: the running stage.
        microbatch_tokens: of a forward pass; auto = by the free memory; none = TRL's rows.
        compiled: torch.compile of the layers, where rows are packed.

    Attributes:
        packed: rows are packed; otherwise the model's attention cannot, or rows were asked for.
        stopwatch: seconds by part.
    """

    args: GRPOConfig
    model: Any
    _tokenizer: Any  # transformers' own annotations allow lists and None where there is one number

    def __init__(
        self,
        *,
        here: Here,
        microbatch_tokens: int | Literal["auto"] | None = None,
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        self.here = here
        self.microbatch_tokens = microbatch_tokens
        self._tokens_by_memory = microbatch_tokens == "auto"
        self.stopwatch = Stopwatch()
        self._drawn: list[
            list[float]
        ] = []  # log-probs of the rollout's tokens as they were drawn, until the old log-probs are asked for
        self._no_old = False  # the next log-probs of the policy without gradients are the rollout's old ones, and nobody needs them
        self._gaps: list[
            torch.Tensor
        ] = []  # of each pack: gap x tokens, tokens, share masked x rows, rows, largest gap
        self._known: Logps | None = None  # log-probs that TRL's loss will ask for
        super().__init__(**kwargs)
        policy: Any = self.accelerator.unwrap_model(self.model)
        reference: Any = self.ref_model and self.accelerator.unwrap_model(self.ref_model)
        base = without_adapter(policy)
        if not self.args.cast_lm_head_to_fp32 and not here.sharded_weights:
            add_plain_head(base, self.temperature, ("log_probs", "entropy"))
            if reference is not None:
                add_plain_head(reference, self.temperature, ("log_probs",))
        self.packed = microbatch_tokens is not None and use_packed_attention(base)
        if self.packed and reference is not None:
            use_packed_attention(reference)
        self.compiled = self.packed and compiled
        if compiled and not self.packed:
            warnings.warn("grpo.compile is ignored: it is of packed rows, and rows are padded here", stacklevel=3)
        if self.compiled:
            compile_layers(policy)
            if reference is not None:
                compile_layers(reference)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """TRL's. The trainer takes the sum of losses that it has logged from itself, and what is not finite would stay in it for ever."""
        super().log(logs, start_time)
        if not math.isfinite(logs.get("loss", 0.0)):
            self._tr_loss.zero_()

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **multimodal: Any,
    ) -> Logps:
        """As TRL's, (B, C) each: log-probs and entropies of the completions' tokens, zero where there is none."""
        if self._known is not None:
            known, self._known = self._known, None
            return known
        if (
            model is self.model and not torch.is_grad_enabled() and not compute_entropy
        ):  # the first that are asked for are the rollout's old ones
            if self._no_old:
                self._no_old = False
                return torch.full((len(input_ids), logits_to_keep), torch.nan, device=input_ids.device), None, None
            if self._drawn:
                drawn, self._drawn = self._drawn, []
                assert len(drawn) == len(input_ids), "one list of log-probs a response"
                return _padded(drawn, logits_to_keep).to(input_ids.device), None, None
        if any(value is not None for value in multimodal.values()) or (
            self.microbatch_tokens is None and self.accelerator.device.type != "cpu"
        ):
            return super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **multimodal,
            )
        with nullcontext() if torch.is_grad_enabled() else self.stopwatch.part("logps"):
            return self._logps(model, input_ids, attention_mask, logits_to_keep, compute_entropy, compute_aux_loss)

    def _logps(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        width: int,
        entropies: bool,
        aux_losses: bool,
    ) -> Logps:
        """Without padding: in packs where the model can, else in rows of like length."""
        logps_BC = torch.zeros(len(input_ids), width, device=input_ids.device)
        entropy_BC = torch.zeros_like(logps_BC) if entropies else None
        aux = []
        for one in (self._packed_passes if self.packed else self._sorted_passes)(input_ids, attention_mask, width):
            with self.accelerator.autocast():
                out = model(**one.inputs, **({"output_router_logits": True} if aux_losses else {}), fused_lm_head=True)
            logps_BC = logps_BC.index_put(one.at, out.log_probs[one.scored].to(logps_BC.dtype))
            if entropy_BC is not None:
                entropy = out.entropy[one.scored].to(entropy_BC.dtype)
                entropy_BC = entropy_BC.index_put(one.at, entropy if self._entropy_bonus_enabled else entropy.detach())
            if aux_losses:
                aux.append(out.aux_loss)
        return logps_BC, entropy_BC, torch.stack(aux).mean() if aux else None

    def _packed_passes(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, width: int) -> Iterator[Pass]:
        """A pack each. With gradients the rows are one pack already (_compute_loss)."""
        for chosen in [list(range(len(input_ids)))] if torch.is_grad_enabled() else self._packs(attention_mask):
            rows = torch.tensor(chosen, device=input_ids.device)
            pack = pack_completions(input_ids[rows], attention_mask[rows], width)
            yield Pass(pack.inputs, pack.inputs["shift_labels"] != -100, (rows[pack.rows], pack.columns))

    def _sorted_passes(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, width: int) -> Iterator[Pass]:
        """Every row moved to the left edge, and rows of like length together.

        A row's real tokens are contiguous (prompt padded left, completion right), and relative positions are all that
        rotary attention sees, so the numbers are those of the padded pass.
        """
        prompt_width = input_ids.shape[1] - width
        length_B = attention_mask.sum(1)
        first_B = attention_mask.argmax(1)  # column of a row's first real token
        for rows in length_B.argsort().split(CHUNK):
            longest = int(length_B[rows].max())
            column_bT = first_B[rows, None] + torch.arange(longest, device=input_ids.device)
            real_bT = torch.arange(longest, device=input_ids.device) < length_B[rows, None]
            ids_bT = (
                input_ids[rows]
                .gather(1, column_bT.clamp(max=input_ids.shape[1] - 1))
                .masked_fill(~real_bT, self._tokenizer.pad_token_id)
            )
            scored_bT = real_bT & (column_bT >= prompt_width)
            inputs = {
                "input_ids": ids_bT,
                "attention_mask": real_bT.long(),
                "labels": ids_bT.masked_fill(~scored_bT, -100),
            }
            at = (rows[:, None].expand_as(column_bT)[scored_bT], (column_bT - prompt_width)[scored_bT])
            yield Pass(
                inputs, scored_bT[:, 1:], at
            )  # the head scores each token from the one before: a column fewer, and a row's first token is its prompt's

    def _packs(self, attention_mask: torch.Tensor) -> list[list[int]]:
        """Rows by pack; as many packs on every rank."""
        lengths = attention_mask.sum(1).tolist()
        count = dealt_pack_count(lengths, self._pack_size())
        if self.accelerator.num_processes > 1:
            count = int(gathered(torch.tensor([count], device=attention_mask.device)).max())
        return deal(lengths, count)

    def _pack_size(self) -> int:
        """Tokens of a pack; `auto` is settled when it is first asked for, with all models loaded and the optimizer's state still to come."""
        if self.microbatch_tokens == "auto":
            free = free_memory(self.accelerator.device)
            policy: Any = self.accelerator.unwrap_model(self.model)
            tokens = auto_tokens(
                policy, free - self._still_to_come() - 2**31, self.args.gradient_checkpointing, self.compiled
            )
            self.microbatch_tokens = int(gathered(torch.tensor([tokens], device=self.accelerator.device)).min())
        assert isinstance(self.microbatch_tokens, int)
        return self.microbatch_tokens

    def _still_to_come(self) -> float:
        """Bytes that the first update allocates. A run that goes on from a checkpoint has its moments already, and ZeRO-3 makes gradients at once."""
        trained: list[Any] = [p for p in self.model.parameters() if p.requires_grad]
        without = [] if is_deepspeed_zero3_enabled() else [p for p in trained if p.grad is None]
        moments = [] if getattr(self.optimizer, "state", None) else trained
        gradients, moments = (sum(getattr(p, "ds_numel", p.numel()) for p in some) for some in (without, moments))
        return first_update_bytes(gradients, moments, state_shares(self.here))

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss of the rows that one training step is given, pack by pack.

        The last pack's loss is returned for the trainer to differentiate, with the others' values added for the log.
        """
        if self.microbatch_tokens is None or not self.model.training:
            loss = self._pack_loss(model, inputs)
            self._log_gaps()
            return loss
        mask_BC = inputs["completion_mask"]
        packs = self._packs(torch.cat([inputs["prompt_mask"], mask_BC], 1))
        rows, tokens = (
            [len(pack) for pack in packs],
            [int(n) for n in torch.stack([mask_BC[pack].sum() for pack in packs])],
        )
        weights = loss_weights(self.loss_type, rows, tokens)
        others = torch.zeros((), device=mask_BC.device)
        logged = {name: len(values) for name, values in self._metrics["train"].items()}
        aux, entropy = self.router_aux_loss_coef, self.entropy_coef
        for n, (pack, weight) in enumerate(zip(packs, weights, strict=True)):
            last = n + 1 == len(packs)
            at = torch.tensor(pack, device=mask_BC.device)
            part = {
                key: value[at] if isinstance(value, torch.Tensor) and value.dim() else value
                for key, value in inputs.items()
            }
            # means over a pack weigh as its rows or tokens do, whatever the policy's loss is normalised by
            self.router_aux_loss_coef = aux * rows[n] / sum(rows) / (weight or 1.0)
            self.entropy_coef = entropy * tokens[n] / max(1, sum(tokens)) / (weight or 1.0)
            with nullcontext() if last else self._accumulating(model):
                loss = weight * self._pack_loss(model, part)
                if not last:
                    deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
                    self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
                    others += loss.detach()
        self.router_aux_loss_coef, self.entropy_coef = aux, entropy
        self._join_metrics(logged, torch.tensor(tokens, device=mask_BC.device))
        self._log_gaps()
        return loss + others

    def _join_metrics(self, logged: dict[str, int], tokens_N: torch.Tensor) -> None:
        """One number a minibatch of what TRL has logged for each of its N packs: means weigh as the packs' tokens do on all ranks.

        Args:
            logged: how many numbers each metric had before.
            tokens_N: counted tokens of each pack on this rank.
        """
        weights = gathered(tokens_N).view(-1, len(tokens_N)).sum(0).tolist()
        for name, values in self._metrics["train"].items():
            new = values[logged.get(name, 0) :]
            if len(new) != len(weights):
                continue
            known = [(value, weight) for value, weight in zip(new, weights, strict=True) if not math.isnan(value)] or [
                (math.nan, 1)
            ]
            if name.endswith(("_min", "_max")):
                joined = (min if name.endswith("_min") else max)(value for value, _ in known)
            else:
                joined = sum(value * weight for value, weight in known) / max(1, sum(weight for _, weight in known))
            values[logged.get(name, 0) :] = [joined]

    @contextmanager
    def _accumulating(self, model: Any) -> Iterator[None]:
        """Gradients stay on this rank, and DeepSpeed makes no step, as between the microbatches of an accumulation."""
        with self.accelerator.no_sync(model):
            synced, self.accelerator.sync_gradients = self.accelerator.sync_gradients, False
            try:
                yield
            finally:
                self.accelerator.sync_gradients = synced

    def _log_gaps(self) -> None:
        """How far vLLM's log-probs were from the trainer's in these rows, by TRL's names, and the share that was masked."""
        if not self._gaps:
            return
        gaps = gathered(torch.stack(self._gaps))
        self._gaps = []
        metrics = self._metrics["train"]
        metrics["sampling/sampling_logp_difference/mean"].append(
            (gaps[:, 0].sum() / gaps[:, 1].sum().clamp(min=1)).item()
        )
        metrics["sampling/sampling_logp_difference/max"].append(gaps[:, 4].max().item())
        metrics["sampling/masked"].append((gaps[:, 2].sum() / gaps[:, 3].sum()).item())

    def _pack_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's; where the rollout has no old log-probs, vLLM's correction is computed from the update's own."""
        if self.use_vllm and self.vllm_importance_sampling_correction and "importance_sampling_ratio" not in inputs:
            ids, mask_BC = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1), inputs["completion_mask"]
            attention_mask = torch.cat([inputs["prompt_mask"], mask_BC], 1)
            known = self._get_per_token_logps_and_entropies(
                model,
                ids,
                attention_mask,
                mask_BC.shape[1],
                compute_entropy=True,
                compute_aux_loss=self.aux_loss_enabled,
            )
            logps_BC, drawn_BC = known[0].detach(), inputs["sampling_per_token_logps"]
            args = self.args
            ratio = importance_ratio(
                logps_BC,
                drawn_BC,
                mask_BC,
                args.vllm_importance_sampling_mode,
                args.vllm_importance_sampling_clip_max,
                args.vllm_importance_sampling_clip_min,
            )
            mean, most = gap_of(logps_BC, drawn_BC, mask_BC)
            self._gaps.append(
                torch.stack(
                    [
                        mean * mask_BC.sum(),
                        mask_BC.sum(),
                        share_masked(ratio, mask_BC) * len(ratio),
                        torch.tensor(len(ratio)).to(mean),
                        most,
                    ]
                )
            )
            self._known = known
            inputs = {**inputs, "importance_sampling_ratio": ratio}
        return super()._compute_loss(model, inputs)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Of all ranks, one after the other; accelerate's own annotation is too wide to use."""
    found: Any = gather(tensor)
    return found


def _padded(rows: list[list[float]], width: int) -> torch.Tensor:
    """(B, width), zeros after each row's end."""
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
