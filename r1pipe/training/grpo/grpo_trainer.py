"""TRL's GRPOTrainer with methods of our own, each named and each for a reason that TRL has no option for.

    _generate_and_score_completions   phases: temperature, length and rewards change while the optimizer goes on;
                                      a prompt without one scorable response is dropped
    _generate                         groups without signal are replaced by groups of other prompts (DAPO's dynamic sampling)
    _generate_single_turn             what draws: r1pipe/training/grpo/drawing.py
    _calculate_rewards                r1pipe's rewards: None is not zero, and rewards apply by a row's domain
    _get_per_token_logps_and_entropies, _compute_loss    without padding: r1pipe/training/grpo/updates.py

tests/training/test_trl_sources.py holds what TRL's methods were when these were written.

Shapes: B sequences on this rank, P prompt tokens (padded left), C completion tokens (padded right), R rewards, G groups of n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from accelerate.utils import gather_object

from r1pipe.models.loading import without_adapter
from r1pipe.models.plain_head import set_head
from r1pipe.rewards.language import thinking_words
from r1pipe.rewards.repetition import repeated_share
from r1pipe.rewards.scoring import Scores, component_names, correct, score
from r1pipe.schema import GRPOParams, Phase
from r1pipe.text.response import split_response
from r1pipe.training.grpo.drawing import Rollouts
from r1pipe.training.grpo.prompt_order import phase_at, updates_per_rollout
from r1pipe.training.grpo.updates import gathered
from r1pipe.training.grpo.vllm_rollouts import share_masked
from r1pipe.training.stopwatch import Timed

LOOKED_AT = 64  # responses a rollout and rank whose words are counted for the log
LOOKED_AT_CHARS = 4000  # and how much of the end of each


class R1GRPOTrainer(Rollouts):
    """GRPO with phases, rewards by row, and no work on padding.

    Args:
        params: the recipe's fields.
        rows: the dataset column `row` indexes this list; rewards read the row itself, whatever its columns.
        models: scorers for rewards that need one (helpful, harmless).
        spare: rollout number -> further rendered prompts with their rows, for groups that are replaced.
    """

    def __init__(
        self,
        *,
        params: GRPOParams,
        rows: list[dict[str, Any]],
        models: dict[str, Callable[..., list[float]]] | None = None,
        spare: Callable[[int], Iterator[tuple[str, dict[str, Any]]]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.models = models or {}
        self.spare = spare
        self.counted_tokens = 0  # completion tokens of all ranks that have entered the loss
        self.reward_names = all_components(params.phases)
        functions: list[Any] = [_named(name) for name in self.reward_names]
        super().__init__(params=params, rows=rows, reward_funcs=functions, **kwargs)
        self.reward_weights = self._weights(self.phase)
        self._rewards = torch.empty(0, len(functions))  # of the last rollout, all ranks, (B * ranks, R)
        self._judged: tuple[Scores, torch.Tensor] | None = (
            None  # the rollout's rewards, where they were needed before TRL asks
        )
        self._asked: list[dict[str, Any]] = []  # the rollout's examples, which _generate may replace
        self.add_callback(Timed(self.stopwatch, updates_per_rollout(self.params), self))

    def _weights(self, phase: Phase) -> torch.Tensor:
        """The phase's weights, (R,); TRL multiplies by them, after normalising each reward where that is asked for."""
        weight = {name: spec.weight for name, spec in zip(component_names(phase.rewards), phase.rewards, strict=True)}
        return torch.tensor([weight.get(name, 1.0) for name in self.reward_names])

    def _enter_phase(self) -> None:
        phase = phase_at(self.params, self.state.global_step)
        if phase is self.phase:
            return
        self.reward_weights = self._weights(phase)
        if phase.temperature != self.temperature:
            self.temperature = phase.temperature
            policy = without_adapter(self.accelerator.unwrap_model(self.model))
            head: dict[str, Any] = {
                "temperature": phase.temperature,
                "cast_lm_head_to_fp32": self.args.cast_lm_head_to_fp32,
                "sharded": self.here.sharded_weights,
            }
            set_head(policy, outputs=("log_probs", "entropy"), **head)
            if self.ref_model is not None:
                reference: Any = self.accelerator.unwrap_model(self.ref_model)
                set_head(reference, outputs=("log_probs",), **head)
        self.max_completion_length = phase.max_tokens
        if self.use_vllm:
            self.vllm_generation.temperature, self.vllm_generation.max_completion_length = (
                phase.temperature,
                phase.max_tokens,
            )
        else:
            self.generation_config.temperature, self.generation_config.max_new_tokens = (
                phase.temperature,
                phase.max_tokens,
            )
        self.phase = phase

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._enter_phase()
        self._asked = inputs
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        # of a rollout that is one update, the old log-probs are those of the update's own forward pass: _pack_loss reads them there
        self._no_old = late = corrected and self._one_update()
        self._keep_drawn = not self._one_update() and self.accelerator.device.type == "cpu"
        output = super()._generate_and_score_completions(inputs)
        metrics = self._metrics["train"]
        if late:
            del output["old_per_token_logps"], output["importance_sampling_ratio"]
            for name in [name for name in metrics if name.startswith("sampling/")]:
                metrics[name].pop()
        elif corrected:
            masked = share_masked(output["importance_sampling_ratio"], output["completion_mask"])
            metrics["sampling/masked"].append(gathered(masked).mean().item())
        n = self.params.num_generations
        groups_GnR = self._rewards.view(-1, n, len(self.reward_names))
        dropped_G = groups_GnR.isnan().all(2).all(1)
        silent_G = zero_signal(groups_GnR, self.reward_weights, self.multi_objective_aggregation)
        metrics["zero_signal"].append(silent_G.float().mean().item())
        metrics["rewards/dropped_prompts"].append(float(dropped_G.sum()))
        metrics["phase"].append(self.params.phases.index(self.phase))
        if self.params.skip_no_signal:
            dropped_G = dropped_G | silent_G
        if dropped_G.any():  # neither KL nor entropy of theirs counts either; their advantages are 0 already
            dropped_B = dropped_G.repeat_interleave(n)
            output["num_items_in_batch"] = (
                output["num_items_in_batch"] - gathered(output["completion_mask"].sum(1))[dropped_B].sum()
            )
            mine = slice(
                self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs)
            )
            output["completion_mask"] = output["completion_mask"].masked_fill(dropped_B[mine, None], 0)
            if "old_per_token_logps" in output:  # a ratio to what is masked must stay finite
                output["old_per_token_logps"] = output["old_per_token_logps"].masked_fill(dropped_B[mine, None], 0.0)
        self.counted_tokens += int(gathered(output["completion_mask"].sum()).sum())
        return output

    def _one_update(self) -> bool:
        """Whether a rollout is one update, so that the policy that drew it is the one that is updated."""
        return (
            self.args.gradient_accumulation_steps % ((self.args.steps_per_generation or 1) * self.num_iterations) == 0
        )

    def _generate(self, prompts: list[Any]) -> Any:
        """TRL's, and where `resample` asks for it, other prompts in the place of those whose responses are all worth the same.

        Every rank draws as many groups as the one that lacks most, so that all of them take part in what is collective.
        """
        self._examples = self._asked
        drawn: Any = super()._generate(prompts)
        if not self.params.resample or self.spare is None:
            return drawn
        n, world, rank = self.params.num_generations, self.accelerator.num_processes, self.accelerator.process_index
        prompt_ids, completion_ids, _, completions, logps, *_ = drawn
        own = self._drawn
        scores, rewards_BR = self._judged = self._judge(self._asked, completions, completion_ids)
        stream = islice(self.spare(self.state.global_step // updates_per_rollout(self.params)), rank, None, world)
        replaced = 0
        for _ in range(self.params.resample):
            silent_G = zero_signal(
                rewards_BR.view(-1, n, len(self.reward_names)), self.reward_weights, self.multi_objective_aggregation
            )
            lacking = silent_G.nonzero().squeeze(-1).tolist()
            count = int(gathered(torch.tensor([len(lacking)], device=self.accelerator.device)).max())
            if count == 0:
                break
            texts, spare_rows = zip(*islice(stream, count), strict=True)
            first = len(self.rows)
            self.rows += spare_rows
            examples = [{"prompt": text, "row": first + i} for i, text in enumerate(texts) for _ in range(n)]
            self._examples = examples
            again: Any = super()._generate([example["prompt"] for example in examples])
            new_scores, new_BR = self._judge(examples, again[3], again[1])
            speaking_G = ~zero_signal(
                new_BR.view(-1, n, len(self.reward_names)), self.reward_weights, self.multi_objective_aggregation
            )
            for old, new in zip(lacking, speaking_G.nonzero().squeeze(-1).tolist(), strict=False):
                replaced += 1
                for to, source in zip(range(old * n, old * n + n), range(new * n, new * n + n), strict=True):
                    self._asked[to] = {**self._asked[to], **examples[source]}
                    prompts[to] = examples[source]["prompt"]
                    prompt_ids[to], completion_ids[to], completions[to] = (
                        again[0][source],
                        again[1][source],
                        again[3][source],
                    )
                    rewards_BR[to] = new_BR[source]
                    scores.replace(to, new_scores, source)
                    if logps is not None:
                        logps[to] = again[4][source]
                    if own and self._drawn:
                        own[to] = self._drawn[source]
        self._drawn = own
        self._log_metric("resampled_groups", float(replaced))
        return drawn

    def _calculate_rewards(
        self,
        inputs: list[dict[str, Any]],
        prompts: list[Any],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        """Rewards of all ranks, (B * ranks, R): NaN where a reward does not apply, a whole row of NaN where it cannot be scored."""
        with self.stopwatch.part("reward"):
            scores, rewards_BR = self._judged or self._judge(inputs, completions, completion_ids_list)
            self._judged = None
            self._log_responses(scores, _texts(completions))
        self._rewards = gathered(rewards_BR.to(self.accelerator.device))
        return self._rewards

    def _judge(
        self, examples: list[dict[str, Any]], completions: list[Any], completion_ids: list[list[int]]
    ) -> tuple[Scores, torch.Tensor]:
        """This rank's rewards, (B, R)."""
        rows = [
            {**self.rows[example["row"]], "tokens": len(ids)}
            for example, ids in zip(examples, completion_ids, strict=True)
        ]
        texts, early = _texts(completions), self._early
        self._early = None
        with self.stopwatch.part("reward"):
            known = early.known(completion_ids) if early is not None else {}
            scores = score(self.phase.rewards, texts, rows, self.models, known)
        if early is not None:
            self._log_metric("rewards/early", len(set().union(*known.values())) / len(texts))
        rewards_BR = torch.full((len(rows), len(self.reward_names)), torch.nan)
        for r, name in enumerate(self.reward_names):
            for b, value in enumerate(scores.components.get(name, [None] * len(rows))):
                if value is not None and scores.totals[b] is not None:
                    rewards_BR[b, r] = value
        return scores, rewards_BR

    def _log_responses(self, scores: Scores, texts: list[str]) -> None:
        """What TRL does not log and the guards read; means over the ranks."""
        self._log_metric("rewards/unscorable", sum(total is None for total in scores.totals) / len(texts))
        for name, applied in scores.applied.items():
            if any(applied):
                self._log_metric(f"rewards/{name}/none", scores.unjudged[name] / sum(applied))
        right = [
            value
            for name in ("accuracy", "code", "reasoning_gym")
            for value in scores.components.get(name, [])
            if value is not None
        ]
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
        ids = [prompt_ids[i] for i in mine]
        if self.use_vllm:  # TRL cuts the ranks' shares apart by length: they must be equal
            ids += [prompt_ids[0]] * (-(-len(rows) // world) - len(mine))
        self._keep_drawn, self._examples = False, None
        device = self.accelerator.device
        own = [] if device.type == "cpu" else [device]
        with (
            self.stopwatch.outside("heldout"),
            torch.random.fork_rng(own, device_type=device.type),
        ):  # training draws do not depend on how often we look
            torch.manual_seed(self.args.seed + 1 + rank)
            completion_ids, _ = self._generate_single_turn(ids, None, {}, 1)
        completion_ids = completion_ids[: len(mine)]
        texts: list[Any] = [self._tokenizer.decode(ids, skip_special_tokens=True) for ids in completion_ids]
        verdicts = correct(texts, [rows[i] for i in mine])
        found = gather_object([(v, len(ids)) for v, ids in zip(verdicts, completion_ids, strict=True)])
        judged = [float(v) for v, _ in found if v is not None]
        return {
            "heldout/accuracy": sum(judged) / max(1, len(judged)),
            "heldout/tokens": sum(length for _, length in found) / max(1, len(found)),
        }


def all_components(phases: Sequence[Phase]) -> list[str]:
    """The components of all phases by name, in order of appearance."""
    return list(dict.fromkeys(name for phase in phases for name in component_names(phase.rewards)))


def zero_signal(rewards_GnR: torch.Tensor, weight_R: torch.Tensor, aggregation: str) -> torch.Tensor:
    """Which groups teach nothing, (G,): their responses' sums are all equal, or each reward is where rewards are normalised apart."""
    summed = aggregation == "sum_then_normalize"
    values_Gnk = (rewards_GnR * weight_R.to(rewards_GnR.device)).nansum(2, keepdim=True) if summed else rewards_GnR
    missing_Gnk = rewards_GnR.isnan().all(2, keepdim=True) if summed else rewards_GnR.isnan()
    highest = values_Gnk.masked_fill(missing_Gnk, -torch.inf).amax(1)
    lowest = values_Gnk.masked_fill(missing_Gnk, torch.inf).amin(1)
    return (highest - lowest <= 1e-6).all(1)  # -inf - inf where nothing was judged


def _texts(completions: list[Any]) -> list[str]:
    return [c if isinstance(c, str) else c[-1]["content"] for c in completions]


def _named(name: str) -> Callable[..., list[None]]:
    """TRL names its metrics after its reward functions; ours are called in _calculate_rewards instead."""

    def reward(**kwargs: Any) -> list[None]:
        raise AssertionError("R1GRPOTrainer._calculate_rewards computes the rewards")

    reward.__name__ = name
    return reward
