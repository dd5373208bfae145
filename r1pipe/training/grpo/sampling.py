"""Drawing a rollout with PyTorch in the training process: one prefill per group, ended sequences leave the batch.

The loop is r1pipe/generation/decoding.py. On a GPU a twin of the policy draws, in the precision of autocast, and each
step of its decoding is a CUDA graph (r1pipe/generation/cuda_graphs.py).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from r1pipe.generation.cuda_graphs import GraphedModel, cache_fits, graph_obstacle
from r1pipe.generation.decoding import Decoded, decode
from r1pipe.generation.stop_strings import stop_strings
from r1pipe.generation.token_sampling import OnEnded
from r1pipe.models.loading import end_ids
from r1pipe.models.memory import free_memory
from r1pipe.models.sharding import uncoordinated
from r1pipe.schema import GRPOParams
from r1pipe.training.grpo.pack_budget import PackBudget
from r1pipe.training.grpo.ranks import gathered
from r1pipe.training.stopwatch import Stopwatch


class Sampler:
    """Draws responses with the policy of the moment.

    Args:
        trainer: TRL's trainer; its temperature and its length are those of the phase.
        params: the recipe's fields; the twin has room for the longest of its phases.
        widest_prompt: tokens of the longest prompt of all rollouts, held-out prompts included.
        budget: says what memory updates will take beside the twin.
        sharded: this rank holds only a part of the weights.
        compiled: the layers are compiled, and the twin's, too.

    Attributes:
        graphed: the twin; None until the first draw, and where there cannot be one.
    """

    def __init__(
        self,
        trainer: GRPOTrainer,
        *,
        params: GRPOParams,
        widest_prompt: int,
        budget: PackBudget,
        sharded: bool,
        compiled: bool,
        stopwatch: Stopwatch,
    ) -> None:
        self.trainer = trainer
        self.args: Any = trainer.args
        self.params = params
        self.widest_prompt = widest_prompt
        self.budget = budget
        self.sharded = sharded
        self.compiled = compiled
        self.stopwatch = stopwatch
        self.graphed: GraphedModel | None = None

    def can_draw(self, images: Any, multimodal_fields: dict[str, Any]) -> bool:
        """Whether the loop of this module draws; otherwise TRL does, with vLLM or with transformers' generation."""
        trainer = self.trainer
        if trainer.use_vllm or trainer.use_transformers_continuous_batching or images or multimodal_fields:
            return False
        gathers_weights = not is_deepspeed_zero3_enabled() or self.args.ds3_gather_for_generation
        return gathers_weights and not trainer.is_fsdp_enabled

    def draw(
        self,
        prompt_ids: list[list[int]],
        *,
        group_size: int,
        keep_logps: bool,
        on_ended: OnEnded | None,
    ) -> Decoded:
        """One response to each prompt.

        Args:
            prompt_ids: the prompt of each response.
            group_size: as many responses in a row answer the same prompt, which is then read once. Where they do not,
                each is read.
            keep_logps: return the log-probs of the tokens.
            on_ended: called with responses that have ended while others are drawn.
        """
        trainer = self.trainer
        max_tokens: Any = trainer.max_completion_length
        grouped = len(prompt_ids) % group_size == 0 and all(
            ids == prompt_ids[i - i % group_size] for i, ids in enumerate(prompt_ids)
        )
        n = group_size if grouped else 1

        # Under ZeRO-3 the weights are gathered once for the whole draw; ranks then run as many steps as they need.
        decoded = Decoded([], [])
        wrapped: Any = trainer.model_wrapped
        gathered_weights: Any = unwrap_model_for_generation(
            wrapped, trainer.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        )
        with gathered_weights as model, uncoordinated(wrapped):
            # dropout would make a draw that the policy's log-probs do not describe
            training = model.training
            model.eval()
            # A rank may have no held-out prompt of its own, but the gathering of shards around this is collective.
            if prompt_ids:
                tokenizer: Any = trainer._tokenizer
                decoded = decode(
                    model,
                    prompt_ids[::n],
                    n=n,
                    max_new_tokens=max_tokens,
                    temperature=trainer.temperature,
                    top_p=trainer.top_p,
                    eos_ids=end_ids(model, tokenizer),
                    stop=stop_strings(self.params.stop, tokenizer),
                    pad_id=tokenizer.pad_token_id,
                    graphed=self.graphed_policy(model, len(prompt_ids), max(map(len, prompt_ids))),
                    keep_logps=keep_logps,
                    on_ended=on_ended,
                )
            model.train(training)
        return decoded

    def make_room(self, rows: int) -> None:
        """Make the policy's twin, with room for rollouts of this many responses, where it can be made.

        Called where something else settles on the free memory before the first draw.
        """
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if self.can_draw(None, {}) and not self.sharded and not graph_obstacle(model):
            self._make_room(model, rows, self.widest_prompt)

    def graphed_policy(
        self,
        model: Any,
        rows: int,
        width: int,
    ) -> GraphedModel | None:
        """The policy's twin with the weights of now and room for `rows` prompts of up to `width` tokens.

        None where a step cannot be a CUDA graph, where weights are sharded (the twin would hold all of them), or
        where there is no room. On a GPU a warning says so, since a plain loop takes many times as long.
        """
        obstacle = "the weights are sharded" if self.sharded else graph_obstacle(model)
        if not obstacle and not self._make_room(model, rows, width):
            obstacle = (
                f"there is no room for {rows} sequences with prompts of {width} tokens beside the training"
            )
        if obstacle:
            if model.device.type == "cuda":
                # the same text each time, so it is shown once
                warnings.warn(f"a plain loop draws, not CUDA graphs: {obstacle}", stacklevel=2)
            return None
        assert self.graphed is not None, "_make_room has made it"
        with self.stopwatch.part("sync"):
            self.graphed.copy_weights(model)
        return self.graphed

    def _make_room(
        self,
        model: Any,
        rows: int,
        width: int,
    ) -> bool:
        """Whether the twin has room; it is made at the first call."""
        dtype = torch.bfloat16 if self.args.bf16 else model.dtype
        longest = max(phase.max_tokens for phase in self.params.phases)
        needed = width + longest
        # Room for every rollout from the first: packs take what memory is free then, and the cache cannot grow later.
        wanted = max(width, self.widest_prompt) + longest

        # the first draw, before the optimizer's state is there: count what it will take, and the twin's own weights
        if self.graphed is None:
            reserved = self.budget.still_to_come() + dtype.itemsize * model.num_parameters()
            free = free_memory(model.device) - reserved
            if not cache_fits(model.config, rows, needed, dtype.itemsize, free):
                return False
            self.graphed = GraphedModel.twin(model, dtype, self.compiled)

        # Packs were measured by what was free beside the cache, so the cache must not grow after that.
        reserved = float("inf") if self.budget.settled_by_memory else self.budget.still_to_come()
        graphed = self.graphed
        return graphed.make_room(rows, wanted, reserved) or graphed.make_room(rows, needed, reserved)


def log_cut_responses(
    trainer: GRPOTrainer,
    *,
    completion_ids: list[list[int]],
    stop: list[str],
) -> None:
    """Correct what TRL has just logged: it takes a response for cut off unless its last token is an end token.

    Args:
        completion_ids: the responses of this rank.
        stop: strings that end a response, too.
    """
    tokenizer: Any = trainer._tokenizer
    # TRL's own condition, and what it cannot know
    ends = {*trainer.eos_token_ids, tokenizer.pad_token_id}
    longest: Any = trainer.max_completion_length
    cut_B = []
    for ids in completion_ids:
        # one that is shorter than it might be has ended
        by_itself = len(ids) < longest or ids[-1] in ends
        cut_B.append(not by_itself and not any(text in tokenizer.decode(ids) for text in stop))

    device = trainer.accelerator.device
    cut_A = gathered(torch.tensor(cut_B, device=device))
    length_A = gathered(torch.tensor([len(ids) for ids in completion_ids], device=device))
    ended = length_A[~cut_A].float() if not cut_A.all() else torch.zeros(1)
    model: Any = trainer.model
    metrics = trainer._metrics["train" if model.training else "eval"]
    metrics["completions/clipped_ratio"][-1] = cut_A.float().mean().item()
    metrics["completions/mean_terminated_length"][-1] = ended.mean().item()
    metrics["completions/min_terminated_length"][-1] = ended.min().item()
    metrics["completions/max_terminated_length"][-1] = ended.max().item()
