"""The pydantic bases that stages declare themselves with.

Every field carries its unit, meaning and source: a paper section (v2 = arXiv 2501.12948v2), or 'our choice'. A default
stands here and nowhere else. Batch sizes are global; per-device numbers are derived at launch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class PathOr:
    """Marks a str field (`Annotated[str, PathOr("chat")]`) as a path unless it is one of these words.

    Path fields (these, and fields of type pathlib.Path) are relative to the YAML that states them, `~` and `${VAR}` expand,
    the file must exist, and its content is what enters the fingerprint.
    """

    words: tuple[str, ...]

    def __init__(self, *words: str) -> None:
        object.__setattr__(self, "words", words)


class Model(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _over_the_default(cls, data: Any) -> Any:
        """A block that states part of a field is laid over the field's default: `sft: {lr: 8e-5}` keeps the stage's own batch size."""
        if not isinstance(data, dict):
            return data
        return {name: _laid_over(cls.model_fields.get(name), value) for name, value in data.items()}


def _laid_over(field: FieldInfo | None, value: Any) -> Any:
    if field is None or not isinstance(field.default, Model) or not isinstance(value, dict):
        return value
    stated = {name: getattr(field.default, name) for name in field.default.model_fields_set}
    return stated | value


class TextFile(Model):
    """A text that is too long for the YAML; its content is what enters the fingerprint."""

    file: Path = Field(description="in UTF-8")


def _no_path(text: str) -> str:
    if re.fullmatch(r"\S+\.(txt|md|jsonl?|ya?ml)", text):
        raise ValueError(f"a text is wanted, and this is the name of a file: write {{file: {text}}}")
    return text


Text = Annotated[str, AfterValidator(_no_path)] | TextFile
"""A text as it stands in the YAML, or `{file: PATH}`; r1pipe.data.render.read_text reads it."""


class Ports(Model):
    """Base of a stage's Inputs and Outputs: each field's type is an Artifact, `Artifact | None`, or `dict[str, Artifact]`."""


class Slurm(Model):
    """What goes into the sbatch header."""

    partition: str | None = None
    time: str | None = Field(default=None, description="HH:MM:SS")
    gpus_per_node: int = Field(default=8, ge=1)
    extra: list[str] = Field(default_factory=list, description="further #SBATCH lines")


class Launch(Model):
    """How a stage becomes processes. Not part of its fingerprint."""

    profile: Literal["process", "ddp", "zero1", "zero2", "zero3", "fsdp2"] = Field(default="process", description="configs/accelerate/<profile>.yaml")
    num_processes: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(default=1, description="ranks on a machine; auto = one a GPU")
    nodes: int = Field(default=1, ge=1, description="machines, which see the same files; through Slurm or a hostfile")
    threads: int | None = Field(default=None, ge=1, description="CPU threads a rank; none = cores / ranks")
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="what lives in CPU memory: optimizer = its states and step (zero1, zero2, zero3); all = the weights too (zero3, fsdp2)"
    )
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="of zero1, zero2, zero3: laid over configs/accelerate/<profile>.json")
    hostfile: Path | None = Field(default=None, description="the machines, a line `HOST slots=8` each as DeepSpeed has it; ranks are started there over ssh")
    slurm: Slurm | None = None


class StageConfig(Model):
    """Base of every stage's Config. `launch` and `logging` are not fingerprinted."""

    seed: int = Field(default=0, ge=0, description="every random draw of the stage derives from it (our choice)")
    launch: Launch = Launch()

    def mismatch(self, given: set[str]) -> str:
        """Why this config does not go with the inputs that are given; empty where it does. Asked when the YAML is read.

        Args:
            given: names of ports; of those that hold several, `port.key` too.
        """
        return ""


# --- models behind a service -------------------------------------------------------------------------------------------


class ServedModel(Model):
    """A language model behind any service that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, an API."""

    base_url: str = Field(description="as OpenAI's clients take it: http://127.0.0.1:8000/v1")
    model: str = Field(description="the name that the service knows the model by")
    api_key_env: str | None = Field(default=None, description="name of the environment variable with the key; none = no key")
    timeout: float = Field(default=60.0, gt=0, description="seconds for one request")
    retries: int = Field(default=4, ge=0, description="further tries after a timeout, 429, 5xx or an unreadable reply, with growing pauses")
    max_in_flight: int = Field(default=16, ge=1, description="requests at a time, a rank")
    extra: dict[str, Any] = Field(default_factory=dict, description="more fields of the request, as response_format; null leaves one of ours out")


class JudgeEndpoint(ServedModel):
    """A language model as a judge."""

    max_tokens: int = Field(default=1024, ge=1, description="of the judge's reply")
    guidelines: Text | None = Field(
        default=None, exclude_if=lambda value: value is None, description="what else it should go by: a text, or {file: PATH}; of a reward a text"
    )


class SamplingEndpoint(ServedModel):
    """A language model that is sampled from. Only `model` and `extra` enter the fingerprint: the rest is how it is asked. The numbers are our choice."""

    timeout: float = Field(default=1800.0, gt=0, description="seconds for one whole response")
    retries: int = Field(default=8, ge=0, description="further tries after a timeout, 429, 5xx or an unreadable reply, with growing pauses")
    max_in_flight: int = Field(default=64, ge=1, description="requests at a time, a rank")
    price_in: float = Field(default=0.0, ge=0, description="money for a million prompt tokens")
    price_out: float = Field(default=0.0, ge=0, description="money for a million response tokens")
    budget_tokens: int | None = Field(default=None, ge=1, description="prompt and response tokens of the stage; nothing more is asked once they are used")
    budget_money: float | None = Field(default=None, gt=0, description="in the prices' currency; nothing more is asked once it is spent")

    @model_validator(mode="after")
    def _priced(self) -> SamplingEndpoint:
        if self.budget_money is not None and not self.price_in + self.price_out:
            raise ValueError("budget_money needs price_in and price_out")
        return self


# --- sampling ---------------------------------------------------------------------------------------------------------


class Sampling(Model):
    """How responses are drawn."""

    temperature: float = Field(default=0.6, ge=0, description="0 = greedy; evaluation uses 0.6 (v2 D.1), cold-start sampling 1.0 (v2 B.3.2)")
    top_p: float = Field(default=0.95, gt=0, le=1, description="v2 D.1")
    max_tokens: int = Field(default=32768, ge=1, description="tokens of a response (v2 D.1)")
    n: int = Field(default=1, ge=1, description="responses a prompt")
    batch_size: int = Field(default=256, ge=1, description="sequences a forward pass, per process; of vllm: sequences handed over at a time (our choice)")
    backend: Literal["hf", "vllm", "openai"] = Field(
        default="hf", exclude_if=lambda value: value == "hf", description="hf = PyTorch here, vllm = vLLM here, openai = a service (r1pipe/generation)"
    )
    vllm: dict[str, Any] = Field(default_factory=dict, exclude_if=lambda value: not value, description="of vllm: vllm.LLM's arguments")
    endpoint: SamplingEndpoint | None = Field(default=None, exclude_if=lambda value: value is None, description="of openai: the service")

    @model_validator(mode="after")
    def _of_the_backend(self) -> Sampling:
        if (self.backend == "openai") != (self.endpoint is not None):
            raise ValueError("`backend: openai` and `endpoint: {base_url: ..., model: ...}` go together")
        if self.vllm and self.backend != "vllm":
            raise ValueError(f"`vllm` would be ignored: the backend is {self.backend}")
        return self

    def mismatch(self, has_model: bool) -> str:
        """Why it cannot be sampled like this with or without a checkpoint; empty where it can."""
        if self.endpoint is not None and has_model:
            return f"two models to sample from: the input `model`, and `{self.endpoint.model}` behind sampling.endpoint"
        return "" if self.endpoint is not None or has_model else f"no model to sample from: `backend: {self.backend}` samples from the input `model`"


Engine = Literal["local", "ray"]


class EngineConfig(StageConfig):
    """Base of the Configs of stages that sample and verify, here or on a Ray cluster. Which does not enter the fingerprint."""

    engine: Engine = Field(
        default="local", exclude_if=lambda value: value == "local", description="ray = over the machines of a Ray cluster (r1pipe/generation/cluster.py)"
    )

    @model_validator(mode="after")
    def _spread_once(self) -> EngineConfig:
        if self.engine == "ray" and (self.launch.num_processes != 1 or self.launch.nodes != 1):
            raise ValueError("`engine: ray` spreads the work itself; leave out launch.num_processes and launch.nodes")
        return self


class SamplingConfig(EngineConfig):
    """Base of the Configs of stages that sample from one model, which may be behind a service, and keep some rows of each prompt."""

    sampling: Sampling = Sampling()
    stop_after: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda value: value is None,
        description="a prompt of which so many different rows are kept is sampled no further; none = always sampling.n (our choice)",
    )
    per_prompt: int = Field(default=1, ge=1, description="rows kept of one prompt, samples before reuse (not published; our choice)")

    @model_validator(mode="after")
    def _stops_late_enough(self) -> SamplingConfig:
        if self.stop_after is not None and not self.per_prompt <= self.stop_after <= self.sampling.n:
            raise ValueError(f"stop_after {self.stop_after} must be at least per_prompt ({self.per_prompt}) and at most sampling.n ({self.sampling.n})")
        return self

    def mismatch(self, given: set[str]) -> str:
        return self.sampling.mismatch("model" in given)


TemplateName = Annotated[str, PathOr("chat", "r1-zero")]
"""How a prompt becomes text: `chat` = the tokenizer's chat template; `r1-zero` = v2 Table 1 in our wording; else a text file holding {prompt}."""


# --- rewards ----------------------------------------------------------------------------------------------------------


class RewardSpec(Model):
    """One component of the reward; components are summed (v2 eq. 4, 8)."""

    name: str = Field(description="a name in r1pipe.rewards.REWARDS, or package.module:function")
    weight: float = Field(default=1.0, description="the paper adds components with the same weight (v2 eq. 4)")
    params: dict[str, Any] = Field(default_factory=dict)
    required: bool | None = Field(default=None, description="a row on which this returns None is left out of its group; none = the reward's own default")
    domains: list[str] | None = Field(default=None, description="rows it applies to; none = wherever it can judge")


# --- training ---------------------------------------------------------------------------------------------------------


class Training(Model):
    """What all training stages share."""

    lr: float = Field(gt=0, description="peak learning rate")
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="share of the steps (not published; our choice)")
    weight_decay: float = Field(default=0.0, ge=0, description="not published; our choice")
    adam_betas: tuple[float, float] = Field(default=(0.9, 0.95), description="not published; our choice")
    max_grad_norm: float = Field(default=1.0, gt=0, description="not published; our choice")
    microbatch: int | None = Field(default=None, ge=1, description="sequences a forward pass and device; none = derived")
    gradient_checkpointing: bool | Literal["never"] = Field(
        default=False, description="recompute activations to save memory: true = always; false = where packed SFT is estimated not to fit; never"
    )
    bf16: bool | Literal["auto"] = Field(default="auto", description="auto = on GPUs that have it, off on CPU")
    save_every: int | None = Field(default=None, ge=1, description="optimizer steps between checkpoints to resume from; none = only at the end")
    trl: dict[str, Any] = Field(default_factory=dict, description="passed on to TRL's config; may not shadow a field above")


class SFTParams(Training):
    """Supervised fine-tuning (v2 B.4.2)."""

    lr: float = Field(default=5e-5, gt=0, description="v2 B.4.2")
    lr_end_ratio: float = Field(default=0.1, ge=0, le=1, description="cosine from lr to lr * this (v2 B.4.2: 5e-5 -> 5e-6; B.4.3: 1/10)")
    epochs: float = Field(default=2.0, gt=0, description="v2 B.4.2: 2-3; v1 2.3.3: 2")
    batch_size: int = Field(default=128, ge=1, description="sequences (v2 B.4.2)")
    max_length: int = Field(default=32768, ge=1, description="tokens (v2 B.4.2)")
    max_steps: int | None = Field(default=None, ge=1, description="optimizer steps; stops before the epochs are over")
    lora: dict[str, Any] | None = Field(default=None, description="peft.LoraConfig's arguments; none = all weights")
    packing: bool | Literal["auto"] = Field(
        default="auto",
        exclude_if=lambda value: value == "auto",
        description="several rows in one pass, no row sees another; auto = on GPUs; the gradients are those of padded batches (our choice)",
    )
    pack_tokens: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda value: value is None,
        description="of packing: tokens a forward pass and device; none = from 8,192 to 32,768 as many as fit without recomputing (our choice)",
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        exclude_if=lambda value: value == "auto",
        description="of packing: torch.compile of the layers; auto = on GPUs where training takes longer than ten minutes (our choice)",
    )


class Phase(Model):
    """A stretch of RL. Optimizer, scheduler, reference and step count go on from one phase to the next."""

    steps: int = Field(ge=1, description="policy updates (v2 Fig. 1: a step is one update)")
    max_tokens: int = Field(default=32768, ge=1, description="tokens of a response (v2 2.1, 3.2.1)")
    temperature: float = Field(default=1.0, gt=0, description="v2 2.1, 3.2.1: 1.0; 3.2.2: 0.7")
    prompts: dict[str, float] = Field(default_factory=lambda: {"prompts": 1.0}, description="input port -> share of the prompts (mix not published)")
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
        default="warn", description="pause = stop with a reason, exit code 1; rollback = go on from the last checkpoint before the trouble"
    )
    limit: float = Field(description="the rule's threshold, in the rule's unit")


class Guards(Model):
    """What must not happen during RL without a word. The limits are our choice: no run of the shipped recipe comes near them."""

    window: int = Field(default=4, ge=1, description="rollouts that a rule averages over before it speaks, and before it speaks again")
    non_finite: Guard = Field(default=Guard(action="pause", limit=0), description="updates in a row whose loss or gradient norm is not a number, above this")
    zero_signal: Guard = Field(default=Guard(limit=0.95), description="share of groups whose rewards are all equal, so that they teach nothing, above this")
    entropy: Guard = Field(default=Guard(limit=0.002), description="nats a token, below this: the policy has stopped exploring")
    kl: Guard = Field(default=Guard(limit=5.0), description="k3 estimate to the reference, nats a token, above this")
    length: Guard = Field(default=Guard(limit=0.5), description="share of responses cut off at max_tokens, above this")
    repetition: Guard = Field(default=Guard(limit=0.3), description="mean share of a response's 6-grams that it has said before, above this")
    format_up_accuracy_down: Guard = Field(
        default=Guard(limit=0.15),
        description="accuracy fell by this from its best window while format rose from its first: rewards are won without answers",
    )
    max_rollbacks: int = Field(default=2, ge=1, description="after so many the stage stops")
    rollback_lr: float = Field(default=0.5, gt=0, le=1, description="the learning rate is multiplied by this at each rollback")

    def rules(self) -> dict[str, Guard]:
        """The rules by name."""
        return {name: value for name in type(self).model_fields if isinstance(value := getattr(self, name), Guard)}


class AuditParams(Model):
    """What the rewards must show before RL starts, and in `r1pipe audit rewards`. Not part of a fingerprint. All thresholds are our choice."""

    before_training: bool = Field(default=True, description="audit a sample before the first update; the stage stops with exit code 1 above a threshold")
    sample: int = Field(default=16, ge=1, description="prompts that are scored before training; every gold answer is parsed")
    max_unparseable: float = Field(default=0.01, ge=0, le=1, description="share of gold answers that do not parse")
    min_gold: float = Field(default=0.98, ge=0, le=1, description="mean score of gold solutions by accuracy and code")
    max_adversarial: float = Field(default=0.02, ge=0, le=1, description="mean score by a reward of responses that deserve 0 of it")
    max_unjudged: float = Field(default=0.01, ge=0, le=1, description="share of responses with good gold on which a required reward returns None")
    max_disagreement: float = Field(default=0.05, ge=0, le=1, description="share of responses on which accuracy and TRL's accuracy_reward differ")


Aggregation = Literal["sum_then_normalize", "normalize_then_sum"]
LOSS_TYPES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")  # TRL 1.16's


class VLLMRollout(Model):
    """Rollouts from vLLM through TRL: in the training process (colocated), or a server beside it. The numbers are our choice, where not said TRL's."""

    memory: float = Field(default=0.3, gt=0, lt=1, description="colocated: share of the GPU's memory for vLLM's weights and cache (TRL's default)")
    tensor_parallel: int = Field(default=1, ge=1, description="colocated: ranks that share one copy of the model")
    sleep: bool = Field(default=False, description="colocated: vLLM gives its memory back while the policy is updated; waking costs a sync of the weights")
    max_model_length: int | None = Field(default=None, ge=1, description="colocated: tokens of prompt and response; none = what the model allows")
    server_url: str | None = Field(default=None, description="server: http://host:port of `vllm serve` with --logprobs-mode processed_logprobs")
    server_timeout: float = Field(default=240.0, gt=0, description="server: seconds to wait until it answers (TRL's default)")
    group_port: int = Field(default=51216, ge=1, le=65535, description="server: port over which the weights go to it (TRL's default)")
    correction: Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = Field(
        default="sequence_mask",
        description="importance correction for the gap between vLLM's log-probs and the trainer's; *_mask drops what is above the cap (TRL's default)",
    )
    correction_cap: float = Field(default=3.0, gt=0, description="upper bound of the ratio (TRL's default)")
    correction_floor: float | None = Field(default=None, gt=0, description="lower bound of the ratio; none = no bound")

    @model_validator(mode="after")
    def _bounds(self) -> VLLMRollout:
        if self.correction_floor is not None and self.correction_floor >= self.correction_cap:
            raise ValueError(f"correction_floor {self.correction_floor} must be below correction_cap {self.correction_cap}")
        return self


class GRPOParams(Training):
    """Group relative policy optimisation (v2 2.1, 3.2.1; DeepSeekMath 4.1.1)."""

    lr: float = Field(default=3e-6, gt=0, description="v2 2.1; schedule not published, constant is our choice")
    beta: float = Field(default=0.001, ge=0, description="weight of the k3 KL to the reference, in the loss (v2 2.1)")
    epsilon: float = Field(default=10.0, gt=0, description="clip range of the ratio: v2 3.2.1 for stage 1; for R1-Zero not published, the same is our choice")
    num_generations: int = Field(default=16, ge=2, description="responses a question (v2 2.1)")
    batch_size: int = Field(default=512, ge=2, description="completions an update: 32 questions x 16 (v2 2.1)")
    minibatches_per_rollout: int = Field(default=16, ge=1, description="updates a rollout: 8,192 outputs in 16 minibatches (v2 2.1)")
    inner_epochs: int = Field(default=1, ge=1, description="passes over a rollout (v2 2.1)")
    ref_replace_every: Annotated[int, Field(ge=1)] | None = Field(
        default=400, description="updates until the reference becomes the policy (v2 2.1); none = it stays where training began"
    )
    lora: dict[str, Any] | None = Field(
        default=None, exclude_if=lambda value: value is None, description="peft.LoraConfig's arguments; none = all weights (the paper trains all)"
    )
    loss_type: str = Field(
        default="grpo", description="per token, 1/|o_i| (DeepSeekMath eq. 3); ablations: dr_grpo (arXiv 2503.20783), dapo, bnpo, cispo, sapo, luspo, vespo"
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(default="group", description="advantage = (r - mean) / std of the group (v2 eq. 3)")
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
        default=False, exclude_if=lambda value: not value, description="responses cut at max_tokens do not count in the loss (DAPO's overlong filtering)"
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
        default="hf", exclude_if=lambda value: value == "hf", description="what draws responses: PyTorch here, vLLM on the same GPUs, or a vLLM server"
    )
    vllm: VLLMRollout | None = Field(default=None, exclude_if=lambda value: value is None, description="of rollout: vllm and vllm-server")
    microbatch_tokens: int | Literal["auto", "rows"] = Field(
        default="auto",
        exclude_if=lambda value: value == "auto",
        description="tokens of a forward pass and device, packed without padding; auto = by the free memory on CUDA; rows = microbatches of rows, as on a CPU",
    )
    compile: bool | Literal["auto"] = Field(
        default="auto",
        exclude_if=lambda value: value == "auto",
        description="torch.compile of the layers for packed rows; auto = on GPUs, where vLLM samples and there are 50 updates or more (our choice)",
    )
    phases: list[Phase] = Field(min_length=1)
    eval_every: int = Field(default=100, ge=1, description="updates between scores of the held-out prompts (our choice)")
    eval_prompts: int = Field(default=64, ge=0, description="held-out prompts scored each time (our choice)")
    keep: Literal["last", "best"] = Field(default="last", description="which policy becomes the checkpoint, by the held-out score (our choice)")
    guards: Guards = Field(default=Guards(), description="rules that watch the training; not part of the fingerprint (our choice)")

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
            raise ValueError(f"epsilon_high {self.epsilon_high} is below epsilon {self.epsilon}: the clip range would be narrower above than below")
        if isinstance(self.microbatch_tokens, int) and self.microbatch_tokens < 1:
            raise ValueError("microbatch_tokens must be at least 1")
        if self.microbatch is not None and isinstance(self.microbatch_tokens, int):
            raise ValueError("microbatch (rows) and microbatch_tokens exclude each other: leave one out")
        self._of_the_rollout()
        back = [name for name, guard in self.guards.rules().items() if guard.action == "rollback"]
        if back and self.save_every is None:
            raise ValueError(f"guards.{back[0]} rolls back to a checkpoint, and none is saved: set save_every, or action: pause")
        return self

    def _of_the_rollout(self) -> None:
        if self.compile is True and self.rollout == "hf":
            raise ValueError("compile: true needs rollout: vllm, since PyTorch's sampling here would compile for every length")
        stated = self.vllm.model_fields_set if self.vllm is not None else set()
        if self.rollout == "hf" and self.vllm is not None:
            raise ValueError("`vllm` would be ignored: rollout is hf")
        if self.rollout == "vllm-server" and (self.vllm is None or self.vllm.server_url is None):
            raise ValueError("rollout: vllm-server needs vllm: {server_url: http://host:port}")
        server = {"server_url", "server_timeout", "group_port"}
        colocated = {"memory", "tensor_parallel", "sleep", "max_model_length"}
        if ignored := sorted(stated & (server if self.rollout == "vllm" else colocated)):
            raise ValueError(f"vllm.{ignored[0]} would be ignored: rollout is {self.rollout}")

    @property
    def steps(self) -> int:
        """Policy updates over all phases."""
        return sum(phase.steps for phase in self.phases)


class RewardModelParams(Training):
    """Reward models, pairwise and pointwise (v2 3.1)."""

    lr: float = Field(default=6e-6, gt=0, description="v2 3.1")
    epochs: float = Field(default=1.0, gt=0, description="v2 3.1")
    batch_size: int = Field(default=256, ge=1, description="pairs or labels (v2 3.1)")
    max_length: int = Field(default=8192, ge=1, description="tokens in training; no limit when scoring (v2 3.1)")
    heldout: float = Field(default=0.1, gt=0, lt=1, description="share of the rows that measures and calibrates, never trained on (our choice)")
