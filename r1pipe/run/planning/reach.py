"""What a card of some memory reaches: the largest model that it trains in each of four ways, for `r1pipe doctor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from r1pipe.run.planning.activations import HALF, Rollout, Training
from r1pipe.run.planning.footprint import CONTEXT, footprint
from r1pipe.run.planning.known_models import known_names, known_shape
from r1pipe.run.planning.model_shape import ModelShape
from r1pipe.run.planning.packs import adapter_of

# Passes and responses of a small run: the first one that a newcomer makes.
PASS_TOKENS = 4096
RESPONSES = 32
COLUMNS = 1024
LORA = {"r": 16, "target_modules": "all-linear"}


def reach(memory: float) -> dict[str, str]:
    """What is done -> the largest of the dense models that plan knows by name with which it fits; "" = none.

    Args:
        memory: bytes of the card.
    """
    return {
        "RL of all weights": _largest(memory, _reinforced),
        "SFT of all weights": _largest(memory, _tuned),
        "the same with offload: optimizer": _largest(memory, _offloaded),
        "SFT with LoRA": _largest(memory, _adapted),
        "sampling": _largest_sampled(memory),
    }


def _largest(memory: float, training_of: Callable[[ModelShape], Training]) -> str:
    return _last_that_fits(lambda shape: footprint(training_of(shape)).used <= memory)


def _largest_sampled(memory: float) -> str:
    def fits(shape: ModelShape) -> bool:
        cache = HALF * RESPONSES * COLUMNS * shape.cache_numbers
        return HALF * shape.parameters + cache + CONTEXT <= memory

    return _last_that_fits(fits)


def _last_that_fits(fits: Callable[[ModelShape], bool]) -> str:
    largest = ""
    size = 0
    for name in known_names():
        shape = known_shape(name)
        assert shape is not None, "it is known by this name"
        if not shape.experts and shape.parameters > size and fits(shape):
            largest = name
            size = shape.parameters
    return largest


def _tuned(shape: ModelShape) -> Training:
    return Training(shape=shape, tokens=PASS_TOKENS, checkpointing=True)


def _reinforced(shape: ModelShape) -> Training:
    rollout = Rollout(
        rows=RESPONSES,
        columns=COLUMNS,
        twin=True,
        reference=True,
    )
    return replace(_tuned(shape), head="fused", rollout=rollout)


def _offloaded(shape: ModelShape) -> Training:
    return replace(_tuned(shape), profile="zero2", offload="optimizer")


def _adapted(shape: ModelShape) -> Training:
    return replace(_tuned(shape), adapter=adapter_of(LORA), frozen_half=True)
