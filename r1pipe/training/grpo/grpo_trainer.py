"""TRL's GRPOTrainer with overrides, each for something TRL has no option for; what they do is in the parts they call.

    TRL calls, in this order                 we do
    ---------------------------------------  -------------------------------------------------------------------------
    _prepare_inputs                          keep groups together in minibatches (training_batch.py)
    _generate_and_score_completions          enter the phase (phases.py); make the Rollout (rollout.py); at the end drop
                                             the groups that shall not train (training_batch.py)
      _generate                              replace groups without signal by groups of other prompts (resampling.py)
        _tokenize_prompts                    read the prompt of a group once
        _generate_single_turn                draw with PyTorch (sampling.py), or let TRL draw with vLLM
                                             (vllm_rollouts.py); meanwhile rewards begin (early_rewards.py)
      _get_per_token_logps_and_entropies     the policy's old log-probs: none, those of the draw, or a forward pass
                                             (rollout.py); the reference's: a forward pass (log_probs.py)
      _calculate_rewards                     rewards by a row's domain; None is not zero (rollout_rewards.py)
    _compute_loss                            the loss of a minibatch, pack by pack (updates.py)
      _get_per_token_logps_and_entropies     forward passes without padding (log_probs.py)
    log                                      forget a loss that was not finite
    _save_checkpoint                         also keep the reference and the rollout (resumable.py, reference.py)

Between these calls the one state is `rollout`, the rollout being made; it is None outside
_generate_and_score_completions. tests/training/test_trl_sources.py records what TRL's methods were when the overrides
were written.

Shapes: B sequences on this rank, P prompt tokens (padded left), C completion tokens (padded right), A responses on
    all ranks,
R rewards, G groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import is_peft_model
from trl import GRPOConfig, GRPOTrainer

from r1pipe.errors import ConfigError
from r1pipe.here import Here
from r1pipe.rewards.scoring import Scorer
from r1pipe.schema import GRPOParams, Phase
from r1pipe.training import smaller_passes
from r1pipe.training.callbacks import WaitsForTurn
from r1pipe.training.grpo import heldout, reference, training_batch, vllm_rollouts
from r1pipe.training.grpo.compiling import CompilesFirst
from r1pipe.training.grpo.guard_actions import past_rollbacks
from r1pipe.training.grpo.log_probs import LogProbs, TokenLogProbs, runs_without_adapter, set_up_models
from r1pipe.training.grpo.pack_budget import PackBudget
from r1pipe.training.grpo.phases import enter_phase
from r1pipe.training.grpo.prompt_order import phase_at, updates_per_rollout
from r1pipe.training.grpo.ranks import gathered
from r1pipe.training.grpo.resampling import Resampler, SparePrompts
from r1pipe.training.grpo.rollout import OldLogProbs, Rollout
from r1pipe.training.grpo.rollout_rewards import RolloutRewards, all_components
from r1pipe.training.grpo.sampling import Sampler, log_cut_responses
from r1pipe.training.grpo.shown_responses import show_some
from r1pipe.training.grpo.updates import Updates
from r1pipe.training.resumable import ResumableTrainer
from r1pipe.training.stopwatch import Stopwatch, Timed


class R1GRPOTrainer(ResumableTrainer, GRPOTrainer):
    """GRPO with phases, rewards by row, and no work on padding.

    Args:
        params: the recipe's fields.
        rows: the dataset column `row` indexes this list; rewards read the row itself, whatever its columns.
        here: the running stage.
        widest_prompt: tokens of the longest prompt that will be answered.
        prefill: the beginning of every response that the prompt has already written, as a rule nothing.
        microbatch_tokens: tokens of a forward pass; auto = by the free memory; None = TRL's rows.
        compiled: torch.compile of the layers, where rows are packed.
        models: scorers for rewards that need a reward model (helpful, harmless).
        spare: number of a rollout -> further rendered prompts with their rows, for groups that are replaced.

    Attributes:
        rollout: the rollout being made; None while updates are made and while held-out prompts are answered.
        phase: the phase of the rollout that is or was made last.
        counted_tokens: completion tokens of all ranks that have entered the loss.
        heldout_curve: updates done -> scores of held-out prompts; what looks at them sets it.
        whole_groups: a minibatch holds groups as a whole.
    """

    # transformers' annotations allow None and lists where there is one value
    args: GRPOConfig
    model: Any
    _tokenizer: Any
    max_completion_length: int

    def __init__(
        self,
        *,
        params: GRPOParams,
        rows: list[dict[str, Any]],
        here: Here,
        widest_prompt: int = 0,
        prefill: str = "",
        microbatch_tokens: int | Literal["auto"] | None = None,
        compiled: bool = False,
        models: dict[str, Scorer] | None = None,
        spare: SparePrompts | None = None,
        **kwargs: Any,
    ) -> None:
        # before the parts: they read what TRL's trainer has after this
        functions: list[Any] = [_named(name) for name in all_components(params.phases)]
        with vllm_rollouts.asking(params):
            super().__init__(here=here, training=params, reward_funcs=functions, **kwargs)
        self.params = params
        self.prefill = prefill
        self.phase: Phase = params.phases[0]
        self.rollout: Rollout | None = None
        self.counted_tokens = 0
        self.heldout_curve: dict[int, dict[str, float]] = {}
        self.stopwatch = Stopwatch()

        # The models first, then the budget, which depends on whether they are compiled, then what works by the budget.
        plan = set_up_models(
            self,
            packed=microbatch_tokens is not None,
            compiled=compiled,
            sharded=here.sharded_weights,
        )
        self.pack_budget = PackBudget(
            self,
            here=here,
            tokens=microbatch_tokens,
            compiled=plan.compiled,
            shared=plan.shared,
        )
        self.log_probs = LogProbs(
            self,
            budget=self.pack_budget,
            packed=plan.packed,
        )
        self.updates = Updates(
            self,
            budget=self.pack_budget,
            kl_clamp=params.kl_clamp,
        )
        self.sampler = Sampler(
            self,
            params=params,
            widest_prompt=widest_prompt,
            budget=self.pack_budget,
            sharded=here.sharded_weights,
            compiled=plan.compiled,
            stopwatch=self.stopwatch,
        )
        if params.stop and not self.use_vllm and not self.sampler.can_draw(None, {}):
            raise ConfigError(
                "stop strings are not known to transformers' own generation, which draws under this profile",
                "grpo.stop",
                "use rollout: vllm, another profile, or leave `stop` out",
            )
        self.rewards = RolloutRewards(
            self,
            params=params,
            rows=rows,
            models=models or {},
            stopwatch=self.stopwatch,
        )
        self.resampler: Resampler | None = None
        if spare is not None and params.resample:
            self.resampler = Resampler(self, params=params, rewards=self.rewards, spare=spare)

        self.whole_groups = plan.shared if params.whole_groups == "auto" else params.whole_groups

        # TRL multiplies by these; it would take the weight 1 for all
        self.reward_weights = self.rewards.weights(self.phase)
        if self.use_vllm:
            vllm_rollouts.adapt(
                self.vllm_generation,
                self.stopwatch,
                ends=self.eos_token_ids,
                params=params,
            )
        if plan.compiled:
            self.add_callback(CompilesFirst(self, budget=self.pack_budget, stopwatch=self.stopwatch))
        # What follows, and the held-out prompts, begin when it is this stage's turn.
        self.add_callback(WaitsForTurn(here))
        self.add_callback(Timed(self.stopwatch, updates_per_rollout(params), self))

    # --- a rollout ----------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        minibatches: Any = self._buffered_inputs
        if minibatches is before or not self.whole_groups:
            return inputs
        # a new rollout, which TRL has shuffled and split
        self._buffered_inputs = training_batch.keep_groups_together(minibatches)
        return self._buffered_inputs[self._step % len(self._buffered_inputs)]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self.stoppable():
            # a phase changes between rollouts only: the updates of one rollout are of one phase
            self._enter_phase(self.state.global_step)
            return self._make_batch(inputs)

    def _make_batch(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        rollout = Rollout(inputs, self.phase, self._plan_old_log_probs(), self.prefill)
        with self._making(rollout):
            batch = super()._generate_and_score_completions(inputs)

        if self.use_vllm and self.vllm_importance_sampling_correction:
            vllm_rollouts.settle_correction(
                self, batch, in_update=rollout.old_log_probs is OldLogProbs.NOT_NEEDED
            )
        dropped_G = training_batch.groups_to_drop(self, self.params, rollout, self.rewards)
        training_batch.drop_groups(self, batch, dropped_G, group_size=self.params.num_generations)
        self.counted_tokens += int(gathered(batch["completion_mask"].sum()).sum())
        return batch

    def _generate(self, prompts: list[Any]) -> Any:
        assert self.rollout is not None
        generated = self._draw_and_log(prompts)
        self.rollout.keep_responses(prompts, generated)
        if self.resampler is not None:
            self.resampler.replace_silent_groups(self.rollout, self._draw_spare)
        return generated

    def _draw_spare(self, examples: list[dict[str, Any]]) -> Rollout:
        """The responses to these examples, as a rollout of their own."""
        rollout = Rollout(examples, self.phase, self._plan_old_log_probs(), self.prefill)
        prompts = [example["prompt"] for example in examples]
        with self._making(rollout):
            rollout.keep_responses(prompts, self._draw_and_log(prompts))
        return rollout

    def _draw_and_log(self, prompts: list[Any]) -> Any:
        """TRL's `_generate`, and the truth about responses that a stop string has ended."""
        fix = "fewer responses at a time (minibatches_per_rollout, batch_size), shorter ones (max_tokens), or more GPUs"
        with smaller_passes.explained("responses were drawn", fix):
            generated: Any = super()._generate(prompts)
        if self.params.stop:
            log_cut_responses(self, completion_ids=generated[1], stop=self.params.stop)
        return generated

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], Any, dict[str, Any]]:
        # TRL reads each prompt as often as it is answered; on one core 512 of 200 tokens kept a GPU waiting for 0.25 s.
        runs = [(prompt, len(list(same))) for prompt, same in itertools.groupby(prompts)]
        prompt_ids, images, fields = super()._tokenize_prompts([prompt for prompt, _ in runs])
        if images is not None or fields:
            # Each response has its own of these.
            return super()._tokenize_prompts(prompts)
        repeated = [list(ids) for ids, (_, count) in zip(prompt_ids, runs, strict=True) for _ in range(count)]
        return repeated, None, {}

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        rollout = self.rollout
        with self.stopwatch.part("generation"), self.rewards.judging_early(rollout) as on_ended:
            if not self.sampler.can_draw(images, multimodal_fields):
                with (
                    vllm_rollouts.reporting(self.vllm_generation, on_ended)
                    if self.use_vllm
                    else nullcontext()
                ):
                    return super()._generate_single_turn(
                        prompt_ids, images, multimodal_fields, num_generations, has_tool_images
                    )
            # held-out prompts are answered without a rollout, and train nothing
            keep_logps = rollout is not None and rollout.old_log_probs is OldLogProbs.AS_DRAWN
            drawn = self.sampler.draw(
                prompt_ids,
                group_size=num_generations,
                keep_logps=keep_logps,
                on_ended=on_ended,
            )
            if rollout is not None:
                rollout.drawn_logps = drawn.logps
            return drawn.token_ids, None

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        """The rewards of all ranks, (A, R). TRL's arguments are the rollout's own lists."""
        rollout = self.rollout
        assert rollout is not None
        # where silent groups were replaced, the rollout was judged to find them
        with self.stopwatch.part("reward"):
            if rollout.judged is None:
                rollout.judged = self.rewards.judge(rollout)
            self.rewards.log_responses(rollout, rollout.judged.scores)
            show_some(rollout, self.rewards.rows, self.params, self.here, self.state.global_step)
        # a group's responses may lie on several ranks, so TRL normalises over all of them
        rollout.rewards_AR = gathered(rollout.judged.rewards_BR.to(self.accelerator.device))
        return rollout.rewards_AR

    # --- log-probs and the loss ---------------------------------------------------------------------------------------

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
    ) -> Any:
        """Log-probs and entropies of the completion tokens, (B, C) each, and the loss for balance (TokenLogProbs)."""
        # the rows of an update whose log-probs were needed before TRL's loss asks for them
        if self.updates.known is not None:
            return self.updates.known
        # TRL asks for the policy's log-probs while a rollout is made only as the old ones
        if self.rollout is not None and self._is_policy(model):
            kept_BC = self.rollout.kept_logps(logits_to_keep)
            if kept_BC is not None:
                return TokenLogProbs(kept_BC.to(input_ids.device), None, None)

        # on a GPU TRL's padded pass; on a CPU rows are sorted by length (log_probs.py)
        padded_rows = self.pack_budget.tokens is None and self.accelerator.device.type != "cpu"
        if padded_rows or any(value is not None for value in multimodal.values()):
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
        # with gradients the pass is part of an update, and its seconds are the update's
        with nullcontext() if torch.is_grad_enabled() else self.stopwatch.part("logps"):
            return self.log_probs.compute(
                model,
                input_ids,
                attention_mask,
                width=logits_to_keep,
                entropies=compute_entropy,
                aux_losses=compute_aux_loss,
            )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return self.updates.loss(model, inputs, super()._compute_loss)

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """TRL's, and forget a loss that was not finite.

        The trainer subtracts what it has logged from its sum of losses, and NaN - NaN would stay in the sum for ever.
        """
        super().log(logs, start_time)
        if not math.isfinite(logs.get("loss", 0.0)):
            self._tr_loss.zero_()

    # --- going on from a checkpoint -----------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        state = super().own_state() | {"passes": self._step, "counted_tokens": self.counted_tokens}
        state["passes_per_update"] = self.args.gradient_accumulation_steps
        if self._within_rollout():
            # advantages, old log-probs and all else that its next updates need
            state["rollout"] = self._buffered_inputs
        if self.pack_budget.settled_by_memory:
            state["pack_tokens"] = self.pack_budget.tokens
        return state

    def take_own_state(self, state: dict[str, Any]) -> None:
        super().take_own_state(state)
        # Where memory ran out, or where there are fewer ranks now, an update has more passes than it had.
        now = self.args.gradient_accumulation_steps
        self._step = state["passes"] * now // state["passes_per_update"]
        self.counted_tokens = state["counted_tokens"]
        rollout = state.get("rollout")
        if rollout is not None:
            rollout = training_batch.cut(rollout, now // state["passes_per_update"])
        self._buffered_inputs = rollout
        self.pack_budget.before = state.get("pack_tokens")

    def divisible(self) -> bool:
        if self.pack_budget.tokens is None:
            return super().divisible()
        return self.pack_budget.most_rows > 1

    def save_more(self, checkpoint: Path) -> None:
        reference.save(self, checkpoint, self._last_whole)

    def load_more(self, checkpoint: Path) -> None:
        reference.load(self, checkpoint)
        # the phase of the rollout whose updates go on, or were the last
        per_rollout = updates_per_rollout(self.params)
        self._enter_phase((self.state.global_step - 1) // per_rollout * per_rollout)
        if self._within_rollout():
            # Packs take what is free beside the sampler's cache, and they come before the next draw.
            rollout: Any = self._buffered_inputs
            self.sampler.make_room(sum(len(minibatch["completion_ids"]) for minibatch in rollout))

    def facts(self) -> dict[str, Any]:
        rollbacks = len(past_rollbacks(self.here))
        return super().facts() | {"in_rollout": self._within_rollout(), "rollbacks": rollbacks}

    def best_update(self, updates: list[int]) -> int | None:
        scored = [update for update in updates if update in self.heldout_curve]
        return max(scored, key=lambda update: self.heldout_curve[update]["heldout/accuracy"], default=None)

    def _within_rollout(self) -> bool:
        """Whether some updates of the last rollout are still to be made."""
        passes_per_rollout = (self.args.steps_per_generation or 1) * self.num_iterations
        return self._step % passes_per_rollout != 0 and self._buffered_inputs is not None

    # --- what the overrides ask ---------------------------------------------------------------------------------------

    @contextmanager
    def _making(self, rollout: Rollout) -> Iterator[None]:
        """Within this, TRL's calls are about this rollout."""
        # spare groups are drawn while the rollout that lacks them is being made
        outer = self.rollout
        self.rollout = rollout
        try:
            yield
        finally:
            self.rollout = outer

    def _enter_phase(self, step: int) -> None:
        """The phase of a rollout that begins after `step` updates."""
        phase = phase_at(self.params, step)
        if phase is not self.phase:
            self.reward_weights = self.rewards.weights(phase)
            enter_phase(self, phase, sharded=self.here.sharded_weights)
            self.phase = phase

    def _plan_old_log_probs(self) -> OldLogProbs:
        if self._one_update():
            return OldLogProbs.NOT_NEEDED
        # A GPU draws with a twin and with other kernels than it trains with; a CPU with the very model.
        draws_from_policy = (
            self.accelerator.device.type == "cpu"
            and self.sampler.can_draw(None, {})
            and self.top_p == 1
            and self.temperature > 0
            and not is_peft_model(self.model)
        )
        return OldLogProbs.AS_DRAWN if draws_from_policy else OldLogProbs.RECOMPUTE

    def _one_update(self) -> bool:
        """Whether a rollout is one update, so that the policy that drew it is the one that is updated."""
        # TRL's own condition: both count forward passes
        passes_per_rollout = (self.args.steps_per_generation or 1) * self.num_iterations
        return self.args.gradient_accumulation_steps % passes_per_rollout == 0

    def _is_policy(self, model: Any) -> bool:
        """Whether a forward pass of this model is the policy's.

        With LoRA, TRL computes the reference's log-probs with the same model, its adapter switched off.
        """
        return model is self.model and not (is_peft_model(model) and runs_without_adapter(model))

    def score_heldout(self, rows: list[dict[str, Any]], prompt_ids: list[list[int]]) -> dict[str, float]:
        """Answer held-out prompts once at the phase's temperature; collective, the same on every rank.

        Returns:
            heldout/accuracy (share right) and heldout/tokens (mean length).
        """
        assert self.rollout is None, "held-out prompts are answered between rollouts"
        return heldout.score(self, self.stopwatch, rows, prompt_ids, self.prefill)


def _named(name: str) -> Callable[..., list[None]]:
    """A function of this name, after which TRL names its metrics; our rewards are called in _calculate_rewards."""

    def reward(**kwargs: Any) -> list[None]:
        raise AssertionError("R1GRPOTrainer._calculate_rewards computes the rewards")

    reward.__name__ = name
    return reward
