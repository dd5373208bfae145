"""A checkpoint that is an adapter (LoRA): weights to be added to those of its base."""

from __future__ import annotations

from pathlib import Path

from r1pipe.errors import InputError
from r1pipe.run.records import read_object

_CONFIG = "adapter_config.json"


def is_adapter(checkpoint: Path) -> bool:
    return (checkpoint / _CONFIG).is_file()


def base_of(adapter: Path) -> Path:
    """The folder of an adapter's base.

    Raises:
        InputError: the base is not where the adapter says.
    """
    stated = str(read_object(adapter / _CONFIG).get("base_model_name_or_path", ""))
    base = Path(stated)
    if not (base / "config.json").is_file():
        raise InputError(
            f"the base of the adapter is not here: {stated!r}",
            str(adapter / _CONFIG),
            "write its folder as base_model_name_or_path",
        )
    return base


def model_folder(checkpoint: Path) -> Path:
    """Where config.json is: the base's folder of an adapter, else the checkpoint itself."""
    return base_of(checkpoint) if is_adapter(checkpoint) else checkpoint


def tokenizer_folder(checkpoint: Path) -> Path:
    """Where the tokenizer is: an adapter need not bring one."""
    has_own = (checkpoint / "tokenizer.json").is_file()
    return checkpoint if has_own else model_folder(checkpoint)
