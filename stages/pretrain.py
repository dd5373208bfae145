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

    hidden_size: int = 128
    layers: int = 4
    """Decoder layers."""
    intermediate_size: int = 352
    heads: int = 4
    kv_heads: int = 2
    max_positions: int = 512
    """In tokens."""


class Pretraining(Training):
    lr: float = Field(default=3e-3, gt=0)
    warmup_ratio: float = 0.02
    weight_decay: float = 0.1

    documents: int = Field(default=2_000_000, ge=1)
    """Documents written."""

    epochs: float = Field(default=2.0, gt=0)
    """Passes over them."""

    row_tokens: int = Field(default=256, ge=16)
    """Documents are joined and cut into rows of this many tokens."""

    batch_tokens: int = Field(default=131_072, ge=16)
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
