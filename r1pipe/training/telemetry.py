"""The speed of training: tokens a second and GPU, the share of the device's arithmetic in use (MFU), peak memory.

    meter = Meter(flops_per_token(model), world_size)
    meter.begin()
    meter.read(tokens_so_far)   # {"tokens_per_second": ..., "mfu": ..., "peak_memory_gib": ...} since the last read

A token costs 6N floating-point operations where N parameters are trained: 2N forward and 4N backward (Kaplan et al.,
arXiv 2001.08361, 2.1). So MFU leaves out attention scores, as most published figures do. Only tokens of rows count;
padding does not.
"""

from __future__ import annotations

import time
from typing import Any

import torch

# Dense bf16 FLOP/s from the makers' data sheets. A name fits where all its words are in the device's name; of several
# that fit, the first counts.
PEAK_FLOPS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}

# Floating-point operations of a token for each parameter: a frozen one has no gradient, but passes one on.
TRAINED_FLOPS = 6
FROZEN_FLOPS = 4


def peak_flops(device_name: str | None = None) -> float | None:
    """Dense bf16 FLOP/s of a device; None for CPUs and for devices that the table does not list.

    Args:
        device_name: as torch names it; none = this process's GPU.
    """
    if device_name is None:
        if not torch.cuda.is_available():
            return None
        device_name = torch.cuda.get_device_name()
    device_words = device_name.replace("-", " ").split()
    for name, peak in PEAK_FLOPS.items():
        if all(word in device_words for word in name.split()):
            return peak
    return None


def flops_per_token(model: Any) -> float:
    """The floating-point operations of one token in training.

    6 for each parameter that is trained, 4 for each that is frozen. Of a layer's experts only those count that a token
    visits. Tied weights count once, since the input side of an embedding multiplies nothing. Sharded parameters under
    ZeRO-3 count whole.
    """
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    tied = bool(getattr(config, "tie_word_embeddings", False))
    visited_share = _visited_experts(config)

    total = 0.0
    for name, parameter in model.named_parameters():
        # Looking up a row of the embedding multiplies nothing. Where it is tied, the same weights are the output layer.
        if not tied and name.endswith("embed_tokens.weight"):
            continue
        # DeepSpeed keeps the whole size of a parameter of which this rank holds a part.
        size = getattr(parameter, "ds_numel", None) or parameter.numel()
        flops = TRAINED_FLOPS if parameter.requires_grad else FROZEN_FLOPS
        share = visited_share if ".experts." in name else 1.0
        total += flops * size * share
    return total


def _visited_experts(config: Any) -> float:
    """The share of a layer's experts that one token visits; 1 without experts."""
    for name in ("n_routed_experts", "num_experts", "num_local_experts"):
        experts = getattr(config, name, None)
        if experts:
            return (getattr(config, "num_experts_per_tok", None) or experts) / experts
    return 1.0


class Meter:
    """Reads the clock and the memory between two reports.

    Args:
        flops_per_token: as the function of this name returns it; none = MFU is left out.
        devices: processes that train; rates are per device.
        peak: FLOP/s of one device; none = those of this process's GPU.
    """

    def __init__(self, flops_per_token: float | None, devices: int = 1, peak: float | None = None) -> None:
        self.flops_per_token = flops_per_token
        self.devices = devices
        self.peak = peak if peak is not None else peak_flops()
        self._tokens = 0.0
        self._time: float | None = None

    def begin(self) -> None:
        """Start the clock, at the first call."""
        if self._time is None:
            self._time = time.monotonic()

    def resume(self, tokens: float) -> None:
        """Do not count these tokens, which an earlier attempt has trained."""
        self._tokens = tokens

    def read(self, tokens: float) -> dict[str, float]:
        """The speed since the last read.

        Args:
            tokens: over all devices, since the training began.

        Returns:
            tokens_per_second (a device), mfu where the device is known, peak_memory_gib on a GPU.
        """
        self.begin()
        assert self._time is not None
        now = time.monotonic()
        seconds = max(now - self._time, 1e-9)
        new_tokens = tokens - self._tokens
        self._tokens = tokens
        self._time = now

        rate = new_tokens / seconds / self.devices
        numbers: dict[str, float] = {"tokens_per_second": rate}
        if self.peak is not None and self.flops_per_token is not None:
            numbers["mfu"] = rate * self.flops_per_token / self.peak
        if torch.cuda.is_available():
            numbers["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return numbers
