"""What draws a rollout in R1GRPOTrainer: PyTorch, in this process, or vLLM through TRL; and rewards that begin before it ends.

    _generate_single_turn   one prefill a prompt group, ended sequences leave the batch (r1pipe/generation/decoding.py), on a GPU a step of decoding is a
                            CUDA graph of a bfloat16 twin (graphs.py); with vLLM, TRL's own

Shapes: B sequences on this rank, P prompt tokens (padded left), C completion tokens (padded right).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.models import unwrap_model_for_generation

from r1pipe.generation.cuda_graphs import GraphedModel, cache_fits, graph_obstacle
from r1pipe.generation.decoding import decode
from r1pipe.generation.token_sampling import OnEnded
from r1pipe.models.loading import end_ids
from r1pipe.models.memory import free_memory
from r1pipe.models.sharding import uncoordinated
from r1pipe.rewards.scoring import EARLY_REWARDS
from r1pipe.schema import GRPOParams, Phase
from r1pipe.training.grpo.early_rewards import EarlyRewards
from r1pipe.training.grpo.updates import TokenMicrobatches
from r1pipe.training.grpo.vllm_rollouts import lighten, sync_weights, telling


class Rollouts(TokenMicrobatches):
    """TRL's trainer, which draws with our loop.

    Args:
        params: the recipe's fields.
        rows: what an example's `row` is the place of.
    """

    max_completion_length: int  # the phase's

    def __init__(self, *, params: GRPOParams, rows: list[dict[str, Any]], **kwargs: Any) -> None:
        self.params, self.rows = params, rows
        self.phase: Phase = params.phases[0]
        self.graphed: GraphedModel | None = None
        self._keep_drawn = False
        self._examples: list[dict[str, Any]] | None = (
            None  # what the next responses answer; None where no reward will be asked for
        )
        self._early: EarlyRewards | None = None  # of the last rollout, until its rewards are asked for
        super().__init__(**kwargs)
        self.early = self.accelerator.device.type != "cpu"  # a CPU that draws has no time for them
        if self.use_vllm:
            sync = self.stopwatch.part("sync")(
                partial(sync_weights, self.vllm_generation)
            )  # a context manager is a decorator, too
            self.vllm_generation.sync_weights = sync
            lighten(self.vllm_generation)

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        with self.stopwatch.part("generation"), self._judged_early(len(prompt_ids)) as tell:
            return self._sample(prompt_ids, images, multimodal_fields, num_generations, has_tool_images, tell)

    @contextmanager
    def _judged_early(self, count: int) -> Iterator[OnEnded | None]:
        """Around a rollout's drawing: whom to tell of what has ended, if it can be judged early."""
        examples, self._examples = self._examples, None
        specs = self.phase.rewards
        if examples is None or not self.early or not EARLY_REWARDS.intersection(spec.name for spec in specs):
            yield None
            return
        assert len(examples) == count
        read = partial(self._tokenizer.batch_decode, skip_special_tokens=True)
        with EarlyRewards(specs, [self.rows[example["row"]] for example in examples], read) as self._early:
            yield self._early.tell

    def _sample(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool,
        tell: OnEnded | None,
    ) -> Any:
        sharded = self.is_fsdp_enabled or (is_deepspeed_zero3_enabled() and not self.args.ds3_gather_for_generation)
        if self.use_vllm or self.use_transformers_continuous_batching or sharded or images or multimodal_fields:
            with telling(self.vllm_generation, tell) if self.use_vllm else nullcontext():
                return super()._generate_single_turn(
                    prompt_ids, images, multimodal_fields, num_generations, has_tool_images
                )
        grouped = len(prompt_ids) % num_generations == 0 and all(
            prompt_ids[i] == prompt_ids[i - i % num_generations] for i in range(len(prompt_ids))
        )
        n = num_generations if grouped else 1
        wrapped: Any = self.model_wrapped
        gathered: Any = unwrap_model_for_generation(
            wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        )
        with gathered as model, uncoordinated(wrapped):
            training = model.training
            model.eval()
            self._drawn = []
            whole = (
                self.top_p == 1 and self.temperature > 0 and not is_peft_model(self.model)
            )  # then the draw's distribution is the policy's
            completion_ids: list[list[int]] = []
            # a rank may have no held-out prompt of its own, but the gathering of shards around this is everyone's
            if prompt_ids:
                decoded = decode(
                    model,
                    prompt_ids[::n],
                    n=n,
                    max_new_tokens=self.max_completion_length,
                    temperature=self.temperature,
                    top_p=self.top_p,
                    eos_ids=end_ids(model, self._tokenizer),
                    pad_id=self._tokenizer.pad_token_id,
                    graphed=self._graphed_policy(model, len(prompt_ids), max(map(len, prompt_ids))),
                    keep_logps=whole and self._keep_drawn,
                    on_ended=tell,
                )
                completion_ids, self._drawn = decoded.token_ids, decoded.logps
            model.train(training)
        return completion_ids, None

    def _graphed_policy(self, model: Any, rows: int, width: int) -> GraphedModel | None:
        """The policy's twin with the weights of now and room for so many rows and prompts so wide.

        None where its steps cannot be CUDA graphs, where weights are cut up, of which it would hold all, or where there is no room. Room is made for
        the longest phase; once the size of packs is settled by what memory was free, no more is taken.
        """
        if self.here.sharded_weights or graph_obstacle(model):
            return None
        dtype = torch.bfloat16 if self.args.bf16 else model.dtype
        columns = width + max(phase.max_tokens for phase in self.params.phases)
        if self.graphed is None:
            still = self._still_to_come() + dtype.itemsize * model.num_parameters()
            if not cache_fits(model.config, rows, columns, dtype.itemsize, free_memory(model.device) - still):
                return None
            self.graphed = GraphedModel.twin(model, dtype, self.compiled)
        settled = self._tokens_by_memory and self.microbatch_tokens != "auto"
        if not self.graphed.make_room(rows, columns, float("inf") if settled else self._still_to_come()):
            return None
        with self.stopwatch.part("sync"):
            self.graphed.copy_weights(model)
        return self.graphed
