"""Launch profiles: accelerate/<profile>.yaml as the variables that accelerate's launcher would set from it.

ZeRO's settings are DeepSpeed's own, in <profile>.json. `launch.offload` and `launch.deepspeed` are laid over them, and
the result is written beside stage.json, so that a run's folder holds what it was run with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1pipe.config.machine import gpus
from r1pipe.config.shipped_files import SHIPPED
from r1pipe.config.yamltree import plain, read
from r1pipe.errors import ConfigError
from r1pipe.schema import Launch
from r1pipe.text.regular_files import read_regular, reason

PROFILES = SHIPPED / "accelerate"
ZERO = ("zero1", "zero2", "zero3")

# DeepSpeed's settings that the trainer fills in from the stage's own fields.
_DERIVED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "bf16",
    "fp16",
    "optimizer",
    "scheduler",
)

# accelerate's variable for a key of fsdp_config is the key in capitals, except for this one.
_FSDP_NAMES = {"fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP"}


def launch_mistakes(launch: Launch) -> Iterator[tuple[str, str, str]]:
    """What cannot work in a launch block by itself: (field, what, fix)."""
    if launch.profile == "process" and launch.nodes > 1:
        yield "nodes", "profile process is for one machine", "another profile, or nodes: 1"
    yield from _offload_mistakes(launch)
    yield from _deepspeed_mistakes(launch)
    if launch.hostfile is not None and launch.slurm is not None:
        yield "hostfile", "`hostfile` and `slurm` are two ways to the same machines", "keep one"
    if launch.hostfile is not None and launch.nodes == 1:
        yield (
            "hostfile",
            "a hostfile is for several machines, and nodes is 1",
            "nodes: 2 or more; or leave `hostfile` out",
        )


def _offload_mistakes(launch: Launch) -> Iterator[tuple[str, str, str]]:
    if launch.offload == "optimizer" and launch.profile not in ZERO:
        other = "offload: all" if launch.profile == "fsdp2" else "offload: none"
        yield (
            "offload",
            f"profile {launch.profile} cannot keep the optimizer alone in CPU memory",
            f"profile: zero1, zero2 or zero3; or {other}",
        )
    if launch.offload == "all" and launch.profile not in ("zero3", "fsdp2"):
        other = "offload: optimizer" if launch.profile in ZERO else "offload: none"
        yield (
            "offload",
            f"profile {launch.profile} holds the whole weights on every device",
            f"profile: zero3 or fsdp2; or {other}",
        )


def _deepspeed_mistakes(launch: Launch) -> Iterator[tuple[str, str, str]]:
    if launch.deepspeed and launch.profile not in ZERO:
        yield (
            "deepspeed",
            f"profile {launch.profile} does not read DeepSpeed's settings",
            "profile: zero1, zero2 or zero3; or leave `deepspeed` out",
        )
    for key in launch.deepspeed:
        if key in _DERIVED:
            yield (
                "deepspeed",
                f"`{key}` follows from the stage's own config",
                "set batch_size, microbatch, max_grad_norm, lr or bf16 there",
            )
    zero = launch.deepspeed.get("zero_optimization", {})
    if not isinstance(zero, dict):
        yield (
            "deepspeed",
            "zero_optimization is a mapping",
            "deepspeed: {zero_optimization: {reduce_bucket_size: 500000000}}",
        )
    elif "stage" in zero:
        yield (
            "deepspeed",
            "zero_optimization.stage is set by the profile",
            "profile: zero1, zero2 or zero3",
        )


def deepspeed_config(launch: Launch) -> dict[str, Any]:
    """DeepSpeed's settings for a ZeRO profile: its JSON, then the offloading, then the launch block's own on top."""
    file = launch.deepspeed_file or PROFILES / f"{launch.profile}.json"
    config = _deepspeed_file(file)
    to_cpu = {"device": "cpu", "pin_memory": bool(gpus())}
    if launch.offload != "none":
        config["zero_optimization"]["offload_optimizer"] = to_cpu
    if launch.offload == "all":
        config["zero_optimization"]["offload_param"] = to_cpu
    return _laid_over(config, launch.deepspeed)


def _deepspeed_file(file: Path) -> dict[str, Any]:
    """DeepSpeed's settings in a file.

    Raises:
        ConfigError: it cannot be read, or holds no settings of ZeRO.
    """
    try:
        config = json.loads(read_regular(file).decode("utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"DeepSpeed's settings cannot be read: {reason(error)}", str(file)) from None
    if not isinstance(config, dict) or not isinstance(config.get("zero_optimization"), dict):
        fix = "the file that ships, configs/accelerate/zero3.json, shows the form"
        raise ConfigError("these are no settings of DeepSpeed: zero_optimization is missing", str(file), fix)
    return config


def optimizer_on_cpu(launch: Launch) -> bool:
    """Whether the optimizer's states lie in CPU memory, by `offload` or by DeepSpeed's own settings."""
    if launch.profile in ZERO:
        offload = deepspeed_config(launch)["zero_optimization"].get("offload_optimizer", {})
        return offload.get("device") == "cpu"
    return launch.profile == "fsdp2" and launch.offload == "all"


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge settings key by key; where both hold a mapping, the mappings are merged too."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _laid_over(merged[key], value)
        else:
            merged[key] = value
    return merged


def profile_environment(launch: Launch, folder: Path) -> dict[str, str]:
    """A profile as the variables that accelerate's launcher would set from it.

    Args:
        folder: of the stage; takes deepspeed.json, which every rank reads.
    """
    if launch.profile == "process":
        return {}

    file = launch.accelerate_file or PROFILES / f"{launch.profile}.yaml"
    settings: dict[str, Any] = plain(read(file))
    environment = {"ACCELERATE_MIXED_PRECISION": str(settings.get("mixed_precision", "no"))}
    if launch.profile in ZERO:
        deepspeed_json = folder / "deepspeed.json"
        deepspeed_json.write_text(json.dumps(deepspeed_config(launch), indent=1) + "\n", encoding="utf8")
        environment |= {
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(deepspeed_json),
            "ACCELERATE_DEEPSPEED_ZERO3_INIT": _as_text(
                settings.get("deepspeed_config", {}).get("zero3_init_flag", False)
            ),
        }
        if not gpus():
            environment["DS_ACCELERATOR"] = "cpu"
        return environment

    if "fsdp_config" in settings:
        environment["ACCELERATE_USE_FSDP"] = "true"
        fsdp: dict[str, Any] = settings["fsdp_config"] | {"fsdp_offload_params": launch.offload == "all"}
        for key, value in fsdp.items():
            environment[_FSDP_NAMES.get(key, key.upper())] = _as_text(value)
    if not gpus():
        environment["ACCELERATE_USE_CPU"] = "true"
    return environment


def _as_text(value: Any) -> str:
    """As accelerate's launcher writes it: true and false are not capitalised."""
    return str(value).lower() if isinstance(value, bool) else str(value)
