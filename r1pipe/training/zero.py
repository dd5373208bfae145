"""What sampling from a model under ZeRO-3 needs beyond TRL's unwrap_model_for_generation."""

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
