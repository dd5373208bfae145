"""What training needs of a GPU's memory, estimated from the shape of the model before it is loaded.

States: float32 weights, gradients and two Adam moments (16 bytes a trained parameter, of which a profile spreads a part over the ranks), and the
half-precision copies that autocast makes of them in a pass, or that DeepSpeed trains with (2 bytes). Activations: what the backward pass keeps of a
token, by layer. The coefficients count the tensors of a decoder layer of RMSNorm, rotary attention and SwiGLU under autocast; they are estimates,
checked where benchmarks print the peak beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from r1pipe.here import Here
from r1pipe.models.loading import own_device

KEPT_PER_HIDDEN = 45  # bytes a token, layer and hidden unit: two norms in float32 (3 copies each), their casts, queries, keys, values, output
KEPT_PER_INNER = (
    8  # bytes a token, layer and unit of the inner width: gate, its activation, up, product, in half precision
)
KEPT_BY_CHECKPOINT = 4  # bytes a token, layer and hidden unit: the layer's input
COMPILED = 0.55  # share that is kept when layers are compiled, since element-wise results are computed again (1.5B, 14,550 tokens: 57.3 GiB in all)
RESERVE = 0.88  # share of the device that is planned with; the rest is fragmentation, the CUDA context, NCCL


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU."""

    states: float
    activations: float
    checkpointed: float
    loss: float

    def fits(self, device: float) -> bool:
        """Without recomputing activations."""
        return self.states + self.activations + self.loss <= RESERVE * device


@dataclass(frozen=True)
class StateShares:
    """What part of a trained parameter's float32 states lies on this GPU: 1 = all, 1 / ranks = cut up, 0 = in CPU memory."""

    weights: float = 1.0
    gradients: float = 1.0
    moments: float = 1.0


def state_shares(here: Here) -> StateShares:
    """By this rank's profile and offloading.

    ZeRO-1 and -2 keep whole weights in half precision (counted as copies) and cut up the float32 ones beside them; offloading takes those, too.
    """
    if here.profile in ("process", "ddp"):
        return StateShares()
    part = 1 / here.world_size
    kept = 0.0 if here.optimizer_on_cpu else part
    return StateShares(weights=kept, gradients=1.0 if here.profile == "zero1" else part, moments=kept)


def first_update_bytes(without_gradient: int, without_moments: int, on: StateShares) -> float:
    """Bytes that the first update will allocate.

    Args:
        without_gradient, without_moments: trained parameters, over all ranks, that have none yet.
    """
    return 4 * without_gradient * on.gradients + 8 * without_moments * on.moments


def training_need(
    model: torch.nn.Module,
    tokens: int,
    on: StateShares | None = None,
    compiled: bool = False,
    trained: float = 1.0,
    in_float32: float = 1.0,
) -> Need:
    """Of a forward and backward pass over `tokens` tokens.

    Args:
        model: it may be on the meta device.
        on: what part of the states is on this GPU; none = all.
        trained: share of the parameters that is trained (LoRA: near 0).
        in_float32: share of the parameters that lies in float32 beside its half-precision copy; the rest has no other.
    """
    text: Any = model.config.get_text_config()  # type: ignore[operator]
    layers, hidden, words = text.num_hidden_layers, text.hidden_size, text.vocab_size
    inner = getattr(text, "intermediate_size", None) or 4 * hidden
    experts = getattr(text, "num_experts_per_tok", None)
    if experts:
        inner = max(
            inner,
            (experts + (getattr(text, "n_shared_experts", None) or 0))
            * (getattr(text, "moe_intermediate_size", None) or inner),
        )
    size = sum(p.numel() for p in model.parameters())
    on = on or StateShares()
    layer = (KEPT_PER_HIDDEN * hidden + KEPT_PER_INNER * inner) * (COMPILED if compiled else 1.0)
    return Need(
        states=size * (4 * on.weights * in_float32 + (4 * on.gradients + 8 * on.moments) * trained) + 2 * size,
        activations=tokens * layers * layer,
        checkpointed=tokens * (layers * hidden * KEPT_BY_CHECKPOINT + layer),
        loss=min(tokens, 4096) * words * 2 + words * hidden * 6,
    )


def free_memory(device: torch.device) -> float:
    """Bytes that this process can still allocate there; a CPU is not asked. What CUDA graphs hold is theirs, in use or not."""
    if device.type != "cuda":
        return float("inf")
    index = torch.cuda.current_device() if device.index is None else device.index
    own = [
        segment
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == index and tuple(segment["segment_pool_id"]) == (0, 0)
    ]
    return torch.cuda.mem_get_info(device)[0] + sum(
        segment["total_size"] - segment["allocated_size"] for segment in own
    )


def device_memory() -> float | None:
    """Bytes of this process's GPU; None without one. No CUDA context is made: ranks have not chosen their devices yet."""
    if not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(own_device()).total_memory)
