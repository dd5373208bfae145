"""What sharded weights need beyond what transformers, TRL and DeepSpeed do by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def uncoordinated(engine: Any) -> Iterator[None]:
    """Let every rank run its own number of forward passes. The weights must be gathered already.

    Until DeepSpeed has recorded the order of a model's modules, it compares this order over the ranks at the start of
    each forward pass. TRL takes DeepSpeed's other hooks off while it generates, but not this one, so ranks whose
    responses differ in length would wait for each other forever.

    Args:
        engine: the wrapped model; anything but a ZeRO-3 engine is left as it is.
    """
    offload = getattr(getattr(engine, "optimizer", None), "parameter_offload", None)
    if offload is None:
        yield
        return
    compare_order = offload.module._forward_pre_hooks[offload.fwd_pre_hook.id]
    offload.fwd_pre_hook.remove()
    try:
        yield
    finally:
        offload.fwd_pre_hook = offload.module.register_forward_pre_hook(compare_order)


@contextmanager
def unsharded() -> Iterator[None]:
    """Load models whole, on this rank alone.

    Under ZeRO-3, from_pretrained would otherwise shard them, and wait for the other ranks to do the same.
    """
    from transformers.integrations import deepspeed

    # transformers has no public way to read this reference, only to set and to unset it.
    known = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = known


def whole_parameters(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Each parameter with its name, whole and on the CPU; a collective where weights are sharded.

    Tied weights come once.
    """
    from torch.distributed.tensor import DTensor

    for name, parameter in model.named_parameters():
        with _gathered(parameter):
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            yield name, whole.detach().cpu().clone().contiguous()


def copy_whole_parameters(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give a model the weights of `whole_parameters`; a collective where weights are sharded."""
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = dict(model.named_parameters())
    assert parameters.keys() == weights.keys(), parameters.keys() ^ weights.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            weight = weights[name].to(parameter.device, parameter.dtype)
            if isinstance(parameter, DTensor):
                weight = distribute_tensor(weight, parameter.device_mesh, parameter.placements)
            # The first rank's values are what the others get.
            with _gathered(parameter, modifier_rank=0):
                parameter.copy_(weight)


def _gathered(parameter: Any, modifier_rank: int | None = None) -> AbstractContextManager[Any]:
    """Under ZeRO-3 the whole parameter within a block; elsewhere nothing."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=modifier_rank)


def gather_by_layer(model: Any) -> None:
    """Under ZeRO-3, gather the weights of a decoder layer in one message, and not each projection in its own.

    DeepSpeed calls such a module a leaf. Where the launch block's `deepspeed` sets `zero_optimization.leaf_module`,
    that is used instead of this.
    """
    from transformers.integrations.deepspeed import deepspeed_config, is_deepspeed_zero3_enabled

    if not is_deepspeed_zero3_enabled():
        return
    config: Any = deepspeed_config()
    # transformers lists here the classes of layers that must stay on one device, which are the decoder layers.
    layer_classes = getattr(model, "_no_split_modules", None)
    if layer_classes and "leaf_module" not in config["zero_optimization"]:
        from deepspeed.utils import set_z3_leaf_modules

        # Sorted, since every rank must gather in the same order.
        set_z3_leaf_modules(model, sorted(layer_classes))
