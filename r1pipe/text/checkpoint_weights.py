"""What the headers of a checkpoint's weights say, beside its config.json."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from r1pipe.text.checkpoint_files import INDEX, CheckpointFiles

Level = Literal["error", "warning", "unchecked"]
Found = tuple[Level, str, str, str]
"""(level, file in the folder or "", what, fix)"""

# Layers of the language model: those that see or hear have more before their name.
_LAYER = re.compile(r"(?:(?:model|language_model|transformer)\.)*(?:layers|h)\.(\d+)\.")


def names_of_weights(files: CheckpointFiles) -> Iterator[Found]:
    """The files of weights, of which transformers finds those with its own names."""
    folder = files.folder
    if (folder / "adapter_config.json").is_file():
        yield (
            "error",
            "adapter_config.json",
            "it is an adapter: transformers would load the model that this file names, whatever lies beside it",
            "merge it into its model (peft: merge_and_unload) and save that; or, if that was done, remove the file",
        )
        return
    found = sorted(file.name for file in folder.glob("*.safetensors"))
    if found and not any((folder / name).is_file() for name in ("model.safetensors", INDEX)):
        yield (
            "error",
            "",
            f"transformers reads model.safetensors or what {INDEX} names, and here are {', '.join(found[:3])}",
            "bring the index that was published with them, or the checkpoint in Hugging Face's format",
        )


def embedding_and_head(
    files: CheckpointFiles,
    shapes: dict[str, list[int]],
    has_head: bool,
) -> Iterator[Found]:
    """The embedding and the last layer, as the weights have them.

    Args:
        has_head: the last layer gives words; that of a reward model does not.
    """
    size = files.text_config.get("vocab_size")
    embeddings = [
        shape for name, shape in shapes.items() if name.endswith(("embed_tokens.weight", "wte.weight"))
    ]
    head = any(name.endswith("lm_head.weight") for name in shapes)
    if not embeddings:
        return
    rows = embeddings[0][0]
    if isinstance(size, int) and rows != size:
        yield (
            "error",
            "config.json",
            f"vocab_size is {size}, and the embedding in the weights has {rows} rows",
            f"write vocab_size {rows}, if the weights are right",
        )
    if files.tied is False and not head and has_head:
        yield (
            "error",
            "config.json",
            "tie_word_embeddings is false, and the weights have no lm_head: the last layer would be random",
            "write tie_word_embeddings: true, if the embedding is the last layer; or bring the missing weights",
        )
    if files.tied and head:
        yield (
            "warning",
            "config.json",
            "tie_word_embeddings is true, and the weights hold an lm_head of their own, which is not used",
            "write tie_word_embeddings: false, if it differs from the embedding",
        )


def layers_and_width(files: CheckpointFiles, shapes: dict[str, list[int]]) -> Iterator[Found]:
    """The number of layers and their width, as the weights have them."""
    config = files.text_config
    numbers = {int(layer[1]) for layer in map(_LAYER.match, shapes) if layer}
    stated = config.get("num_hidden_layers")
    # Those behind the last one predict further tokens, and transformers leaves them out.
    further = config.get("num_nextn_predict_layers") or 0
    if numbers and isinstance(stated, int) and not stated <= max(numbers) + 1 <= stated + further:
        yield (
            "error",
            "config.json",
            f"it states {stated} layers, and the weights have {max(numbers) + 1}",
            "bring the config.json that belongs to the weights, or the missing weights",
        )
    width = config.get("hidden_size")
    widths = [shape[-1] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    if widths and isinstance(width, int) and widths[0] != width:
        yield (
            "error",
            "config.json",
            f"hidden_size is {width}, and it is not that of the weights",
            f"bring the config.json that belongs to them: the weights have {widths[0]}",
        )
