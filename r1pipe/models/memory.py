"""What training needs of a GPU's memory, estimated from the shape of the model before it is loaded.

Two parts grow with different things:

- States grow with the parameters: float32 weights, gradients and two Adam moments (16 bytes a trained parameter, which
  some profiles spread over the ranks), and a half-precision copy that autocast makes in a pass or that DeepSpeed trains
  with (2 bytes).
- Activations grow with the tokens of a pass: what the backward pass keeps, layer by layer.

The coefficients below count the tensors of a decoder layer with RMSNorm, rotary attention and SwiGLU under autocast.
They are estimates: benchmarks print them beside the peak that was measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from r1pipe.here import Here
from r1pipe.models.loading import own_device

# Bytes a token, layer and hidden unit: two norms in float32 (three copies each), their casts, queries, keys, values and
# the output of attention.
KEPT_PER_HIDDEN = 45

# Bytes a token, layer and unit of the inner width: gate, its activation, up and product, in half precision.
KEPT_PER_INNER = 8

# Bytes a token, layer and hidden unit where activations are recomputed: the layer's input.
KEPT_BY_CHECKPOINT = 4

# The share that is kept where layers are compiled, since element-wise results are computed again. Fitted to a 1.5B
# model with 14,550 tokens a pass, which took 57.3 GiB in all.
COMPILED = 0.55

# The share of a device's memory that is planned with. The rest is for fragmentation, the CUDA context and NCCL.
RESERVE = 0.88

# Tokens whose logits exist at the same time (CHUNK in r1pipe/models/linear_ce.py).
LOGIT_TOKENS = 4096


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU.

    Attributes:
        states: weights, gradients and moments.
        activations: of a pass that keeps them all.
        checkpointed: of a pass that recomputes them.
        loss: logits of a chunk of tokens, and the output layer's gradients.
    """

    states: float
    activations: float
    checkpointed: float
    loss: float

    def fits(self, device: float) -> bool:
        """Whether a device of this many bytes is enough without recomputing activations."""
        return self.states + self.activations + self.loss <= RESERVE * device


@dataclass(frozen=True)
class StateShares:
    """The shares of a trained parameter's float32 states on this GPU: 1 = all, 1 / ranks = sharded, 0 = on the CPU."""

    weights: float = 1.0
    gradients: float = 1.0
    moments: float = 1.0


def state_shares(here: Here) -> StateShares:
    """The shares under this rank's profile and offloading.

    ZeRO-1 and ZeRO-2 keep whole weights in half precision, which count as the copies, and shard the float32 weights
    beside them. Offloading moves those to the CPU as well.
    """
    if here.profile in ("process", "ddp"):
        return StateShares()
    shard = 1 / here.world_size
    # ZeRO-1 shards the optimizer only. Gradients are made on the GPU, also where the optimizer is on the CPU.
    kept = 0.0 if here.optimizer_on_cpu else shard
    gradients = 1.0 if here.profile == "zero1" else shard
    return StateShares(weights=kept, gradients=gradients, moments=kept)


def first_update_bytes(without_gradient: int, without_moments: int, on: StateShares) -> float:
    """Bytes that the first update will allocate.

    Args:
        without_gradient: trained parameters, over all ranks, that have no gradient yet.
        without_moments: the same of Adam's moments.
        on: the share of them that is on this GPU.
    """
    return 4 * without_gradient * on.gradients + 8 * without_moments * on.moments


def training_need(
    model: torch.nn.Module,
    tokens: int,
    *,
    on: StateShares | None = None,
    compiled: bool = False,
    trained: float = 1.0,
    in_float32: float = 1.0,
) -> Need:
    """What a forward and backward pass over this many tokens needs.

    Args:
        model: it may be on the meta device.
        on: the shares of the states that are on this GPU; none = all of them.
        compiled: whether layers are compiled.
        trained: the share of the parameters that is trained (LoRA: near 0).
        in_float32: the share of the parameters that lies in float32 beside its half-precision copy; the others have
            no other copy.
    """
    config: Any = model.config.get_text_config()  # type: ignore[operator]
    layers = config.num_hidden_layers
    hidden = config.hidden_size
    words = config.vocab_size
    size = sum(parameter.numel() for parameter in model.parameters())

    on = on or StateShares()
    # In float32, where gradients have 4 bytes and the two moments 8.
    master_weights = 4 * on.weights * in_float32
    for_update = (4 * on.gradients + 8 * on.moments) * trained
    states = size * (master_weights + for_update) + 2 * size

    # Bytes of one token in one layer.
    layer = (KEPT_PER_HIDDEN * hidden + KEPT_PER_INNER * _inner_width(config)) * (
        COMPILED if compiled else 1.0
    )
    return Need(
        states=states,
        activations=tokens * layers * layer,
        # One layer at a time is computed again and kept whole for its backward pass.
        checkpointed=tokens * (layers * hidden * KEPT_BY_CHECKPOINT + layer),
        loss=min(tokens, LOGIT_TOKENS) * words * 2 + words * hidden * 6,
    )


def _inner_width(config: Any) -> int:
    """The inner width of a layer's MLP; for a mixture of experts, that of the experts that one token visits."""
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    experts = getattr(config, "num_experts_per_tok", None)
    if not experts:
        return inner
    shared_experts = getattr(config, "n_shared_experts", None) or 0
    expert_width = getattr(config, "moe_intermediate_size", None) or inner
    return max(inner, (experts + shared_experts) * expert_width)


def free_memory(device: torch.device) -> float:
    """Bytes that this process can still allocate on the device; infinity for a CPU.

    Memory that CUDA graphs hold is theirs, whether it is in use or not, so it does not count as free.
    """
    if device.type != "cuda":
        return float("inf")
    index = torch.cuda.current_device() if device.index is None else device.index
    # What PyTorch's allocator holds and does not use. (0, 0) is the pool outside all CUDA graphs.
    cached = 0
    for segment in torch.cuda.memory_snapshot():
        if segment["device"] == index and tuple(segment["segment_pool_id"]) == (0, 0):
            cached += segment["total_size"] - segment["allocated_size"]
    unallocated, _ = torch.cuda.mem_get_info(device)
    return unallocated + cached


def device_memory() -> float | None:
    """Bytes of this process's GPU; None without one.

    No CUDA context is made, since this is called before ranks have chosen their devices.
    """
    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(own_device()).total_memory)
