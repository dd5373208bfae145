"""GPUs: what the makers state, and what r1pipe reached on those that it was measured on."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A GPU.

    Attributes:
        memory: bytes that a program can have, as nvidia-smi states them.
        flops: dense bf16 operations a second, by the data sheet.
        bandwidth: bytes a second of its memory, by the data sheet.
        link: bytes a second to the other GPUs of the machine, in one direction, by the data sheet.
        network: bytes a second to other machines for each GPU; a usual card of 400 Gbit/s, where there is one.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float = 32e9
    network: float = 12.5e9


# Data sheets of NVIDIA. H800 is H100 with half the NVLink (DeepSeek-V3's report, arXiv 2412.19437, 3.1: 160 GB/s).
CARDS = {
    card.name: card
    for card in (
        Card(
            "h200",
            139.8 * GIB,
            989e12,
            4.8e12,
            450e9,
            50e9,
        ),
        Card(
            "h100",
            79.6 * GIB,
            989e12,
            3.35e12,
            450e9,
            50e9,
        ),
        Card(
            "h800",
            79.6 * GIB,
            989e12,
            3.35e12,
            160e9,
            50e9,
        ),
        Card(
            "b200",
            178.0 * GIB,
            2250e12,
            8.0e12,
            900e9,
            50e9,
        ),
        Card(
            "a100",
            79.2 * GIB,
            312e12,
            2.04e12,
            300e9,
            25e9,
        ),
        Card(
            "a100-40gb",
            39.4 * GIB,
            312e12,
            1.56e12,
            300e9,
            25e9,
        ),
        Card(
            "l40s",
            44.5 * GIB,
            362e12,
            0.864e12,
        ),
        Card(
            "l4",
            22.5 * GIB,
            121e12,
            0.3e12,
        ),
        Card(
            "a10",
            22.5 * GIB,
            125e12,
            0.6e12,
        ),
        Card(
            "rtx4090",
            23.5 * GIB,
            165e12,
            1.01e12,
        ),
        Card(
            "rtx3090",
            23.6 * GIB,
            71e12,
            0.936e12,
        ),
        Card(
            "rtx5090",
            31.3 * GIB,
            210e12,
            1.79e12,
        ),
    )
}
