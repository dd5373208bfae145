"""Checkpoints of other kinds, each told from its files alone; and that transformers does load what is let through."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import EYES, GEMMA, QWEN35, TINY, change_json, write_json
from sound_checkpoint import look, sound_checkpoint

from r1pipe.artifacts import Checkpoint
from r1pipe.config.artifact_checks import missing_parts
from r1pipe.errors import InputError

Plant = Callable[[Path], Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sound_checkpoint(tmp_path / "mine")


def config(**changes: Any) -> Plant:
    return lambda folder: change_json(folder / "config.json", **changes)


def pictures(model_type: str, architecture: str) -> Plant:
    return config(model_type=model_type, architectures=[architecture], text_config={}, vision_config={})


def beside(name: str, content: Any) -> Plant:
    return lambda folder: write_json(folder / name, content)


def renamed(name: str) -> Plant:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


# what is planted, the job, the level, words of what is said, words of the way out
KINDS: dict[str, tuple[Plant, str, str, str, str]] = {
    "a model of pictures that is no language model alone": (
        pictures("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration"),
        "sft",
        "error",
        "loads no language model of it alone",
        "that it was made of",
    ),
    "one whose pictures' weights would be in the way": (
        pictures("llama4", "Llama4ForConditionalGeneration"),
        "sampling",
        "error",
        "Llama4ForCausalLM does not know the weights",
        "that it was made of",
    ),
    "one that is loaded whole": (
        pictures("gemma3", "Gemma3ForConditionalGeneration"),
        "sft",
        "warning",
        "all of it is loaded",
        "on text alone",
    ),
    "one of which the text is loaded": (
        pictures("qwen3_5", "Qwen3_5ForConditionalGeneration"),
        "rl",
        "warning",
        "its language model alone",
        "reads no images",
    ),
    "an encoder and decoder": (
        config(model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True),
        "sft",
        "error",
        "T5ForConditionalGeneration is no language model",
        "ForCausalLM",
    ),
    "an encoder and decoder that a table calls causal": (
        config(model_type="bart", architectures=["BartForConditionalGeneration"]),
        "sampling",
        "error",
        "BartForConditionalGeneration is no language model",
        "ForCausalLM",
    ),
    "a body without a last layer": (
        config(architectures=["Qwen2Model"]),
        "sft",
        "error",
        "Qwen2Model is no language model",
        "ForCausalLM",
    ),
    "a model of embeddings": (
        beside("modules.json", []),
        "sft",
        "error",
        "a model of embeddings",
        "that it was made of",
    ),
    "a classifier as a base": (
        config(architectures=["Qwen2ForSequenceClassification"]),
        "rl",
        "error",
        "Qwen2ForSequenceClassification is no language model",
        "ForCausalLM",
    ),
    "a classifier of tokens as a base": (
        config(architectures=["Qwen2ForProcessRewardModel"]),
        "reward model",
        "error",
        "Qwen2ForProcessRewardModel is no language model",
        "ForCausalLM",
    ),
    "a language model as a reward model": (
        config(),
        "scoring",
        "error",
        "Qwen2ForCausalLM gives none",
        "helpful-rm or safety-rm",
    ),
    "code of its authors": (
        config(model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"}),
        "sft",
        "error",
        "code of its authors (auto_map), which is not run",
        "transformers has itself",
    ),
    "a type that nobody knows": (
        config(model_type="mine"),
        "sft",
        "error",
        "no causal language model of the type 'mine'",
        "install the version",
    ),
    "no type at all": (config(model_type=None), "sft", "error", "has no model_type", "bring the config.json"),
    "no classifier of that architecture": (
        config(model_type="mamba", architectures=["MambaForCausalLM"]),
        "reward model",
        "error",
        "no ForSequenceClassification for mamba",
        "Llama",
    ),
    "fp8 that would be trained": (
        config(quantization_config={"quant_method": "fp8"}),
        "reward model",
        "error",
        "quantized (fp8)",
        "bfloat16",
    ),
    "4 bits without their reader": (
        config(quantization_config={"quant_method": "gptq"}),
        "sampling",
        "error",
        "and optimum and gptqmodel, which reads them, is not installed",
        "pip install optimum gptqmodel",
    ),
    "an adapter beside weights": (
        beside("adapter_config.json", {"base_model_name_or_path": "me/mine"}),
        "sft",
        "error",
        "it is an adapter",
        "merge",
    ),
    "Mistral's own names of weights": (
        renamed("consolidated.safetensors"),
        "sampling",
        "error",
        "here are consolidated.safetensors",
        "bring the index",
    ),
    "shards without their index": (
        renamed("model-00001-of-00002.safetensors"),
        "sft",
        "error",
        "here are model-00001",
        "bring the index",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_told_from_its_files(name: str, folder: Path) -> None:
    plant, job, level, what, fix = KINDS[name]
    plant(folder)
    (found,) = look(folder, job)  # type: ignore[arg-type]
    assert found.level == level
    assert what in found.what and fix in found.fix
    assert found.where.startswith(f"cold-start.inputs.model ({folder}")


def test_weights_that_transformers_reads_by_itself(folder: Path) -> None:
    change_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    assert look(folder, "sampling") == []


def test_code_of_authors_beside_our_own_is_no_fault(folder: Path) -> None:
    """DeepSeek-V3 has such, and transformers takes its own class."""
    change_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_deepseek.X"})
    assert look(folder, "sft") == []


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (renamed("model-q8_0.gguf"), "it holds GGUF, which is for running a model; take the checkpoint"),
        (renamed("pytorch_model.bin"), "weights in a pickle are not read"),
        (lambda folder: (folder / "config.json").rename(folder / "adapter_config.json"), "merge_and_unload"),
    ],
)
def test_a_folder_that_is_no_checkpoint(plant: Plant, says: str, folder: Path) -> None:
    """Refused while the config is read."""
    plant(folder)
    assert says in missing_parts(Checkpoint, folder)


TEXT = {**TINY, "vocab_size": 64}
WIDE = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 64}
SECTIONS = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}}
LLAMA4 = {"num_local_experts": 2, "intermediate_size_mlp": 32}
PROJECTED = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
REAL: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": TEXT,
    "Qwen2Model": {**TEXT, "tie_word_embeddings": False},
    "Qwen2ForSequenceClassification": {**TEXT, "tie_word_embeddings": False},
    "BartForConditionalGeneration": {**WIDE, **HEADS},
    "Gemma3ForConditionalGeneration": {"text_config": TEXT | GEMMA, "vision_config": EYES},
    "Qwen3_5ForConditionalGeneration": {"text_config": TEXT | QWEN35, "vision_config": EYES},
    "Qwen2_5_VLForConditionalGeneration": {"text_config": TEXT | SECTIONS, "vision_config": EYES},
    "Llama4ForConditionalGeneration": {"text_config": TEXT | LLAMA4, "vision_config": EYES | PROJECTED},
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", REAL)
def test_what_is_refused_cannot_be_loaded(architecture: str, tmp_path: Path) -> None:
    """The verdict from the files is that of the stage, which loads a real model of the architecture."""
    import transformers

    from r1pipe.models.loading import load_model
    from r1pipe.text.checkpoint_files import read_checkpoint
    from r1pipe.text.checkpoint_kinds import kind_of_model

    model = getattr(transformers, architecture)
    model(model.config_class(**REAL[architecture])).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [architecture]
    levels = {level for level, *_ in kind_of_model(read_checkpoint(tmp_path), trains=True, classifies=False)}
    try:
        load_model(tmp_path, training=True)
    except InputError:
        assert levels == {"error"}
    else:
        assert "error" not in levels
