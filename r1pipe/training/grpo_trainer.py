"""TRL's GRPOTrainer with four methods of our own, each named and each for a reason that TRL has no option for.

    _generate_and_score_completions   phases: temperature, length and rewards change while the optimizer goes on;
                                      a prompt without one scorable response is dropped
    _generate_single_turn             one prefill a prompt group, ended sequences leave the batch (r1pipe/generation/decode.py)
    _get_per_token_logps_and_entropies  log-probs without padding: rows of like length share a forward pass; a rollout's old ones
                                      are those it was drawn with, and cost nothing
    _calculate_rewards                r1pipe's rewards: None is not zero, and rewards apply by a row's domain

Shapes: B sequences on this rank, P prompt tokens (padded left), C completion tokens (padded right), R rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather, gather_object, is_peft_model
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head

from r1pipe import rewards
from r1pipe.data.response import split_response
from r1pipe.generation.decode import decode
from r1pipe.rewards.language import thinking_words
from r1pipe.rewards.repetition import repeated_share
from r1pipe.schema import GRPOParams, Phase
from r1pipe.training.models import end_ids
from r1pipe.training.rollouts import phase_at
from r1pipe.training.zero import uncoordinated

LOOKED_AT = 64  # responses a rollout and rank whose words are counted for the log
LOOKED_AT_CHARS = 4000  # and how much of the end of each
CHUNK = 16  # sequences a forward pass of log-probs on a CPU: small enough for equal lengths, large enough for the cores


class R1GRPOTrainer(GRPOTrainer):
    """GRPO with phases, rewards by row, and no work on padding.

    Args:
        params: the recipe's fields.
        rows: the dataset column `row` indexes this list; rewards read the row itself, whatever its columns.
        models: scorers for rewards that need one (helpful, harmless).
    """

    args: GRPOConfig
    _tokenizer: Any  # transformers' own annotations allow lists and None where there is one number

    def __init__(self, *, params: GRPOParams, rows: list[dict[str, Any]], models: dict[str, Callable[..., list[float]]] | None = None, **kwargs: Any) -> None:
        self.params, self.rows, self.models = params, rows, models or {}
        self.phase: Phase = params.phases[0]
        self.reward_names = all_components(params.phases)
        functions: list[Any] = [_named(name) for name in self.reward_names]
        super().__init__(reward_funcs=functions, **kwargs)
        self.reward_weights = self._weights(self.phase)
        self._drawn: list[list[float]] = []  # log-probs of the rollout's tokens as they were drawn, until the old log-probs are asked for
        self._rewards = torch.empty(0, len(functions))  # of the last rollout, all ranks, (B * ranks, R)

    def _weights(self, phase: Phase) -> torch.Tensor:
        """The phase's weights, (R,); TRL multiplies by them, after normalising each reward where that is asked for."""
        weight = {name: spec.weight for name, spec in zip(rewards.component_names(phase.rewards), phase.rewards, strict=True)}
        return torch.tensor([weight.get(name, 1.0) for name in self.reward_names])

    def _enter_phase(self) -> None:
        phase = phase_at(self.params, self.state.global_step)
        if phase is self.phase:
            return
        self.reward_weights = self._weights(phase)
        if phase.temperature != self.temperature:
            self.temperature = phase.temperature
            models: list[Any] = [self.accelerator.unwrap_model(self.model), self.ref_model and self.accelerator.unwrap_model(self.ref_model)]
            for model in models:
                if model is not None:
                    add_fused_lm_head(
                        model.get_base_model() if is_peft_model(model) else model, temperature=phase.temperature, outputs=("log_probs", "entropy")
                    )
        self.max_completion_length = phase.max_tokens
        if self.use_vllm:
            self.vllm_generation.temperature, self.vllm_generation.max_completion_length = phase.temperature, phase.max_tokens
        else:
            self.generation_config.temperature, self.generation_config.max_new_tokens = phase.temperature, phase.max_tokens
        self.phase = phase

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._enter_phase()
        output = super()._generate_and_score_completions(inputs)
        n = self.params.num_generations
        groups_GnR = self._rewards.view(-1, n, len(self.reward_names))
        dropped_G = groups_GnR.isnan().all(2).all(1)
        self._metrics["train"]["zero_signal"].append(zero_signal(groups_GnR, self.reward_weights, self.multi_objective_aggregation).float().mean().item())
        self._metrics["train"]["rewards/dropped_prompts"].append(float(dropped_G.sum()))
        self._metrics["train"]["phase"].append(self.params.phases.index(self.phase))
        if dropped_G.any():  # neither KL nor entropy of theirs counts either; their advantages are 0 already
            dropped_B = dropped_G.repeat_interleave(n)
            output["num_items_in_batch"] = output["num_items_in_batch"] - gather(output["completion_mask"].sum(1))[dropped_B].sum()
            mine = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
            output["completion_mask"] = output["completion_mask"].masked_fill(dropped_B[mine, None], 0)
            if "old_per_token_logps" in output:  # a ratio to what is masked must stay finite
                output["old_per_token_logps"] = output["old_per_token_logps"].masked_fill(dropped_B[mine, None], 0.0)
        return output

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: dict[str, Any], num_generations: int, has_tool_images: bool = False
    ) -> Any:
        sharded = self.is_fsdp_enabled or (is_deepspeed_zero3_enabled() and not self.args.ds3_gather_for_generation)
        if self.use_vllm or self.use_transformers_continuous_batching or sharded or images or multimodal_fields:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)
        grouped = len(prompt_ids) % num_generations == 0 and all(prompt_ids[i] == prompt_ids[i - i % num_generations] for i in range(len(prompt_ids)))
        n = num_generations if grouped else 1
        wrapped: Any = self.model_wrapped
        gathered: Any = unwrap_model_for_generation(wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation)
        with gathered as model, uncoordinated(wrapped):
            training = model.training
            model.eval()
            self._drawn = []
            whole = self.top_p == 1 and self.temperature > 0 and not is_peft_model(self.model)  # then the draw's distribution is the policy's
            # a rank may have no held-out prompt of its own, but the gathering of shards around this is everyone's
            completion_ids = prompt_ids and decode(
                model,
                prompt_ids[::n],
                n=n,
                max_new_tokens=self.max_completion_length,
                temperature=self.temperature,
                top_p=self.top_p,
                eos_ids=end_ids(model, self._tokenizer),
                pad_id=self._tokenizer.pad_token_id,
                logps=self._drawn if whole and training else None,
            )
            model.train(training)
        return completion_ids, None

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
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """As TRL's, (B, C) each, with every row moved to the left edge and rows of like length together.

        A row's real tokens are contiguous (prompt padded left, completion right), and relative positions are all that
        rotary attention sees, so the numbers are those of the padded pass.
        """
        if any(value is not None for value in multimodal.values()) or self.accelerator.device.type != "cpu":
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
        if self._drawn and model is self.model and not torch.is_grad_enabled() and not compute_entropy:
            drawn, self._drawn = self._drawn, []
            assert len(drawn) == len(input_ids), "the first log-probs without gradients that are asked for are the rollout's old ones"
            return _padded(drawn, logits_to_keep).to(input_ids.device), None, None
        prompt_width = input_ids.shape[1] - logits_to_keep
        length_B = attention_mask.sum(1)
        first_B = attention_mask.argmax(1)  # column of a row's first real token
        logps_BC = torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device)
        entropy_BC = torch.zeros_like(logps_BC) if compute_entropy else None
        aux = []
        for rows in length_B.argsort().split(CHUNK):
            width = int(length_B[rows].max())
            column_bT = first_B[rows, None] + torch.arange(width, device=input_ids.device)
            real_bT = torch.arange(width, device=input_ids.device) < length_B[rows, None]
            ids_bT = input_ids[rows].gather(1, column_bT.clamp(max=input_ids.shape[1] - 1)).masked_fill(~real_bT, self._tokenizer.pad_token_id)
            scored_bT = real_bT & (column_bT >= prompt_width)
            inputs = {"input_ids": ids_bT, "attention_mask": real_bT.long(), "labels": ids_bT.masked_fill(~scored_bT, -100), "fused_lm_head": True}
            if compute_aux_loss:
                inputs["output_router_logits"] = True
            with self.accelerator.autocast():
                out = model(**inputs)
            at = (rows[:, None].expand_as(column_bT)[scored_bT], (column_bT - prompt_width)[scored_bT])
            scored_bT = scored_bT[:, 1:]  # the head scores each token from the one before: a column fewer, and a row's first token is its prompt's
            logps_BC = logps_BC.index_put(at, out.log_probs[scored_bT].to(logps_BC.dtype))
            if entropy_BC is not None:
                entropy_BC = entropy_BC.index_put(at, out.entropy[scored_bT].detach().to(entropy_BC.dtype))
            if compute_aux_loss:
                aux.append(out.aux_loss)
        return logps_BC, entropy_BC, torch.stack(aux).mean() if aux else None

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: list[Any], completions: list[Any], completion_ids_list: list[list[int]]
    ) -> torch.Tensor:
        """Rewards of all ranks, (B * ranks, R): NaN where a reward does not apply, a whole row of NaN where it cannot be scored."""
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        rows = [self.rows[example["row"]] for example in inputs]
        scores = rewards.score(self.phase.rewards, texts, rows, self.models)
        rewards_BR = torch.full((len(texts), len(self.reward_names)), torch.nan)
        for r, name in enumerate(self.reward_names):
            for b, value in enumerate(scores.components.get(name, [None] * len(texts))):
                if value is not None and scores.totals[b] is not None:
                    rewards_BR[b, r] = value
        self._log_responses(scores, texts)
        everywhere: Any = gather(rewards_BR.to(self.accelerator.device))
        self._rewards = everywhere
        return everywhere

    def _log_responses(self, scores: rewards.Scores, texts: list[str]) -> None:
        """What TRL does not log and the guards read; means over the ranks."""
        self._log_metric("rewards/unscorable", sum(total is None for total in scores.totals) / len(texts))
        for name, applied in scores.applied.items():
            if any(applied):
                self._log_metric(f"rewards/{name}/none", scores.unjudged[name] / sum(applied))
        right = [value for name in ("accuracy", "code", "reasoning_gym") for value in scores.components.get(name, []) if value is not None]
        if right:
            self._log_metric("right", sum(right) / len(right))
        thinking = [split_response(text).thinking for text in texts]
        self._log_metric("thinks", sum(t is not None for t in thinking) / len(texts))
        some = texts[:: max(1, len(texts) // LOOKED_AT)]
        self._log_metric("thinking_words", sum(thinking_words(some)) / len(some))
        self._log_metric("repetition", sum(repeated_share(text[-LOOKED_AT_CHARS:], 6) for text in some) / len(some))

    @torch.no_grad()
    def score_heldout(self, rows: Sequence[dict[str, Any]], prompt_ids: list[list[int]]) -> dict[str, float]:
        """Answer held-out prompts once at the phase's temperature: share right and mean tokens. Collective; the same on every rank."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = list(range(rank, len(rows), world))
        state = torch.get_rng_state()  # the training draws do not depend on how often we look
        torch.manual_seed(self.args.seed + 1 + rank)
        completion_ids, _ = self._generate_single_turn([prompt_ids[i] for i in mine], None, {}, 1)
        torch.set_rng_state(state)
        texts: list[Any] = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in completion_ids]
        verdicts = rewards.correct(texts, [rows[i] for i in mine])
        found = gather_object([(v, len(ids)) for v, ids in zip(verdicts, completion_ids, strict=True)])
        judged = [float(v) for v, _ in found if v is not None]
        return {"heldout/accuracy": sum(judged) / max(1, len(judged)), "heldout/tokens": sum(length for _, length in found) / max(1, len(found))}


def all_components(phases: Sequence[Phase]) -> list[str]:
    """The components of all phases by name, in order of appearance."""
    return list(dict.fromkeys(name for phase in phases for name in rewards.component_names(phase.rewards)))


def zero_signal(rewards_GnR: torch.Tensor, weight_R: torch.Tensor, aggregation: str) -> torch.Tensor:
    """Which groups teach nothing, (G,): their responses' sums are all equal, or each reward is where rewards are normalised apart."""
    summed = aggregation == "sum_then_normalize"
    values_Gnk = (rewards_GnR * weight_R.to(rewards_GnR.device)).nansum(2, keepdim=True) if summed else rewards_GnR
    missing_Gnk = rewards_GnR.isnan().all(2, keepdim=True) if summed else rewards_GnR.isnan()
    highest = values_Gnk.masked_fill(missing_Gnk, -torch.inf).amax(1)
    lowest = values_Gnk.masked_fill(missing_Gnk, torch.inf).amin(1)
    return (highest - lowest <= 1e-6).all(1)  # -inf - inf where nothing was judged


def _padded(rows: list[list[float]], width: int) -> torch.Tensor:
    """(B, width), zeros after each row's end."""
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])


def _named(name: str) -> Callable[..., list[None]]:
    """TRL names its metrics after its reward functions; ours are called in _calculate_rewards instead."""

    def reward(**kwargs: Any) -> list[None]:
        raise AssertionError("R1GRPOTrainer._calculate_rewards computes the rewards")

    reward.__name__ = name
    return reward
