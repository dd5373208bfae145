"""A checkpoint as one GGUF file, for llama.cpp and Ollama: Qwen2, Qwen3 and Llama, as f32, f16 or q8_0.

The package `gguf` knows the format and the names; which numbers go where is written here. llama.cpp's own converter is
no package, and refuses vocabularies that it has not seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError, MissingToolError
from r1pipe.serving.gguf_words import Words, read_words
from r1pipe.text.checkpoint_files import CheckpointFiles, read_checkpoint

# transformers' model_type -> llama.cpp's architecture.
ARCHITECTURES = {"qwen2": "QWEN2", "qwen3": "QWEN3", "llama": "LLAMA"}
PRECISIONS = ("f32", "f16", "q8_0")

# Weights of one block of q8_0; a row must be made of whole ones.
BLOCK = 32
LARGEST_F16 = 65504.0
DEFAULT_THETA = 10000.0


def write_gguf(
    checkpoint: Path,
    target: Path,
    *,
    precision: str,
    name: str,
    template: str,
    closing: int | None,
) -> Words:
    """Write a checkpoint's model and tokenizer into one file.

    Args:
        precision: f32, f16 or q8_0; norms and biases stay in f32.
        name: of the model, for who reads the file.
        template: the chat template that stands in it.
        closing: the id that closes a reply, where the end token is another.

    Returns:
        the vocabulary that was written.

    Raises:
        InputError: llama.cpp has no such model or tokenizer, or a weight is too large for f16.
        MissingToolError: the package gguf is not installed.
    """
    gguf = require_gguf()
    files = read_checkpoint(checkpoint)
    config = files.config
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    if architecture is None:
        raise InputError(
            f"a model of the type {config.get('model_type')!r} cannot be written as GGUF",
            str(checkpoint / "config.json"),
            f"export without --gguf; {', '.join(ARCHITECTURES)} can be written",
        )
    words = read_words(checkpoint, config["vocab_size"])
    kind = gguf.MODEL_ARCH[architecture]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[kind])
    try:
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[precision]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_shape(writer, config, gguf)
        _add_words(writer, words, files, template, closing)
        _add_weights(writer, checkpoint, kind, precision, gguf)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return words


_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}


def require_gguf() -> Any:
    """The package gguf.

    Raises:
        MissingToolError: it is not installed.
    """
    try:
        import gguf  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingToolError(
            "GGUF files are written with the package gguf, which is not installed",
            fix='pip install "r1pipe[gguf]"',
        ) from None
    return gguf


# --- the model's shape ------------------------------------------------------------------------------------------------


def _add_shape(writer: Any, config: dict[str, Any], gguf: Any) -> None:
    heads = config["num_attention_heads"]
    width = config["hidden_size"]
    head_width = config.get("head_dim") or width // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(head_width)
    _add_rope(writer, config, head_width, gguf)


def _add_rope(writer: Any, config: dict[str, Any], head_width: int, gguf: Any) -> None:
    """Positions: the base, and how they were stretched for longer texts."""
    # Files of transformers 4 have the base beside the scaling.
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or DEFAULT_THETA)
    writer.add_rope_freq_base(theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return
    if kind == "llama3":
        factors = _llama3_factors(rope, theta, head_width)
        writer.add_tensor("rope_freqs.weight", factors)
        return
    if kind not in ("linear", "yarn"):
        raise InputError(
            f"positions of the kind {kind!r} cannot be written as GGUF",
            "config.json",
            "export without --gguf; default, linear, yarn and llama3 can be written",
        )
    writer.add_rope_scaling_type(gguf.RopeScalingType[kind.upper()])
    writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)


def _llama3_factors(rope: dict[str, Any], theta: float, head_width: int) -> Any:
    """What each frequency is divided by (Llama 3.1's stretching), (D / 2,)."""
    import numpy as np

    factor = rope["factor"]
    low = rope["low_freq_factor"]
    high = rope["high_freq_factor"]
    original = rope["original_max_position_embeddings"]
    factors = []
    for dimension in range(0, head_width, 2):
        wavelength = 2 * math.pi * theta ** (dimension / head_width)
        # 0 for the slowest waves, which are stretched whole; 1 for the fastest, which stay.
        kept = (original / wavelength - low) / (high - low)
        kept = min(1.0, max(0.0, kept))
        factors.append(1 / ((1 - kept) / factor + kept))
    return np.asarray(factors, np.float32)


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def _add_words(
    writer: Any,
    words: Words,
    files: CheckpointFiles,
    template: str,
    closing: int | None,
) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.rule)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges(words.merges)
    writer.add_add_bos_token(files.adds_bos)

    numbers = {word: number for number, word in enumerate(words.tokens)}
    add = {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "pad_token": writer.add_pad_token_id,
    }
    for role, tell in add.items():
        token = files.named_token(role)
        if token in numbers:
            tell(numbers[token])
    if closing is not None and closing != numbers.get(files.named_token("eos_token")):
        writer.add_eot_token_id(closing)
    writer.add_chat_template(template)


# --- the weights ------------------------------------------------------------------------------------------------------


def _add_weights(writer: Any, checkpoint: Path, kind: Any, precision: str, gguf: Any) -> None:
    import numpy as np

    config = read_checkpoint(checkpoint).config
    names = gguf.get_tensor_name_map(kind, config["num_hidden_layers"])
    tied = config.get("tie_word_embeddings", False)
    for name, weight in _weights(checkpoint):
        # A tied last layer is the embedding, and stands there once.
        if name == "lm_head.weight" and tied:
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise InputError(
                f"the weight {name} has no place in GGUF", str(checkpoint), "export without --gguf"
            )
        if kind == gguf.MODEL_ARCH.LLAMA:
            weight = _as_llama(name, weight, config)
        if weight.ndim == 1 or precision == "f32":
            writer.add_tensor(theirs, weight)
        elif precision == "q8_0" and weight.shape[-1] % BLOCK == 0:
            q8_0 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(theirs, gguf.quants.quantize(weight, q8_0), raw_dtype=q8_0)
        else:
            if np.abs(weight).max() > LARGEST_F16:
                raise InputError(f"{name} is too large for f16", str(checkpoint), "--gguf f32")
            writer.add_tensor(theirs, weight.astype(np.float16))


def _weights(checkpoint: Path) -> Iterator[tuple[str, Any]]:
    """Each weight of the files with its name, as a float32 array."""
    from safetensors import safe_open

    for path in sorted(checkpoint.glob("*.safetensors")):
        # numpy has no bfloat16, so torch reads.
        with safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - safe_open is no mapping
                yield name, weights.get_tensor(name).float().numpy()


def _as_llama(name: str, weight: Any, config: dict[str, Any]) -> Any:
    """The rows of Llama's queries and keys in llama.cpp's order.

    RoPE turns pairs of rows: transformers pairs a row with the one half a head below, llama.cpp with the next one.
    """
    found = re.search(r"\.(q|k)_proj\.(?:weight|bias)\Z", name)
    if not found:
        return weight
    heads = config["num_attention_heads"]
    if found[1] == "k":
        heads = config.get("num_key_value_heads") or heads
    rows = weight.shape[0] // heads
    halves = weight.reshape(heads, 2, rows // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
