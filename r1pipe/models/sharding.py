"""What ZeRO-3 needs beyond what transformers, TRL and DeepSpeed do by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uncoordinated(engine: Any) -> Iterator[None]:
    """Let every rank run as many forward passes as it likes; the weights must be gathered already.

    DeepSpeed compares the order of modules over the ranks at the start of each forward pass until it has recorded one. TRL takes its
    other hooks off while it generates, and not this one, so ranks whose responses differ in length would wait for each other forever.

    Args:
        engine: the wrapped model; anything but a ZeRO-3 engine is left as it is.
    """
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    compare = offload.module._forward_pre_hooks[offload.fwd_pre_hook.id]
    offload.fwd_pre_hook.remove()
    try:
        yield
    finally:
        offload.fwd_pre_hook = offload.module.register_forward_pre_hook(compare)


@contextmanager
def unsharded() -> Iterator[None]:
    """Load models whole, on this rank alone: under ZeRO-3 from_pretrained would cut them up, and wait for the other ranks to do the same."""
    from transformers.integrations import deepspeed

    known = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = known


def gather_by_layer(model: Any) -> None:
    """Under ZeRO-3, gather a decoder layer's weights as one message and not each projection's as its own.

    DeepSpeed calls such a module a leaf. `zero_optimization.leaf_module` in the launch block's `deepspeed` takes the place of this.
    """
    from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        return
    config: Any = deepspeed_config()
    names = getattr(model, "_no_split_modules", None)
    if names and "leaf_module" not in config["zero_optimization"]:
        from deepspeed.utils import set_z3_leaf_modules

        set_z3_leaf_modules(model, sorted(names))
