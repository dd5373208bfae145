"""Seconds, from floating-point operations and bytes.

Three things take time in a pass: matrices, at a share of the card's arithmetic; element-wise work, at a share of its
memory's bandwidth; and the CPU, which starts every kernel. What a pass keeps for the backward pass says how much
element-wise work there is, since each kept byte is written, and read and written again in several forms.

Drawing reads all weights and the cache for each token, once for the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1pipe.run.planning.activations import HALF, Training, kept_per_token
from r1pipe.run.planning.cards import Card
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
        attention: the same of the attention kernel, forward and backward.
        traffic: bytes that element-wise kernels move for each byte that is kept, forward and backward.
        traffic_compiled: the same where layers are compiled.
        bandwidth: share of the data sheet's bandwidth that they reach.
        kernel: seconds that the CPU takes to start the kernels of one layer, forward and backward.
        step: seconds of a step of drawing for each layer beside the reading of weights, by CUDA graph.
        step_compiled: the same where layers are compiled.
        loop: the same in a plain loop.
        drawing: share of the data sheet's operations that the tokens of a step reach.
        measured: where and when.
    """

    matrices: float = 0.72
    attention: float = 0.40
    traffic: float = 20.0
    traffic_compiled: float = 12.0
    bandwidth: float = 0.85
    kernel: float = 6e-3
    step: float = 1.2e-4
    step_compiled: float = 4e-5
    loop: float = 1.4e-3
    drawing: float = 0.5
    measured: str = ""


# Of the rows of bench_memory.py on one H200 with 16 CPU cores, torch's own attention kernel; docs/planning.md has them.
DEFAULT = Efficiency(measured="one H200, 2026-11-30, 1d419cc")

# Starting kernels takes longer where Python does more between them: RL's packs, DeepSpeed's hooks. Of the same rows.
IN_RL = 1.2
UNDER_ZERO = {0: 1.0, 1: 1.5, 2: 1.5, 3: 2.1}
# Bytes of traffic of a pass for each number of a matrix under autocast: its bf16 copy is made (6), its gradient comes
# in bf16, becomes float32 (6) and is added (12).
WEIGHT_TRAFFIC = 24


@dataclass(frozen=True)
class Rates:
    """What the makers of a model have published of training and serving it.

    Attributes:
        trained: tokens a second and GPU.
        drawn: tokens a second and GPU, over all sequences.
        speed: tokens a second of one sequence.
    """

    trained: float
    drawn: float
    speed: float
    source: str


# A mixture of experts over many machines needs parallelism that r1pipe does not have: its plan takes published rates.
# DeepSeek-V3: 180,000 H800 hours for 10^12 tokens (arXiv 2412.19437, 1); 14,800 tokens a second from a node of eight,
# and 20 to 22 tokens a second to a reader (github.com/deepseek-ai/open-infra-index, day 6, 2025-03-01).
PUBLISHED = {
    ("deepseek_v3", "h800"): Rates(
        trained=1e12 / (180_000 * 3600),
        drawn=14_800 / 8,
        speed=21.0,
        source="rates that DeepSeek has published for V3 on H800, not r1pipe's own",
    ),
}


def published_rates(training: Training, card: Card) -> Rates | None:
    """The published rates of a model that is spread over several machines."""
    if training.ranks <= 8:
        return None
    return PUBLISHED.get((training.shape.family, card.name))


def pass_flops(training: Training, mean_length: float = 0.0) -> float:
    """Floating-point operations of a forward and backward pass.

    Args:
        mean_length: tokens of a sequence of the pass; none = the pass is one sequence.
    """
    return _matrix_flops(training) + _attention_flops(training, mean_length)


def _matrix_flops(training: Training) -> float:
    shape = training.shape
    per_parameter = FORWARD + TO_INPUTS
    if training.adapter is None:
        per_parameter += TO_WEIGHTS
    # The output layer is not checkpointed. RL's head computes its logits a second time.
    head = per_parameter + (FORWARD if training.head == "fused" else 0)
    if training.head == "reward":
        head = 0
    if training.checkpointing:
        per_parameter += FORWARD
    return training.tokens * (shape.active_matrices * per_parameter + shape.head * head)


def _attention_flops(training: Training, mean_length: float) -> float:
    # Causal: a token sees half of the others, on average. The backward pass has five products for the forward's two.
    length = mean_length or training.tokens
    forwards = 2 if training.checkpointing else 1
    return training.tokens * training.shape.attention_flops(length / 2) * (forwards + 2.5)


def pass_seconds(
    training: Training,
    card: Card,
    efficiency: Efficiency = DEFAULT,
    mean_length: float = 0.0,
) -> float:
    """Seconds of a forward and backward pass of `training.tokens` tokens; `mean_length` as in pass_flops."""
    shape = training.shape
    matrices = _matrix_flops(training) / (card.flops * efficiency.matrices)
    attention = _attention_flops(training, mean_length) / (card.flops * efficiency.attention)
    traffic = efficiency.traffic_compiled if training.compiled else efficiency.traffic
    moved = traffic * kept_per_token(training) * shape.layers * training.tokens
    # A checkpointed layer goes forward twice, which is a third more.
    again = 4 / 3 if training.checkpointing else 1.0
    moved *= again
    if training.precision == "autocast":
        moved += WEIGHT_TRAFFIC * shape.matrices
    working = matrices + attention + moved / (card.bandwidth * efficiency.bandwidth)
    launches = shape.layers * efficiency.kernel * again
    if not training.gpu:
        # A CPU starts the next kernel when the last one is done; a GPU has a queue.
        return working + launches
    launches *= UNDER_ZERO[training.zero]
    if training.head == "fused":
        launches *= IN_RL
    # Compiled layers start a few kernels each.
    if training.compiled:
        launches /= 3
    return max(working, launches)


def forward_seconds(
    training: Training,
    card: Card,
    efficiency: Efficiency = DEFAULT,
    mean_length: float = 0.0,
) -> float:
    """Seconds of a forward pass alone: a third of both, or a quarter where layers go forward twice."""
    both = pass_seconds(
        training,
        card,
        efficiency,
        mean_length,
    )
    return both / (4 if training.checkpointing else 3)


def communication_seconds(
    training: Training,
    card: Card,
    gpus: int,
    passes: float,
    updates: float,
) -> float:
    """Seconds in which ranks send weights and gradients to each other, where nothing hides them.

    Args:
        gpus: of a machine.
        passes: forward and backward passes of a rank.
    """
    if training.ranks == 1:
        return 0.0
    bandwidth = card.link if training.ranks <= gpus else card.network
    weights = HALF * training.shape.parameters
    gradients = (HALF if training.zero else 4) * training.trained
    # Reduced to shards, and gathered again: each rank sends nearly all of it, twice.
    sent = updates * 2 * gradients
    if training.zero == 3 or training.profile == "fsdp2":
        gathers = 3 if training.checkpointing else 2
        sent = passes * (gathers * weights + gradients)
    return sent / bandwidth


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
    compiled: bool = False,
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
    own = efficiency.loop
    if graphs:
        own = efficiency.step_compiled if compiled else efficiency.step
    steps = longest * (weights + shape.layers * own)
    # Each token reads the cache of those before it.
    cache = HALF * shape.cache_numbers * (prompt + mean / 2) * mean * rows / bandwidth
    flops = FORWARD * shape.active * mean * rows / (card.flops * efficiency.drawing)
    return steps + flops + cache


def _visited(shape: ModelShape, rows: int) -> float:
    """Parameters that a step of `rows` tokens reads: of experts those that at least one token visits."""
    if not shape.experts:
        return shape.active
    share = 1 - (1 - shape.visited / shape.experts) ** rows
    experts = shape.sparse_layers * shape.experts * 3 * shape.hidden * shape.expert_inner
    return shape.parameters - experts * (1 - share)
