"""What training stages share, supervised fine-tuning, reward models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from r1pipe.schema.base import Model


class Training(Model):
    """What all training stages share."""

    lr: float = Field(gt=0, description="peak learning rate")
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1, description="share of the steps (not published; our choice)")
    weight_decay: float = Field(default=0.0, ge=0, description="not published; our choice")
    adam_betas: tuple[float, float] = Field(default=(0.9, 0.95), description="not published; our choice")
    max_grad_norm: float = Field(default=1.0, gt=0, description="not published; our choice")
    microbatch: int | None = Field(
        default=None, ge=1, description="sequences a forward pass and device; none = derived"
    )
    gradient_checkpointing: bool | Literal["never"] = Field(
        default=False,
        description="recompute activations to save memory: true = always; false = where packed SFT is estimated not to fit; never",
    )
    bf16: bool | Literal["auto"] = Field(default="auto", description="auto = on GPUs that have it, off on CPU")
    save_every: int | None = Field(
        default=None, ge=1, description="optimizer steps between checkpoints to resume from; none = only at the end"
    )
    trl: dict[str, Any] = Field(
        default_factory=dict, description="passed on to TRL's config; may not shadow a field above"
    )


class SFTParams(Training):
    """Supervised fine-tuning (v2 B.4.2)."""

    lr: float = Field(default=5e-5, gt=0, description="v2 B.4.2")
    lr_end_ratio: float = Field(
        default=0.1, ge=0, le=1, description="cosine from lr to lr * this (v2 B.4.2: 5e-5 -> 5e-6; B.4.3: 1/10)"
    )
    epochs: float = Field(default=2.0, gt=0, description="v2 B.4.2: 2-3; v1 2.3.3: 2")
    batch_size: int = Field(default=128, ge=1, description="sequences (v2 B.4.2)")
    max_length: int = Field(default=32768, ge=1, description="tokens (v2 B.4.2)")
    max_steps: int | None = Field(default=None, ge=1, description="optimizer steps; stops before the epochs are over")
    lora: dict[str, Any] | None = Field(default=None, description="peft.LoraConfig's arguments; none = all weights")
    packing: bool = Field(
        default=True,
        exclude_if=lambda value: value is True,
        description="several rows in one pass, no row sees another: the gradients of padded batches without the padding (our choice)",
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


class RewardModelParams(Training):
    """Reward models, pairwise and pointwise (v2 3.1)."""

    lr: float = Field(default=6e-6, gt=0, description="v2 3.1")
    epochs: float = Field(default=1.0, gt=0, description="v2 3.1")
    batch_size: int = Field(default=256, ge=1, description="pairs or labels (v2 3.1)")
    max_length: int = Field(default=8192, ge=1, description="tokens in training; no limit when scoring (v2 3.1)")
    heldout: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of the rows that measures and calibrates, never trained on (our choice)",
    )
