"""Settings of GRPO, in four groups: rollouts, loss, memory, schedule.

The groups are for the reader: in the YAML all of these keys stand side by side under `grpo:`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from r1pipe.schema.base import Model
from r1pipe.schema.rl_phases import Aggregation, Phase
from r1pipe.schema.safeguards import Guards
from r1pipe.schema.sampling import StopList
from r1pipe.schema.secrets import ServiceURL
from r1pipe.schema.training import Training

# The loss types of TRL 1.16.
LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")

# TRL's options for drawing responses, each with the values at which it changes nothing.
NEUTRAL_DRAWING_OPTIONS: dict[str, tuple[Any, ...]] = {
    "top_k": (0, None),
    "min_p": (0, None),
    "repetition_penalty": (1, None),
    "generation_kwargs": ({}, None),
}

# Fields of VLLMRollout that only one of the two ways to run vLLM reads.
COLOCATED_ONLY = ("memory", "tensor_parallel", "sleep", "max_model_length")
SERVER_ONLY = ("server_url", "server_timeout", "group_port")


class VLLMRollout(Model):
    """Rollouts from vLLM through TRL: inside the training process (colocated), or from a server beside it.

    Defaults that are not marked as TRL's are our choice.
    """

    memory: float = Field(default=0.3, gt=0, lt=1)
    """Colocated: share of the GPU's memory for vLLM's weights and cache (TRL's default)."""

    tensor_parallel: int = Field(default=1, ge=1)
    """Colocated: ranks that share one copy of the model."""

    sleep: bool = False
    """Colocated: vLLM frees its memory while the policy is updated. Waking up costs one sync of the weights."""

    max_model_length: int | None = Field(default=None, ge=1)
    """Colocated: tokens of prompt and response; none = what the model allows."""

    server_url: ServiceURL | None = None
    """Server: http://host:port of `vllm serve` with --logprobs-mode processed_logprobs."""

    server_timeout: float = Field(default=240.0, gt=0)
    """Server: seconds to wait until it answers (TRL's default)."""

    group_port: int = Field(default=51216, ge=1, le=65535)
    """Server: port over which it receives the weights (TRL's default)."""

    correction: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = (
        "sequence_mask"
    )
    """Importance correction for the gap between the log-probs of vLLM and of the trainer (TRL's default).

    *_truncate limits ratios to the cap; *_mask leaves out what is above the cap.
    """

    correction_cap: float = Field(default=3.0, gt=0)
    """Upper bound of the ratio (TRL's default)."""

    correction_floor: float | None = Field(default=None, gt=0)
    """Lower bound of the ratio; none = no bound."""

    @model_validator(mode="after")
    def _floor_is_below_cap(self) -> VLLMRollout:
        if self.correction_floor is not None and self.correction_floor >= self.correction_cap:
            raise ValueError(
                f"correction_floor {self.correction_floor} must be below correction_cap {self.correction_cap}"
            )
        return self


class RolloutParams(Training):
    """How many responses are drawn, by what, and how many updates use them."""

    num_generations: int = Field(default=16, ge=2, le=2**16)
    """Responses to a question (v2 2.1)."""

    batch_size: int = Field(default=512, ge=2, le=2**24)
    """Responses of one update: 32 questions x 16 (v2 2.1)."""

    minibatches_per_rollout: int = Field(default=16, ge=1, le=2**16)
    """Minibatches of a rollout, one update each: 8,192 responses in 16 minibatches (v2 2.1)."""

    whole_groups: bool | Literal["auto"] = "auto"
    """A minibatch holds whole groups, 32 questions x 16 (v2 2.1); false = any responses of the rollout, as TRL has it.

    auto = where the responses of a group share their prompt in a pack, which then is read once (our choice).
    """

    inner_epochs: int = Field(default=1, ge=1, le=1000)
    """Passes over a rollout (v2 2.1)."""

    resample: int = Field(default=0, ge=0, le=1000)
    """Dynamic sampling (DAPO): groups whose rewards are all equal are replaced by groups of other prompts.

    This is the greatest number of rounds of replacement in a rollout.
    """

    stop: StopList = Field(default_factory=list)
    """Strings that end a response beside the model's end token (our choice); it learns no end token there."""

    rollout: Literal["hf", "vllm", "vllm-server"] = "hf"
    """What draws the responses: PyTorch in this process, vLLM on the same GPUs, or a vLLM server."""

    vllm: VLLMRollout | None = None
    """For rollout: vllm and vllm-server."""

    @model_validator(mode="after")
    def _groups_fill_the_batch(self) -> RolloutParams:
        if self.batch_size % self.num_generations:
            below = self.batch_size // self.num_generations * self.num_generations
            nearest = max(self.num_generations, below)
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of num_generations {self.num_generations}; "
                f"nearest: {nearest} or {nearest + self.num_generations}"
            )
        return self

    @model_validator(mode="after")
    def _drawing_options_are_used(self) -> RolloutParams:
        # continuous batching draws with TRL's own sampler, which reads these options
        if self.rollout != "hf" or self.trl.get("use_transformers_continuous_batching"):
            return self
        for name, neutral in NEUTRAL_DRAWING_OPTIONS.items():
            if self.trl.get(name) not in neutral:
                raise ValueError(
                    f"trl.{name} would be ignored: rollout hf draws by temperature and top_p alone; "
                    "set rollout: vllm, or leave it out"
                )
        return self

    @model_validator(mode="after")
    def _vllm_settings_are_used(self) -> RolloutParams:
        if self.rollout == "hf" and self.vllm is not None:
            raise ValueError("`vllm` would be ignored: rollout is hf")
        if self.rollout == "vllm-server" and (self.vllm is None or self.vllm.server_url is None):
            raise ValueError("rollout: vllm-server needs vllm: {server_url: http://host:port}")

        if self.vllm is not None:
            ignored = self.vllm.changed(SERVER_ONLY if self.rollout == "vllm" else COLOCATED_ONLY)
            if ignored:
                raise ValueError(f"vllm.{ignored[0]} would be ignored: rollout is {self.rollout}")
        return self


class LossParams(Training):
    """The objective: advantages, ratio, clipping, KL."""

    beta: float = Field(default=0.001, ge=0, le=1000)
    """Weight in the loss of the k3 estimate of the KL to the reference (v2 2.1)."""

    kl_clamp: float | None = Field(default=None, gt=0)
    """Nats by which a token's log-ratio to the reference may count in k3; none = any (v2 eq. 2).

    Without it one token that has moved by 12 nats can make the whole gradient (our choice).
    """

    epsilon: float = Field(default=10.0, gt=0, le=1e6)
    """Clip range of the ratio: v2 3.2.1 for stage 1; for R1-Zero not published, the same is our choice."""

    epsilon_high: float | None = Field(default=None, gt=0, le=1e6)
    """Upper clip range where it differs from epsilon; none = epsilon.

    "Clip higher" of DAPO (arXiv 2503.14476): 0.28 beside 0.2.
    """

    loss_type: str = "grpo"
    """grpo = per token, 1/|o_i| (DeepSeekMath eq. 3).

    Ablations: dr_grpo (arXiv 2503.20783), dapo, bnpo, cispo, sapo, luspo, vespo.
    """

    importance_level: Literal["token", "sequence"] = "token"
    """token = a ratio for each token (v2 eq. 1).

    sequence = one ratio for the whole response (GSPO, arXiv 2507.18071; with loss_type grpo).
    """

    scale_rewards: Literal["group", "batch", "none"] = "group"
    """group: advantage = (reward - mean) / std of the group (v2 eq. 3)."""

    multi_objective_aggregation: Aggregation = "sum_then_normalize"
    """sum_then_normalize = rewards are summed, then normalised in the group (v2 eq. 3, 4).

    normalize_then_sum = each reward is normalised on its own first (GDPO, arXiv 2601.05242).
    """

    mask_truncated: bool = False
    """Responses that are cut off at max_tokens do not count in the loss (overlong filtering: DAPO)."""

    skip_no_signal: bool = False
    """Groups whose rewards are all equal cost no update: neither their KL to the reference nor their entropy counts."""

    @model_validator(mode="after")
    def _loss_type_exists(self) -> LossParams:
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"there is no loss_type `{self.loss_type}`: use one of {', '.join(LOSS_TYPES)}")
        return self

    @model_validator(mode="after")
    def _clip_range_is_not_narrower_above(self) -> LossParams:
        # CISPO clips the ratio from above alone, so epsilon does not bound epsilon_high there
        if self.epsilon_high is not None and self.loss_type != "cispo" and self.epsilon_high < self.epsilon:
            raise ValueError(
                f"epsilon_high {self.epsilon_high} is below epsilon {self.epsilon}: "
                "the clip range would be narrower above than below"
            )
        return self


class MemoryParams(Training):
    """Which weights are trained, and how much of a minibatch goes through the model at a time."""

    lora: dict[str, Any] | None = None
    """Arguments of peft.LoraConfig; none = all weights are trained, as in the paper."""

    microbatch_tokens: int | Literal["auto", "rows"] = "auto"
    """Tokens of one forward pass on a device, packed without padding.

    auto = by the free memory on CUDA; rows = microbatches of rows, as on a CPU.
    """

    compile: bool | Literal["auto"] = "auto"
    """torch.compile of the layers, for packed rows and rollout: hf.

    auto = on GPUs, from 50 updates and 100M parameters on (our choice).
    """

    @model_validator(mode="after")
    def _microbatch_is_stated_once(self) -> MemoryParams:
        if isinstance(self.microbatch_tokens, int):
            if self.microbatch_tokens < 1:
                raise ValueError("microbatch_tokens must be at least 1")
            if self.microbatch is not None:
                raise ValueError("microbatch (rows) and microbatch_tokens exclude each other: leave one out")
        return self

    @model_validator(mode="after")
    def _compile_is_used(self) -> MemoryParams:
        if self.compile is True and self.microbatch_tokens == "rows":
            raise ValueError(
                "compile: true would be ignored: only packed rows are compiled, and microbatch_tokens is rows"
            )
        return self


class ScheduleParams(Training):
    """What happens after how many updates."""

    phases: list[Phase] = Field(min_length=1)
    """In order."""

    ref_replace_every: Annotated[int, Field(ge=1)] | None = 400
    """Updates after which the reference becomes the policy (v2 2.1); none = it stays the initial policy."""

    eval_every: int = Field(default=100, ge=1)
    """Updates between scores of the held-out prompts (our choice)."""

    eval_prompts: int = Field(default=64, ge=0)
    """Held-out prompts that are scored each time (our choice)."""

    responses_every: Annotated[int, Field(ge=1)] | None = 50
    """Updates between responses that responses.jsonl shows, four at a time; none = never (our choice).

    Not part of the fingerprint.
    """

    keep: Literal["last", "best"] = "last"
    """Which policy becomes the checkpoint: the last, or the best by the held-out score (our choice)."""

    guards: Guards = Guards()
    """Rules that watch the training; not part of the fingerprint (our choice)."""

    @property
    def steps(self) -> int:
        """Policy updates over all phases."""
        return sum(phase.steps for phase in self.phases)


class GRPOParams(RolloutParams, LossParams, MemoryParams, ScheduleParams):
    """Group relative policy optimisation (v2 2.1, 3.2.1; DeepSeekMath 4.1.1).

    What the four groups say about each other is checked here.
    """

    trl_config: ClassVar[str] = "trl/trainer/grpo_config.py:GRPOConfig"

    lr: float = Field(default=3e-6, gt=0, le=1)
    """v2 2.1. The schedule is not published; a constant rate after the warm-up is our choice."""

    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the updates (not published; our choice).

    Without it the first updates of a real 0.5B model moved single tokens by 4 to 13 nats.
    """

    @model_validator(mode="after")
    def _truncated_responses_are_known(self) -> GRPOParams:
        if self.stop and self.mask_truncated:
            raise ValueError(
                "mask_truncated and stop cannot be combined: TRL takes a response without an end token for cut off"
            )
        return self

    @model_validator(mode="after")
    def _lora_keeps_its_reference(self) -> GRPOParams:
        if self.lora is not None and self.beta > 0 and self.ref_replace_every is not None:
            raise ValueError(
                "with lora the reference is the base without its adapter and is never replaced: "
                "set ref_replace_every: null (KL to the base), or beta: 0"
            )
        return self

    @model_validator(mode="after")
    def _rollbacks_have_a_checkpoint(self) -> GRPOParams:
        rules = [name for name, guard in self.guards.rules().items() if guard.action == "rollback"]
        if not rules:
            return self
        if self.save_every is None:
            raise ValueError(
                f"guards.{rules[0]} rolls back to a checkpoint, and none is saved: set save_every, or action: pause"
            )
        for rule in rules:
            last = self._latest_rollback(rule)
            if self.save_every > last:
                raise ValueError(
                    f"guards.{rule} can never roll back: the first checkpoint is of update {self.save_every} "
                    f"(save_every), and what it can find in {self.steps} updates begins after update {max(0, last)} "
                    "at the latest; lower save_every, or set action: pause"
                )
        return self

    def _latest_rollback(self, rule: str) -> int:
        """The latest update that this rule can roll back to.

        A rollback restores the last checkpoint before the trouble, and the latest finding comes at the end of training.
        """
        if rule == "non_finite":
            return self.steps - 1 - int(self.guards.non_finite.limit)

        if rule == "log_ratio":
            return self.steps - self.minibatches_per_rollout * self.inner_epochs

        # the other rules look when a rollout begins, at the rollouts before it
        rollouts = 1 if rule in ("format_up_accuracy_down", "length_collapse") else self.guards.window
        return self.steps - 1 - rollouts * self.minibatches_per_rollout * self.inner_epochs
