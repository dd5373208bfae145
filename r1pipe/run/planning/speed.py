"""Seconds, from floating-point operations and bytes.

Three things take time in a pass: matrices, at a share of the card's arithmetic; element-wise work, at a share of its
memory's bandwidth; and the CPU, which starts every kernel. What a pass keeps for the backward pass says how much
element-wise work there is, since each kept byte is written, and read and written again in several forms.

Drawing reads all weights and the cache for each token, once for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1pipe.run.planning.cards import Card
from r1pipe.run.planning.footprint import HALF, Training, kept_per_token
from r1pipe.run.planning.model_shape import ModelShape

# Operations of a token for each parameter that it is multiplied with: forward, and backward to what was given and to
# the weights (Kaplan et al., arXiv 2001.08361, 2.1).
FORWARD = 2
TO_INPUTS = 2
TO_WEIGHTS = 2


@dataclass(frozen=True)
class Efficiency:
    """What was reached of a card.

    Attributes:
        matrices: share of the data sheet's operations that matrix products reach.
        traffic: bytes that element-wise kernels move for each byte that is kept, forward and backward.
        bandwidth: share of the data sheet's bandwidth that they reach.
        kernel: seconds that the CPU takes to start the kernels of one layer, forward and backward.
        step: seconds of a step of drawing for each layer beside the reading of weights, by CUDA graph.
        loop: the same in a plain loop.
        measured: where and when.
    """

    matrices: float = 0.72
    traffic: float = 20.0
    bandwidth: float = 0.85
    kernel: float = 2.5e-3
    step: float = 35e-6
    loop: float = 1.0e-3
    measured: str = ""


# Of an H100 by docs/gpus.md (1.5B, 2026-11-22, 286312d: 24,458 tokens/s eager and 40,663 compiled).
DEFAULT = Efficiency(measured="H100, 2026-11-22, 286312d")


def pass_seconds(
    training: Training, card: Card, efficiency: Efficiency = DEFAULT, mean_length: float = 0.0
) -> float:
    """Seconds of a forward and backward pass of `training.tokens` tokens.

    Args:
        mean_length: tokens of a sequence of the pass; none = the pass is one sequence.
    """
    shape = training.shape
    tokens = training.tokens
    length = mean_length or tokens
    per_parameter = FORWARD + TO_INPUTS
    if training.adapter is None:
        per_parameter += TO_WEIGHTS
    if training.checkpointing:
        per_parameter += FORWARD
    flops = tokens * shape.active_matrices * per_parameter
    # The output layer is not checkpointed. RL's head computes its logits a second time.
    head = per_parameter - (FORWARD if training.checkpointing else 0)
    head += FORWARD if training.head == "fused" else 0
    flops += tokens * shape.head * head
    # Causal: half of the others, on average. The backward pass has five products for the forward's two.
    forwards = 2 if training.checkpointing else 1
    flops += tokens * shape.attention_flops(length / 2) * (forwards + 2.5)
    matrices = flops / (card.flops * efficiency.matrices)
    moved = efficiency.traffic * kept_per_token(training) * shape.layers * tokens
    # A checkpointed layer goes forward twice, which is a third more.
    moved *= 4 / 3 if training.checkpointing else 1
    element_wise = moved / (card.bandwidth * efficiency.bandwidth)
    launches = shape.layers * efficiency.kernel
    return max(matrices + element_wise, launches)


def update_seconds(training: Training, card: Card, efficiency: Efficiency = DEFAULT) -> float:
    """Seconds of the optimizer's step."""
    # Clipping reads and writes the gradients; Adam reads four numbers of a parameter and writes three.
    numbers = 9 * 4 * training.trained / (training.ranks if training.zero else 1)
    return numbers / (card.bandwidth * efficiency.bandwidth)


def drawing_seconds(
    shape: ModelShape,
    card: Card,
    *,
    rows: int,
    prompt: float,
    mean: float,
    longest: float,
    graphs: bool,
    efficiency: Efficiency = DEFAULT,
) -> float:
    """Seconds to draw a batch of responses.

    Args:
        rows: sequences at a time.
        prompt: tokens of a prompt.
        mean, longest: tokens of a response; as many steps are made as the longest has.
    """
    bandwidth = card.bandwidth * efficiency.bandwidth
    weights = HALF * _visited(shape, rows) / bandwidth
    own = efficiency.step if graphs else efficiency.loop
    steps = longest * (weights + shape.layers * own)
    # Each token reads the cache of those before it.
    cache = HALF * shape.cache_numbers * (prompt + mean / 2) * mean * rows / bandwidth
    flops = FORWARD * shape.active * mean * rows / (card.flops * efficiency.matrices)
    return max(steps, flops) + cache


def _visited(shape: ModelShape, rows: int) -> float:
    """Parameters that a step of `rows` tokens reads: of experts those that at least one token visits."""
    if not shape.experts:
        return shape.active
    share = 1 - (1 - shape.visited / shape.experts) ** rows
    experts = shape.sparse_layers * shape.experts * 3 * shape.hidden * shape.expert_inner
    return shape.parameters - experts * (1 - share)
