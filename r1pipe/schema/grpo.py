"""Reinforcement learning: rewards, phases, guards, rollouts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from r1pipe.schema.base import Model
from r1pipe.schema.training import Training


class RewardSpec(Model):
    """One component of the reward; components are summed (v2 eq. 4, 8)."""

    name: str = Field(description="a name in r1pipe.rewards.REWARDS, or package.module:function")
    weight: float = Field(default=1.0, description="the paper adds components with the same weight (v2 eq. 4)")
    params: dict[str, Any] = Field(default_factory=dict)
    required: bool | None = Field(
        default=None,
        description="a row on which this returns None is left out of its group; none = the reward's own default",
    )
    domains: list[str] | None = Field(default=None, description="rows it applies to; none = wherever it can judge")


class Phase(Model):
    """A stretch of RL. Optimizer, scheduler, reference and step count go on from one phase to the next."""

    steps: int = Field(ge=1, description="policy updates (v2 Fig. 1: a step is one update)")
    max_tokens: int = Field(default=32768, ge=1, description="tokens of a response (v2 2.1, 3.2.1)")
    temperature: float = Field(default=1.0, gt=0, description="v2 2.1, 3.2.1: 1.0; 3.2.2: 0.7")
    prompts: dict[str, float] = Field(
        default_factory=lambda: {"prompts": 1.0}, description="input port -> share of the prompts (mix not published)"
    )
    rewards: list[RewardSpec] = Field(min_length=1)

    @field_validator("prompts")
    @classmethod
    def _positive(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or min(value.values()) <= 0:
            raise ValueError("give at least one prompt source, each with a share above 0")
        return value


class Guard(Model):
    """One rule that watches RL, and what it does when it finds something."""

    action: Literal["off", "warn", "pause", "rollback"] = Field(
        default="warn",
        description="pause = stop with a reason, exit code 1; rollback = go on from the last checkpoint before the trouble",
    )
    limit: float = Field(description="the rule's threshold, in the rule's unit")


class Guards(Model):
    """What must not happen during RL without a word. The limits are our choice: no run of the shipped recipe comes near them."""

    window: int = Field(
        default=4,
        ge=1,
        description="rollouts that a rule looks at together before it speaks, and before it speaks again",
    )
    non_finite: Guard = Field(
        default=Guard(action="pause", limit=0),
        description="updates in a row whose loss or gradient norm is not a number, above this",
    )
    zero_signal: Guard = Field(
        default=Guard(limit=0.95),
        description="share of groups whose rewards are all equal, so that they teach nothing, above this",
    )
    entropy: Guard = Field(
        default=Guard(limit=0.002), description="nats a token, below this: the policy has stopped exploring"
    )
    kl: Guard = Field(default=Guard(limit=5.0), description="k3 estimate to the reference, nats a token, above this")
    length: Guard = Field(default=Guard(limit=0.5), description="share of responses cut off at max_tokens, above this")
    repetition: Guard = Field(
        default=Guard(limit=0.3), description="mean share of a response's 6-grams that it has said before, above this"
    )
    format_up_accuracy_down: Guard = Field(
        default=Guard(limit=0.15),
        description="accuracy fell by this from its best window while format rose from its first: rewards are won without answers",
    )
    max_rollbacks: int = Field(default=2, ge=1, description="after so many the stage stops")
    rollback_lr: float = Field(
        default=0.5, gt=0, le=1, description="the learning rate is multiplied by this at each rollback"
    )

    def rules(self) -> dict[str, Guard]:
        """The rules by name."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Guard)}


class AuditParams(Model):
    """What the rewards must show before RL starts, and in `r1pipe audit rewards`. Not part of a fingerprint. All thresholds are our choice."""

    before_training: bool = Field(
        default=True,
        description="audit a sample before the first update; the stage stops with exit code 1 above a threshold",
    )
    sample: int = Field(
        default=16, ge=1, description="prompts that are scored before training; every gold answer is parsed"
    )
    max_unparseable: float = Field(default=0.01, ge=0, le=1, description="share of gold answers that do not parse")
    min_gold: float = Field(default=0.98, ge=0, le=1, description="mean score of gold solutions by accuracy and code")
    max_adversarial: float = Field(
        default=0.02, ge=0, le=1, description="mean score by a reward of responses that deserve 0 of it"
    )
    max_unjudged: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of responses with good gold on which a required reward returns None",
    )
    max_disagreement: float = Field(
        default=0.05, ge=0, le=1, description="share of responses on which accuracy and TRL's accuracy_reward differ"
    )


Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
PLAIN_DRAW = {
    "top_k": (0, None),
    "min_p": (0, None),
    "repetition_penalty": (1, None),
    "generation_kwargs": ({}, None),
}  # TRL's options that change nothing
LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # TRL 1.16's


class VLLMRollout(Model):
    """Rollouts from vLLM through TRL: in the training process (colocated), or a server beside it. The numbers are our choice, where not said TRL's."""

    memory: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="colocated: share of the GPU's memory for vLLM's weights and cache (TRL's default)",
    )
    tensor_parallel: int = Field(default=1, ge=1, description="colocated: ranks that share one copy of the model")
    sleep: bool = Field(
        default=False,
        description="colocated: vLLM gives its memory back while the policy is updated; waking costs a sync of the weights",
    )
    max_model_length: int | None = Field(
        default=None, ge=1, description="colocated: tokens of prompt and response; none = what the model allows"
    )
    server_url: str | None = Field(
        default=None, description="server: http://host:port of `vllm serve` with --logprobs-mode processed_logprobs"
    )
    server_timeout: float = Field(
        default=240.0, gt=0, description="server: seconds to wait until it answers (TRL's default)"
    )
    group_port: int = Field(
        default=51216, ge=1, le=65535, description="server: port over which the weights go to it (TRL's default)"
    )
    correction: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = Field(
        default="sequence_mask",
        description="importance correction for the gap between vLLM's log-probs and the trainer's; *_mask drops what is above the cap (TRL's default)",
    )
    correction_cap: float = Field(default=3.0, gt=0, description="upper bound of the ratio (TRL's default)")
    correction_floor: float | None = Field(default=None, gt=0, description="lower bound of the ratio; none = no bound")

    @model_validator(mode="after")
    def _bounds(self) -> VLLMRollout:
        if self.correction_floor is not None and self.correction_floor >= self.correction_cap:
            raise ValueError(
                f"correction_floor {self.correction_floor} must be below correction_cap {self.correction_cap}"
            )
        return self


class GRPOParams(Training):
    """Group relative policy optimisation (v2 2.1, 3.2.1; DeepSeekMath 4.1.1)."""

    lr: float = Field(default=3e-6, gt=0, description="v2 2.1; schedule not published, constant is our choice")
    beta: float = Field(default=0.001, ge=0, description="weight of the k3 KL to the reference, in the loss (v2 2.1)")
    epsilon: float = Field(
        default=10.0,
        gt=0,
        description="clip range of the ratio: v2 3.2.1 for stage 1; for R1-Zero not published, the same is our choice",
    )
    num_generations: int = Field(default=16, ge=2, description="responses a question (v2 2.1)")
    batch_size: int = Field(default=512, ge=2, description="completions an update: 32 questions x 16 (v2 2.1)")
    minibatches_per_rollout: int = Field(
        default=16, ge=1, description="updates a rollout: 8,192 outputs in 16 minibatches (v2 2.1)"
    )
    inner_epochs: int = Field(default=1, ge=1, description="passes over a rollout (v2 2.1)")
    ref_replace_every: Annotated[int, Field(ge=1)] | None = Field(
        default=400,
        description="updates until the reference becomes the policy (v2 2.1); none = it stays where training began",
    )
    lora: dict[str, Any] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="peft.LoraConfig's arguments; none = all weights (the paper trains all)",
    )
    loss_type: str = Field(
        default="grpo",
        description="per token, 1/|o_i| (DeepSeekMath eq. 3); ablations: dr_grpo (arXiv 2503.20783), dapo, bnpo, cispo, sapo, luspo, vespo",
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        default="group", description="advantage = (r - mean) / std of the group (v2 eq. 3)"
    )
    multi_objective_aggregation: Aggregation = Field(
        default="sum_then_normalize",
        exclude_if=lambda value: value == "sum_then_normalize",
        description="rewards are summed, then normalised in the group (v2 eq. 3, 4); normalize_then_sum = each on its own first (GDPO, arXiv 2601.05242)",
    )
    epsilon_high: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda value: value is None,
        description="upper clip range where it differs from epsilon ('clip higher': DAPO, arXiv 2503.14476, 0.28 beside 0.2); none = epsilon",
    )
    importance_level: Literal["token", "sequence"] = Field(
        default="token",
        exclude_if=lambda value: value == "token",
        description="ratio of each token (v2 eq. 1), or one of the whole response (GSPO, arXiv 2507.18071; with loss_type grpo)",
    )
    mask_truncated: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="responses cut at max_tokens do not count in the loss (DAPO's overlong filtering)",
    )
    resample: int = Field(
        default=0,
        ge=0,
        exclude_if=lambda value: not value,
        description="groups whose rewards are all equal are replaced by groups of other prompts, in up to so many rounds a rollout (DAPO's dynamic sampling)",
    )
    skip_no_signal: bool = Field(
        default=False,
        exclude_if=lambda value: not value,
        description="groups whose rewards are all equal cost no update: neither their KL to the reference nor their entropy counts",
    )
    rollout: Literal["hf", "vllm", "vllm-server"] = Field(
        default="hf",
        exclude_if=lambda value: value == "hf",
        description="what draws responses: PyTorch here, vLLM on the same GPUs, or a vLLM server",
    )
    vllm: VLLMRollout | None = Field(
        default=None, exclude_if=lambda value: value is None, description="of rollout: vllm and vllm-server"
    )
    microbatch_tokens: int | Literal["auto", "rows"] = Field(
        default="auto",
        exclude_if=lambda value: value == "auto",
        description="tokens of a forward pass and device, packed without padding; auto = by the free memory on CUDA; rows = microbatches of rows, as on a CPU",
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        exclude_if=lambda value: value == "auto",
        description="torch.compile of the layers, for packed rows and rollout: hf; auto = on GPUs, from 50 updates and 100M parameters on (our choice)",
    )
    phases: list[Phase] = Field(min_length=1)
    eval_every: int = Field(
        default=100, ge=1, description="updates between scores of the held-out prompts (our choice)"
    )
    eval_prompts: int = Field(default=64, ge=0, description="held-out prompts scored each time (our choice)")
    keep: Literal["last", "best"] = Field(
        default="last", description="which policy becomes the checkpoint, by the held-out score (our choice)"
    )
    guards: Guards = Field(
        default=Guards(), description="rules that watch the training; not part of the fingerprint (our choice)"
    )

    @model_validator(mode="after")
    def _divides(self) -> GRPOParams:
        if self.batch_size % self.num_generations:
            near = max(self.num_generations, self.batch_size // self.num_generations * self.num_generations)
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of num_generations {self.num_generations}; nearest: {near} or {near + self.num_generations}"
            )
        if self.lora is not None and self.beta > 0 and self.ref_replace_every is not None:
            raise ValueError(
                "with lora the reference is the base without its adapter and is never replaced: set ref_replace_every: null (KL to the base), or beta: 0"
            )
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"there is no loss_type `{self.loss_type}`: use one of {', '.join(LOSS_TYPES)}")
        if self.epsilon_high is not None and self.loss_type != "cispo" and self.epsilon_high < self.epsilon:
            raise ValueError(
                f"epsilon_high {self.epsilon_high} is below epsilon {self.epsilon}: the clip range would be narrower above than below"
            )
        if isinstance(self.microbatch_tokens, int) and self.microbatch_tokens < 1:
            raise ValueError("microbatch_tokens must be at least 1")
        if self.microbatch is not None and isinstance(self.microbatch_tokens, int):
            raise ValueError("microbatch (rows) and microbatch_tokens exclude each other: leave one out")
        self._of_the_rollout()
        back = [name for name, guard in self.guards.rules().items() if guard.action == "rollback"]
        if back and self.save_every is None:
            raise ValueError(
                f"guards.{back[0]} rolls back to a checkpoint, and none is saved: set save_every, or action: pause"
            )
        for name in back:
            last = self._last_good(name)
            if self.save_every is not None and self.save_every > last:
                what = f"guards.{name} can never roll back: the first checkpoint is of update {self.save_every} (save_every)"
                raise ValueError(
                    f"{what}, and what it can find in {self.steps} updates begins after update {max(0, last)} at the latest; or action: pause"
                )
        return self

    def _last_good(self, rule: str) -> int:
        """The last update that a finding of a rule can leave untouched: it looks when a rollout begins, at the rollouts before."""
        updates = self.minibatches_per_rollout * self.inner_epochs
        if rule == "non_finite":
            return self.steps - 1 - int(self.guards.non_finite.limit)
        return self.steps - 1 - updates * (1 if rule == "format_up_accuracy_down" else self.guards.window)

    def _of_the_rollout(self) -> None:
        if self.compile is True and self.microbatch_tokens == "rows":
            raise ValueError("compile: true would be ignored: it is of packed rows, and microbatch_tokens is rows")
        if self.rollout == "hf" and not self.trl.get("use_transformers_continuous_batching"):
            for name, plain in PLAIN_DRAW.items():
                if self.trl.get(name) not in plain:
                    raise ValueError(
                        f"trl.{name} would be ignored: rollout hf draws by temperature and top_p alone; rollout: vllm, or leave it out"
                    )
        if self.rollout == "hf" and self.vllm is not None:
            raise ValueError("`vllm` would be ignored: rollout is hf")
        if self.rollout == "vllm-server" and (self.vllm is None or self.vllm.server_url is None):
            raise ValueError("rollout: vllm-server needs vllm: {server_url: http://host:port}")
        of_the_other = (
            ("server_url", "server_timeout", "group_port")
            if self.rollout == "vllm"
            else ("memory", "tensor_parallel", "sleep", "max_model_length")
        )
        if self.vllm is not None and (ignored := self.vllm.changed(of_the_other)):
            raise ValueError(f"vllm.{ignored[0]} would be ignored: rollout is {self.rollout}")

    @property
    def steps(self) -> int:
        """Policy updates over all phases."""
        return sum(phase.steps for phase in self.phases)
