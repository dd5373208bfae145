"""How fast training is: tokens a second and GPU, the share of the device's arithmetic that it uses (MFU), peak memory.

    meter = Meter(flops_per_token(model), world_size)
    meter.begin()
    meter.read(tokens_so_far)   # {"tokens_per_second": ..., "mfu": ..., "peak_memory_gib": ...} since the last read

A token costs 6N floating point operations where N parameters are trained (2N forward, 4N backward; Kaplan et al., arXiv 2001.08361, 2.1), so MFU
here leaves attention scores out, as most published figures do. Tokens that count are those of rows; padding is none.
"""

from __future__ import annotations

import time
from typing import Any

import torch

# dense bf16 FLOP/s by the makers' data sheets; the first name that is found in the device's counts
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


def peak_flops(device_name: str | None = None) -> float | None:
    """Dense bf16 FLOP/s of a device, this process's GPU if none is named; None for CPUs and devices that the table lacks."""
    if device_name is None:
        if not torch.cuda.is_available():
            return None
        device_name = torch.cuda.get_device_name()
    words = device_name.replace("-", " ").split()
    return next((peak for name, peak in PEAK_FLOPS.items() if all(word in words for word in name.split())), None)


def flops_per_token(model: Any) -> float:
    """6 operations for each parameter that is trained, 4 for each that is frozen; of a layer's experts only those that a token visits.

    Tied weights count once: the input side of an embedding multiplies nothing. Shards under ZeRO-3 count whole.
    """
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    experts = next(
        (n for name in ("n_routed_experts", "num_experts", "num_local_experts") if (n := getattr(text, name, None))),
        None,
    )
    visited = (getattr(text, "num_experts_per_tok", None) or experts) / experts if experts else 1.0
    tied = bool(getattr(text, "tie_word_embeddings", False))
    total = 0.0
    for name, parameter in model.named_parameters():
        if not tied and name.endswith("embed_tokens.weight"):
            continue
        size = getattr(parameter, "ds_numel", None) or parameter.numel()
        share = visited if ".experts." in name else 1.0
        total += (6 if parameter.requires_grad else 4) * size * share
    return total


class Meter:
    """Reads the clock and the memory between two reports.

    Args:
        flops_per_token: see above; None leaves MFU out.
        devices: processes that train; rates are per device.
        peak: FLOP/s of one; none = of this process's GPU.
    """

    def __init__(self, flops_per_token: float | None, devices: int = 1, peak: float | None = None) -> None:
        self.flops_per_token, self.devices = flops_per_token, devices
        self.peak = peak if peak is not None else peak_flops()
        self._tokens = 0.0
        self._time: float | None = None

    def begin(self) -> None:
        """The clock starts at the first call."""
        if self._time is None:
            self._time = time.monotonic()

    def read(self, tokens: float) -> dict[str, float]:
        """What happened since the last read.

        Args:
            tokens: that count, over all devices, since the training began.

        Returns:
            tokens_per_second (a device), mfu where the device is known, peak_memory_gib on a GPU.
        """
        self.begin()
        now = time.monotonic()
        assert self._time is not None
        seconds, seen = max(now - self._time, 1e-9), tokens - self._tokens
        self._tokens, self._time = tokens, now
        numbers: dict[str, Any] = {"tokens_per_second": seen / seconds / self.devices}
        if self.peak is not None and self.flops_per_token is not None:
            numbers["mfu"] = numbers["tokens_per_second"] * self.flops_per_token / self.peak
        if torch.cuda.is_available():
            numbers["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return numbers
