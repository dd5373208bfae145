"""The memory of one GPU while a model is trained, term by term, at each moment that can be the fullest.

No moment is the fullest always. At the loss all activations and a chunk of logits are there, and the gradients perhaps
not yet; in the update there are gradients and moments, and no activations. So each moment is summed by itself, and the
largest decides.

Bytes are those that PyTorch's allocator hands out (`torch.cuda.max_memory_allocated`). `Footprint.used` adds what
nvidia-smi counts beside them. tests/bench/bench_memory.py holds both against a GPU; docs/planning.md has the table.

The step that is described is r1pipe's own: packed rows, no logits of all tokens (r1pipe/models/linear_ce.py for SFT,
TRL's fused head for RL), weights in float32 under autocast, or DeepSpeed's bf16 weights with float32 masters.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1pipe.run.planning.activations import FLOAT, HALF, Training, activations, kept_per_token, stream_bytes
from r1pipe.run.planning.model_shape import ModelShape

# Tokens whose logits exist at the same time: CHUNK in r1pipe/models/linear_ce.py, TOKEN_CHUNK_SIZE in TRL's kernel.
LOGIT_TOKENS = 4096
# Words of the vocabulary that TRL's fused head takes at a time: _CHUNKED_LOGPROB_CHUNK_SIZE in trl/trainer/utils.py.
FUSED_WORDS = 32_768
# The tokens of a pass of SFT are filled up to a multiple of this: ROUND in r1pipe/training/sft/sft_trainer.py.
ROUND_TOKENS = 256

# Numbers of DeepSpeed's settings that ship in configs/accelerate/.
BUCKET = 200_000_000
PREFETCH = 100_000_000
# ZeRO-3 updates this many parameters at a time, and holds at most as many gathered: DeepSpeed's defaults.
SUB_GROUP = 1_000_000_000
LIVE = 1_000_000_000

# cuBLAS keeps 32 MiB for each of its two handles on Hopper (PyTorch's notes on CUDA, CUBLAS_WORKSPACE_CONFIG).
WORKSPACE = 2 * 32 * 2**20
# What nvidia-smi counts before the first tensor: the CUDA context and the kernels that are loaded. And freed blocks
# that no later request could use, as a share of the peak. Five trainings on an H200 (docs/reference/, 2026-11-29)
# had 0.75 to 0.81 GiB more in use than allocated.
CONTEXT = 0.73 * 2**30
FRAGMENTS = 0.005
# The same of NCCL and DeepSpeed: 0.5 to 0.9 GiB on that card, with one rank.
DISTRIBUTED = 0.75 * 2**30

Terms = dict[str, float]


@dataclass(frozen=True)
class Footprint:
    """One GPU's memory at its fullest.

    Attributes:
        moment: when that is: loss, backward, update or drawing.
        terms: bytes by name.
        moments: the sum of each moment.
        beside: bytes that libraries of ranks take outside PyTorch's allocator.
    """

    moment: str
    terms: Terms
    moments: dict[str, float]
    beside: float = 0.0

    @property
    def peak(self) -> float:
        """Bytes that PyTorch's allocator hands out at most; vLLM in the same process takes its share from it, too."""
        return self.moments[self.moment]

    @property
    def used(self) -> float:
        """Bytes of the GPU that are taken, as nvidia-smi shows them."""
        return self.moments[self.moment] + FRAGMENTS * self.peak + CONTEXT + self.beside


def footprint(training: Training) -> Footprint:
    """What a training takes of one GPU."""
    standing = _standing(training)
    moments = {
        "loss": standing | _at_loss(training),
        "backward": standing | _in_backward(training),
        "update": standing | _in_update(training),
    }
    if training.rollout.rows:
        moments["drawing"] = standing | _while_drawing(training)
    sums = {name: sum(terms.values()) for name, terms in moments.items()}
    fullest = max(sums, key=lambda name: sums[name])
    terms = {name: size for name, size in moments[fullest].items() if size}
    beside = 0.0 if training.profile == "process" else DISTRIBUTED
    return Footprint(
        fullest,
        terms,
        sums,
        beside,
    )


# --- what stands there all the time -----------------------------------------------------------------------------------


def _standing(training: Training) -> Terms:
    """Weights, moments, and what RL keeps beside them."""
    rollout = training.rollout
    size = training.shape.parameters
    terms: Terms = {"workspace": WORKSPACE, "weights": _weights(training)}
    terms |= _master_states(training)
    if rollout.reference:
        # TRL loads it in the policy's precision; under DeepSpeed it is bf16, and sharded with ZeRO-3 alone.
        shards = training.ranks if training.zero == 3 else 1
        terms["reference"] = size * (HALF if training.zero else FLOAT) / shards
    if rollout.twin:
        # r1pipe/generation/cuda_graphs.py: GraphedModel.twin
        terms["twin"] = size * HALF
    if rollout.rows and rollout.twin:
        terms["cache"] = cache_bytes(
            training.shape,
            rollout.rows,
            rollout.columns,
        )
    terms["vllm"] = rollout.vllm_bytes
    terms["reward models"] = rollout.models
    return terms


def _weights(training: Training) -> float:
    """The weights that passes read."""
    size = training.shape.parameters
    adapter = training.adapter.parameters(training.shape) if training.adapter else 0.0
    if training.zero == 3:
        if training.offload == "all":
            return LIVE_SHARE * size * HALF / training.ranks
        return (size + adapter) * HALF / training.ranks + _gathered(training)
    if training.profile == "fsdp2":
        return (size + adapter) * FLOAT / training.ranks
    if training.zero:
        return (size + adapter) * HALF
    of_model = HALF if training.precision == "frozen" else FLOAT
    return size * of_model + adapter * FLOAT


# With `offload: all` weights are read from the CPU, and DeepSpeed keeps small ones on the GPU.
LIVE_SHARE = 0.02


def _gathered(training: Training) -> float:
    """ZeRO-3's whole layers: the one at work, and those that are fetched ahead. A single rank gathers nothing."""
    if training.ranks == 1:
        return 0.0
    layer = training.shape.layer_matrices
    ahead = max(PREFETCH, layer)
    return HALF * min(
        layer + ahead,
        LIVE,
        training.shape.parameters,
    )


def _master_states(training: Training) -> Terms:
    """Moments, and DeepSpeed's float32 weights."""
    trained = training.trained
    if training.offload != "none":
        return {}
    if training.zero:
        shard = trained / training.ranks
        return {"master weights": FLOAT * shard, "moments": 2 * FLOAT * shard}
    shards = training.ranks if training.profile == "fsdp2" else 1
    return {"moments": 2 * FLOAT * trained / shards}


# --- the moments ------------------------------------------------------------------------------------------------------


def _at_loss(training: Training) -> Terms:
    """The end of the forward pass: everything is kept, and SFT's loss turns logits into gradients already."""
    terms = _head(training, in_forward=True)
    terms["activations"] = activations(training)
    terms["half copies"] = _half_copies(training)
    terms["gradients"] = _gradients_before(training)
    return terms


def _in_backward(training: Training) -> Terms:
    """The beginning of the backward pass: the last layer works, and its gradients come up.

    RL's head computes its gradients here. After it a layer that is checkpointed is computed again.
    """
    terms = _head(training, in_forward=False)
    layer = kept_per_token(training)
    terms["activations"] = activations(training)
    # What stands between a layer's inner products while they are differentiated: gate, up and their gradients.
    inner = 2 * HALF * training.shape.mlp_width * training.tokens
    if training.checkpointing:
        terms["recomputed layer"] = layer * training.tokens + inner
    else:
        terms["half copies"] = _half_copies(training)
        # RL's head is done before the last layer begins, so they do not add up.
        if training.head == "linear":
            terms["recomputed layer"] = inner
    terms["gradients"] = _gradients_before(training)
    terms["buckets"] = _buckets(training)
    return terms


def _in_update(training: Training) -> Terms:
    """The end of the backward pass and the optimizer's step."""
    trained = training.trained
    terms: Terms = {"buckets": _buckets(training) if training.zero == 3 else 0.0}
    if training.zero:
        terms |= _zero_update(training)
        return terms
    shards = training.ranks if training.profile == "fsdp2" else 1
    terms["gradients"] = FLOAT * trained / shards
    if training.adapter is None:
        # Tied weights get a gradient from either end of the model. And where gradients are summed over passes, what
        # comes last has no place in them yet.
        extra = int(training.shape.tied) + int(training.passes > 1)
        terms["embedding's gradient"] = extra * FLOAT * training.shape.head / shards
    return terms


def _zero_update(training: Training) -> Terms:
    """DeepSpeed's step: gradients in bf16, then a flat copy, then that in float32 (stage_1_and_2.py and stage3.py)."""
    shard = training.trained / training.ranks
    # ZeRO-1 keeps whole gradients until it has reduced them.
    kept = training.trained if training.zero == 1 else shard
    terms: Terms = {"gradients": HALF * kept}
    if training.offload != "none":
        return terms
    at_once = min(shard, SUB_GROUP) if training.zero == 3 else shard
    terms["update"] = (HALF + FLOAT) * at_once
    return terms


def _while_drawing(training: Training) -> Terms:
    """Reading the prompts: the logits after them, and one layer of them."""
    shape = training.shape
    rollout = training.rollout
    # The log-probs and the sampling of one step, and the logits themselves.
    logits = rollout.rows * shape.vocabulary * (HALF + 2 * FLOAT)
    terms: Terms = {"logits": logits}
    if not rollout.twin:
        numbers = rollout.rows * rollout.columns * shape.cache_numbers
        terms["cache"] = numbers * (HALF if training.gpu else FLOAT)
        if training.zero == 3:
            # The weights are gathered for the whole draw.
            terms["gathered weights"] = HALF * shape.parameters
    return terms


# --- the parts of a pass ----------------------------------------------------------------------------------------------


def _half_copies(training: Training) -> float:
    """The bf16 copies that autocast makes of float32 matrices: the backward pass reads them."""
    if training.precision != "autocast":
        return 0.0
    matrices = training.shape.matrices
    if training.checkpointing and training.adapter is not None:
        # Of weights that are not trained autocast keeps no copy, and checkpoints keep none either.
        return 0.0
    return HALF * matrices


def _gradients_before(training: Training) -> float:
    """Gradients of the passes before the last one of an update."""
    trained = training.trained
    if training.zero == 3:
        # A flat buffer from the beginning: grad_partitions_flat_buffer.
        return HALF * trained / training.ranks
    if training.passes < 2:
        return 0.0
    if training.zero == 2:
        return HALF * trained / training.ranks
    if training.zero == 1:
        return HALF * trained
    shards = training.ranks if training.profile == "fsdp2" else 1
    return FLOAT * trained / shards


def _buckets(training: Training) -> float:
    """DeepSpeed's buckets, through which gradients are reduced; ZeRO-1 and -2 have two with overlap_comm."""
    if not training.zero:
        return 0.0
    # ZeRO-3's is there from the beginning, too.
    count = 1 if training.zero == 3 else 2
    return count * BUCKET * HALF


def _head(training: Training, *, in_forward: bool) -> Terms:
    """The last norm, and what the loss holds."""
    shape = training.shape
    tokens = training.tokens
    stream = stream_bytes(training)
    # The last layer's output, its normalised values, and the result.
    norm = tokens * shape.hidden * (stream + 2 * FLOAT)
    if training.head == "reward":
        return {"last norm": norm}
    trains_head = training.adapter is None
    chunk = min(tokens, LOGIT_TOKENS)
    # The hidden states of the tokens that carry loss, and their gradients.
    rows = 2 * stream * tokens * shape.hidden
    head_gradient = FLOAT * shape.head if trains_head else 0.0
    if training.head == "linear":
        terms: Terms = {"last norm": norm, "loss": rows, "head's gradient": head_gradient}
        if in_forward:
            terms["logits"] = HALF * chunk * shape.vocabulary
            # The output layer in bf16, where it is not bf16 already.
            half_head = HALF * shape.head if training.precision in ("autocast", "float") else 0.0
            terms["head in bf16"] = half_head
        return terms
    # TRL's head has its gradients in the backward pass alone, in float32.
    if in_forward:
        return {"last norm": norm, "loss": rows / 2, "logits": HALF * chunk * FUSED_WORDS}
    words = min(FUSED_WORDS, shape.vocabulary)
    rows = (stream + FLOAT) * tokens * shape.hidden
    return {
        "last norm": norm,
        "loss": rows,
        "head's gradient": head_gradient,
        "logits": HALF * (chunk * words + words * shape.hidden),
    }


def cache_bytes(shape: ModelShape, rows: int, columns: int) -> float:
    """The cache of our graphs: keys and values in bf16, with a spare slot; tokens and log-probs beside them.

    Rows and columns are rounded up as r1pipe/generation/cuda_graphs.py does.
    """
    slots = -(-rows // 8) * 8 + 1
    wide = -(-columns // 128) * 128
    numbers = HALF * shape.cache_numbers
    # Token ids as int64, log-probs as float32.
    return slots * wide * (numbers + 12)
