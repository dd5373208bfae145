"""A small checkpoint of which there is nothing to say, for tests that plant a fault in it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from families import write_json

from r1pipe.text.checkpoint_contract import Finding, Job, Use, check_checkpoint
from r1pipe.text.checkpoint_files import read_checkpoint

WORDS = ["<bos>", "<end>", "<|im_start|>", "<|im_end|>", "a", "b"]
SOUND = (
    "{{ bos_token }}{% for m in messages %}{{ m.role + ':' + m.content + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def added(content: str, number: int, special: bool = True) -> dict[str, Any]:
    return {"id": number, "content": content, "special": special}


def write_weights(folder: Path, **shapes: list[int]) -> None:
    """A safetensors file of these shapes; the numbers are zeros."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = shape[0] * shape[1] * 4
        header[name.replace("__", ".")] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def sound_checkpoint(folder: Path) -> Path:
    """Write a sound checkpoint: its template begins with BOS and closes with the end token."""
    folder.mkdir()
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "vocab_size": 8,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "eos_token_id": 1,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": 1})
    write_json(folder / "tokenizer_config.json", {"bos_token": "<bos>", "eos_token": "<end>"})
    post_processor = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
    }
    tokenizer = {
        "added_tokens": [added(word, number) for number, word in enumerate(WORDS[:4])],
        "post_processor": post_processor,
        "model": {"vocab": {word: number for number, word in enumerate(WORDS)}},
    }
    write_json(folder / "tokenizer.json", tokenizer)
    (folder / "chat_template.jinja").write_text(SOUND)
    write_weights(folder, model__embed_tokens__weight=[8, 2])
    return folder


def look(folder: Path, job: Job = "sft", **use: Any) -> list[Finding]:
    return check_checkpoint(read_checkpoint(folder), Use(job, **use), "cold-start.inputs.model")
