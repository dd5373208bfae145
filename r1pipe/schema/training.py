"""Settings that all training stages share, and those of supervised fine-tuning and of reward models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from r1pipe.schema.base import Model

Beta = Annotated[float, Field(ge=0, lt=1)]


class Training(Model):
    """What all training stages share."""

    trl_config: ClassVar[str] = "transformers/training_args.py:TrainingArguments"
    """The class whose options `trl` takes: package, file and name."""

    lr: float = Field(gt=0, le=1)
    """Peak learning rate."""

    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps (not published; our choice)."""

    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Not published; our choice."""

    adam_betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Not published; our choice."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Not published; our choice."""

    microbatch: int | None = Field(default=None, ge=1)
    """Sequences of one forward pass on a device; none = derived."""

    gradient_checkpointing: bool | Literal["never"] = False
    """Recompute activations to save memory: true = always; false = where packed SFT is estimated not to fit; never."""

    bf16: bool | Literal["auto"] = "auto"
    """auto = on GPUs that have it, off on CPU."""

    save_every: int | None = Field(default=None, ge=1)
    """Updates between checkpoints to resume from; none = they are made by the clock."""

    save_minutes: float = Field(default=10.0, gt=0, le=100_000)
    """Where save_every is not set: minutes between checkpoints (our choice).

    They become more where checkpoints would take more than 3 % of the training's time.
    """

    keep_checkpoints: int = Field(default=2, ge=1, le=10_000)
    """The newest checkpoints to resume from that are kept; of RL also the best by held-out accuracy (our choice).

    RL whose guards may roll back keeps more where it needs them.
    """

    trl: dict[str, Any] = Field(default_factory=dict)
    """Passed on to TRL's config. It may not set what a field above sets."""


class SFTParams(Training):
    """Supervised fine-tuning (v2 B.4.2)."""

    trl_config: ClassVar[str] = "trl/trainer/sft_config.py:SFTConfig"

    lr: float = Field(default=5e-5, gt=0, le=1)
    """v2 B.4.2."""

    lr_end_ratio: float = Field(default=0.1, ge=0, le=1)
    """Cosine from lr to lr times this (v2 B.4.2: 5e-5 -> 5e-6; B.4.3: 1/10)."""

    epochs: float = Field(default=2.0, gt=0, le=10_000)
    """v2 B.4.2: 2-3; v1 2.3.3: 2."""

    batch_size: int = Field(default=128, ge=1, le=2**24)
    """Sequences of one update (v2 B.4.2)."""

    max_length: int = Field(default=32768, ge=1, le=2**24)
    """Tokens of a sequence (v2 B.4.2)."""

    positions: int | None = Field(default=None, ge=1, le=2**24)
    """Tokens of the longest sequence that the trained model has positions for; none = as many as the model has.

    The bases of two students (Qwen2.5-Math) have 4,096. RoPE gives more; training teaches them.
    """

    rope_theta: float | None = Field(default=None, gt=0)
    """The base of RoPE, with `positions`; none = the model's (the published students kept it; Open-R1: 300,000)."""

    max_steps: int | None = Field(default=None, ge=1)
    """Updates; training stops here even before the epochs are over."""

    lora: dict[str, Any] | None = None
    """Arguments of peft.LoraConfig; none = all weights are trained."""

    packing: bool = True
    """Several rows in one forward pass, where no row sees another.

    The gradients are those of padded batches, without the padding (our choice).
    """

    pack_tokens: int | None = Field(default=None, ge=1, le=2**24)
    """With packing: tokens of one forward pass on a device.

    None = from 8,192 to 32,768, as many as fit without recomputing (our choice).
    """

    compile: bool | Literal["auto"] = "auto"
    """With packing: torch.compile of the layers.

    auto = on GPUs where training is likely to take longer than a minute (our choice).
    """

    @model_validator(mode="after")
    def _theta_goes_with_positions(self) -> SFTParams:
        if self.rope_theta is not None and self.positions is None:
            raise ValueError("rope_theta is changed to give the model more positions: set `positions` too")
        return self


class RewardModelParams(Training):
    """Reward models (v2 3.1): pairwise ones."""

    trl_config: ClassVar[str] = "trl/trainer/reward_config.py:RewardConfig"

    lr: float = Field(default=6e-6, gt=0, le=1)
    """v2 3.1."""

    epochs: float = Field(default=1.0, gt=0, le=10_000)
    """v2 3.1."""

    batch_size: int = Field(default=256, ge=1, le=2**24)
    """Pairs or labels of one update (v2 3.1)."""

    max_length: int = Field(default=8192, ge=1, le=2**24)
    """Tokens in training; there is no limit when scoring (v2 3.1)."""

    heldout: float = Field(default=0.1, gt=0, lt=1)
    """Share of the rows that measures and calibrates, and is never trained on (our choice)."""


class PointwiseParams(RewardModelParams):
    """Reward models (v2 3.1): pointwise ones, for which TRL has no trainer."""

    trl_config: ClassVar[str] = Training.trl_config


class DPOParams(Training):
    """Direct preference optimisation (arXiv 2305.18290), which the paper does not use."""

    trl_config: ClassVar[str] = "trl/trainer/dpo_config.py:DPOConfig"

    lr: float = Field(default=5e-7, gt=0, le=1)
    """That of Zephyr (arXiv 2310.16944) and Tulu 3 (arXiv 2411.15124)."""

    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """That of Zephyr and Tulu 3."""

    beta: float = Field(default=0.1, gt=0, le=1000)
    """How much a log-ratio to the model of before counts; smaller lets the policy go further from it."""

    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "sppo_hard", "apo_zero", "apo_down"] = "sigmoid"
    """sigmoid = DPO's own; the others are TRL's."""

    epochs: float = Field(default=1.0, gt=0, le=10_000)

    batch_size: int = Field(default=128, ge=1, le=2**24)
    """Pairs of one update."""

    max_length: int = Field(default=8192, ge=1, le=2**24)
    """Tokens of a prompt with one of its responses; pairs with a longer one are left out."""

    heldout: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts whose pairs are measured and never trained on."""


class RowLimits(Model):
    """What the rows of an SFT stage may lack. It is checked before training, and is not part of a fingerprint.

    All limits are our choice.
    """

    max_empty_thinking: float = Field(default=0.9, ge=0, le=1)
    """Share of the replies without thinking: with nearly all, the thinking was lost (22 % of v2 Table 5 need none)."""

    max_empty_replies: float = Field(default=0.01, ge=0, le=1)
    """Share of the rows whose reply is empty, or whose thinking has no end; up to it they are left out."""

    max_unknown_keys: float = Field(default=0.01, ge=0, le=1)
    """Share of the rows whose messages have keys that nothing reads, where thinking may stand under a new name."""

    max_control_tokens: float = Field(default=0.01, ge=0, le=1)
    """Share of the rows whose texts hold a chat template's tokens (`<|im_start|>`): they were rendered already."""
