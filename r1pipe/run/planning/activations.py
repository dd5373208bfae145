"""How a stage trains, and what the backward pass reads of a layer: the activations, counted tensor by tensor.

tests/run/planning/test_activations.py counts them a second time, on the step that is really made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from r1pipe.run.planning.model_shape import ModelShape

FLOAT = 4
HALF = 2

Precision = Literal["autocast", "half", "frozen", "float"]
"""autocast: float32 weights, passes in bf16. half: bf16 weights, which DeepSpeed trains with float32 masters.
frozen: bf16 weights that are not trained, under an adapter in float32. float: float32 alone, as on a CPU."""


@dataclass(frozen=True)
class Adapter:
    """LoRA on some of a layer's matrices.

    Attributes:
        rank: of its matrices.
        attention_in: how many of queries, keys and values have one.
        attention_out: whether the output projection has one.
        mlp_in: how many of gate and up have one.
        mlp_out: whether down has one.
    """

    rank: int = 8
    attention_in: int = 2
    attention_out: int = 0
    mlp_in: int = 0
    mlp_out: int = 0

    def parameters(self, shape: ModelShape) -> float:
        """Trained parameters; queries, keys and values count as the mean of them."""
        in_out = shape.queries + 2 * shape.key_heads * shape.key_width
        wide = in_out / 3
        ends = self.attention_in * (shape.hidden + wide)
        ends += self.attention_out * (shape.outputs + shape.hidden)
        ends += (self.mlp_in + self.mlp_out) * (shape.hidden + shape.inner)
        return self.rank * shape.layers * ends


@dataclass(frozen=True)
class Rollout:
    """What RL keeps on the GPU beside the policy that is trained.

    Attributes:
        rows, columns: sequences drawn at a time, and the tokens of each, prompt included; 0 = nothing is drawn here.
        twin: a bf16 copy of the policy draws, through CUDA graphs.
        reference: a frozen model of the same size stands beside the policy.
        vllm_bytes: what vLLM takes on this GPU, weights and cache.
        models: bytes of reward models.
    """

    rows: int = 0
    columns: int = 0
    twin: bool = False
    reference: bool = False
    vllm_bytes: float = 0.0
    models: float = 0.0


@dataclass(frozen=True)
class Training:
    """How one stage trains.

    Attributes:
        tokens: of the largest pass on a GPU.
        passes: forward and backward passes of an update on a GPU.
        head: `linear` is SFT's loss, `fused` is RL's, `reward` has one output.
        profile: of the launch block.
        ranks: over all machines.
        offload: of the launch block.
        checkpointing: activations are computed again in the backward pass.
        compiled: layers are compiled.
        repeated_keys: the attention kernel wants as many key heads as query heads.
    """

    shape: ModelShape
    tokens: int
    passes: int = 2
    head: Literal["linear", "fused", "reward"] = "linear"
    profile: str = "process"
    ranks: int = 1
    offload: Literal["none", "optimizer", "all"] = "none"
    adapter: Adapter | None = None
    frozen_half: bool = False
    checkpointing: bool = False
    compiled: bool = False
    gpu: bool = True
    repeated_keys: bool = False
    rollout: Rollout = field(default_factory=Rollout)

    @property
    def zero(self) -> int:
        """The stage of ZeRO; 0 without it."""
        return int(self.profile[4:]) if self.profile.startswith("zero") else 0

    @property
    def precision(self) -> Precision:
        if not self.gpu:
            return "float"
        if self.zero:
            return "half"
        return "frozen" if self.adapter and self.frozen_half else "autocast"

    @property
    def trained(self) -> float:
        """Parameters with gradients and moments."""
        return self.adapter.parameters(self.shape) if self.adapter else self.shape.parameters


def activations(training: Training) -> float:
    """What the backward pass reads, of all layers."""
    shape = training.shape
    per_token = kept_per_token(training)
    if training.checkpointing:
        # A layer's input alone.
        per_token = stream_bytes(training) * shape.hidden
    return training.tokens * shape.layers * per_token


def stream_bytes(training: Training) -> int:
    """Bytes of a number of the residual stream, which has the type of the embedding."""
    return HALF if training.precision in ("half", "frozen") else FLOAT


def kept_per_token(training: Training) -> float:
    """Bytes a token of one layer that the backward pass reads.

    Counted tensor by tensor (torch.autograd.graph.saved_tensors_hooks; tests/run/planning/test_activations.py does it
    again). D is the width, I the inner width.
    """
    shape = training.shape
    width = shape.hidden
    inner = shape.mlp_width
    attention = _attention(training)
    if training.precision == "float":
        # As autocast, with one tensor in the place of each group of casts: input, normalised and weighed, twice.
        return 6 * FLOAT * width + 4 * FLOAT * inner + 2 * attention
    if training.compiled:
        # The norms are computed again. Kept are the layer's input, the attention's contribution, both norms' results
        # in bf16, and of the MLP gate, up and their product.
        return (stream_bytes(training) + 3 * HALF) * width + 3 * HALF * inner + attention
    if training.adapter is not None:
        return _layer_under_adapter(
            training,
            training.adapter,
            attention,
        )
    # Gate, its activation, up and the product.
    mlp = 4 * HALF * inner
    if training.precision == "half":
        # Each of two norms: its input in float32, the normalised values and the result in bf16.
        return 2 * (FLOAT + 2 * HALF) * width + mlp + attention
    # Each of two norms: its input and the normalised values in float32. Its result is cast to bf16 once for each of
    # the five matrices that read it.
    return (4 * FLOAT + 5 * HALF) * width + mlp + attention


def _attention(training: Training) -> float:
    """Bytes a token of queries, keys, values, outputs and normalisers, as the kernel keeps them."""
    shape = training.shape
    key_heads = shape.heads if training.repeated_keys else shape.key_heads
    width = shape.key_width
    value_width = shape.value_width
    if shape.latent:
        # The kernel wants one width for keys and values: narrower ones are filled up with zeros, and what is cropped
        # of the output is copied for the next matrix.
        value_width = width
    numbers = shape.heads * (width + value_width) + key_heads * (width + value_width)
    if shape.latent:
        numbers += shape.outputs + shape.query_rank + shape.latent
    return HALF * numbers + FLOAT * shape.heads


def _layer_under_adapter(training: Training, adapter: Adapter, attention: float) -> float:
    """The same where an adapter is trained: a frozen matrix and a frozen norm need not know what they were given."""
    shape = training.shape
    width = shape.hidden
    # Each matrix of the adapter keeps its own input in bf16.
    inputs = (adapter.attention_in + adapter.mlp_in) * width + adapter.attention_out * shape.outputs
    inputs += adapter.mlp_out * shape.mlp_width
    norms = 2 * FLOAT * width
    # Gate, its activation and up.
    return norms + 3 * HALF * shape.mlp_width + HALF * inputs + attention
