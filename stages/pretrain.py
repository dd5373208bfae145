"""Pretraining: how the base models that ship with the package were made.

Reads     nothing; the documents are written by the embedded world
Writes    checkpoint (a base, with its tokenizer)
Paper     none: DeepSeek-R1 starts from DeepSeek-V3-Base. Everything here is our choice
Alone     r1pipe run-all configs/pretrain.yaml (one GPU, minutes)

The metrics tell the headroom that RL has: how often the base is right as it comes, and when it is made to think. Tests
hold these numbers.
"""

from __future__ import annotations

from pydantic import Field

from r1pipe.artifacts import Checkpoint
from r1pipe.here import Here
from r1pipe.schema import Model, Ports, StageConfig, Training


class Inputs(Ports):
    pass


class Outputs(Ports):
    checkpoint: Checkpoint


class Architecture(Model):
    """A Qwen2 model, embeddings tied."""

    hidden_size: int = Field(default=128, ge=1, le=2**16)
    layers: int = Field(default=4, ge=1, le=1000)
    """Decoder layers."""
    intermediate_size: int = Field(default=352, ge=1, le=2**20)
    heads: int = Field(default=4, ge=1, le=1024)
    kv_heads: int = Field(default=2, ge=1, le=1024)
    max_positions: int = Field(default=512, ge=1, le=2**24)
    """In tokens."""


class Pretraining(Training):
    lr: float = Field(default=3e-3, gt=0, le=1)
    warmup_ratio: float = Field(default=0.02, ge=0, lt=1)
    weight_decay: float = Field(default=0.1, ge=0, le=1)

    documents: int = Field(default=2_000_000, ge=1, le=10**9)
    """Documents written."""

    epochs: float = Field(default=2.0, gt=0, le=10_000)
    """Passes over them."""

    row_tokens: int = Field(default=256, ge=16, le=2**24)
    """Documents are joined and cut into rows of this many tokens."""

    batch_tokens: int = Field(default=131_072, ge=16, le=2**32)
    """Tokens an update."""


class Config(StageConfig):
    architecture: Architecture = Architecture()
    pretraining: Pretraining = Pretraining()

    probes: int = Field(default=1024, ge=0)
    """Held-out problems answered at the end."""


def run(config: Config, inputs: Inputs, outputs: Outputs, here: Here) -> dict[str, float]:
    """Train the tokenizer, write and pack the documents, train the base, measure its headroom."""
    from r1pipe.embedded.tokenizer import build_tokenizer
    from r1pipe.training.pretraining import headroom, packed_documents, train_base

    base = outputs.checkpoint.path
    pretraining = config.pretraining
    # The tokenizer first: the documents are packed by tokens.
    build_tokenizer(base)
    rows = packed_documents(base, pretraining.documents, pretraining.row_tokens, seed=config.seed, here=here)
    metrics = train_base(base, rows, config.architecture, pretraining, here=here, seed=config.seed)
    return metrics | headroom(base, config.probes, config.seed)
