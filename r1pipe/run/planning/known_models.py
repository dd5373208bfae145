"""Sizes of models that configs name, so that a figure can be planned before anything is downloaded.

Numbers are those of each model's config.json on the hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.run.planning.model_shape import ModelShape, read_shape, shape_of

# model_type, layers, width, inner width, heads, key heads, words, tied
_DENSE: dict[str, tuple[str, int, int, int, int, int, int, bool]] = {
    "Qwen2.5-0.5B": ("qwen2", 24, 896, 4864, 14, 2, 151_936, True),
    "Qwen2.5-1.5B": ("qwen2", 28, 1536, 8960, 12, 2, 151_936, True),
    "Qwen2.5-3B": ("qwen2", 36, 2048, 11_008, 16, 2, 151_936, True),
    "Qwen2.5-7B": ("qwen2", 28, 3584, 18_944, 28, 4, 152_064, False),
    "Qwen2.5-14B": ("qwen2", 48, 5120, 13_824, 40, 8, 152_064, False),
    "Qwen2.5-32B": ("qwen2", 64, 5120, 27_648, 40, 8, 152_064, False),
    "Qwen2.5-72B": ("qwen2", 80, 8192, 29_568, 64, 8, 152_064, False),
    "Llama-3.1-8B": ("llama", 32, 4096, 14_336, 32, 8, 128_256, False),
    "Llama-3.3-70B": ("llama", 80, 8192, 28_672, 64, 8, 128_256, False),
    "SmolLM2-135M": ("llama", 30, 576, 1536, 9, 3, 49_152, True),
}
# What its config.json states (huggingface.co/deepseek-ai/DeepSeek-V3).
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129_280,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "tie_word_embeddings": False,
    "max_position_embeddings": 163_840,
}
# Endings of names that change nothing of a model's size, and words within them.
_SAME_SIZE = ("-Instruct", "-Base", "-Chat")
_SAME_FAMILY = ("-Math", "-Coder")


def known_names() -> list[str]:
    return [*_DENSE, "DeepSeek-V3"]


def known_shape(name: str) -> ModelShape | None:
    """The shape of a model by its name on the hub, with or without its owner."""
    plain = name.split("/")[-1].split("@")[0]
    for ending in _SAME_SIZE:
        plain = plain.removesuffix(ending)
    for word in _SAME_FAMILY:
        plain = plain.replace(word, "")
    if plain in ("DeepSeek-V3", "DeepSeek-R1"):
        return shape_of(DEEPSEEK_V3)
    if plain not in _DENSE:
        return None
    family, layers, hidden, inner, heads, key_heads, words, tied = _DENSE[plain]
    config: dict[str, Any] = {
        "model_type": family,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": words,
        "tie_word_embeddings": tied,
    }
    return shape_of(config)


def named_shape(text: str) -> ModelShape:
    """The shape of a folder with config.json, or of a model that is known by name.

    Raises:
        InputError: it is neither.
    """
    if (Path(text) / "config.json").is_file():
        return read_shape(Path(text))
    shape = known_shape(text)
    if shape is None:
        names = ", ".join(known_names())
        raise InputError(
            f"'{text}' is no folder with a config.json, and no model that plan knows",
            "--model",
            f"name a folder, or one of {names}",
        )
    return shape
