"""GGUF files: llama.cpp computes from them what transformers computes from the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from families import family_tokenizer
from llama_cpp import LlamaCpp
from tiny_checkpoint import make_tiny_checkpoint

from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.errors import InputError
from r1pipe.serving.gguf_words import read_words

gguf = pytest.importorskip("gguf", reason="GGUF files are written with gguf (PyPI), which is missing")

TEXTS = [
    "How many 12345 apples?  Three\n\n  lines\tand a tab.",
    "I'll say: don't! 他们 有 3 个苹果。 x_1=(a+b)*{c}; <think>hm</think> Ünïcode 🙂🙂",
]


def written(checkpoint: Path, folder: Path, precision: str = "f32") -> Path:
    from r1pipe.serving.export import export

    export(checkpoint, folder, gguf=[precision], name="m")
    return folder / f"m-{precision}.gguf"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / "base" / name, folder)
    return folder


SHAPE = {
    "vocab_size": 2016,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "eos_token_id": 1992,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("Qwen2", {}),
        ("Qwen2", {"rope_parameters": YARN}),
        ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
        ("Llama", {"attention_bias": True}),
        ("Llama", {"rope_parameters": LLAMA3}),
    ],
    ids=["qwen2", "qwen2-yarn", "qwen3", "llama", "llama3.1"],
)
def test_random_models_have_the_same_logits(
    family: str, more: dict[str, Any], words: Path, tmp_path: Path
) -> None:
    import torch
    import transformers

    checkpoint = tmp_path / "model"
    shutil.copytree(words, checkpoint)
    config = getattr(transformers, f"{family}Config")(**SHAPE | more)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # As they come, biases are 0 and norms 1, and logits nearly flat: a wrong place would not show.
            weight.copy_(torch.randn_like(weight) * 0.2 + (weight.ndim == 1))
    model.save_pretrained(checkpoint)
    llama = LlamaCpp(written(checkpoint, tmp_path / "out"))
    ids = torch.randint(0, 1990, (200,)).tolist()
    shown = json.loads((words / "tokenizer.json").read_text())["model"]["vocab"]
    readable = {number for word, number in shown.items() if word.isascii()}
    compared = 0
    for length in range(1, 201, 12):
        with torch.no_grad():
            logits_V = model(torch.tensor([ids[:length]])).logits[0, -1]
        # llama.cpp reports no probabilities beside an end token or a part of a character.
        if int(logits_V.argmax()) in readable:
            theirs_V = torch.tensor(llama.log_probs(ids[:length], SHAPE["vocab_size"]))
            assert (logits_V.log_softmax(-1) - theirs_V).abs().max() < 1e-3
            assert logits_V.std() > 0.5
            compared += 1
    assert compared > 2


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_the_same_greedy_text_on_fifty_prompts(precision: str, tmp_path: Path) -> None:
    """Of the embedded base, or of the checkpoint that R1PIPE_CHECKPOINT names."""
    from r1pipe.embedded.world import DRAW, problems
    from r1pipe.generation.decoding import decode
    from r1pipe.models.loading import end_ids, load_model, load_tokenizer
    from r1pipe.text.rendering import prompt_ids

    checkpoint = Path(os.environ.get("R1PIPE_CHECKPOINT", EMBEDDED / "base"))
    tokenizer = load_tokenizer(checkpoint)
    model = load_model(checkpoint, training=False)
    rows = problems("heldout", list(DRAW), 50, seed=3)
    ids = prompt_ids(rows, None, tokenizer)
    ends = end_ids(model, tokenizer)
    llama = LlamaCpp(written(checkpoint, tmp_path / "out", precision))
    differ = []
    for question, prompt in zip(rows, ids, strict=True):
        (drawn,) = decode(
            model, [prompt], max_new_tokens=100, temperature=0, eos_ids=ends, pad_id=tokenizer.pad_token_id
        ).token_ids
        shown = drawn[:-1] if drawn[-1] in ends else drawn
        ours = tokenizer.decode(shown, skip_special_tokens=True)
        chatted = llama.chat([{"role": "user", "content": question["prompt"]}], 100)
        if not ours == llama.greedy(prompt, 100) == chatted:
            differ.append(question["prompt"])
    assert len(rows) == 50 and not differ


def test_rows_of_whole_blocks_are_quantized(words: Path, tmp_path: Path) -> None:
    """Norms stay in f32, and rows of 96 + 8 weights in f16."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    checkpoint = tmp_path / "model"
    shutil.copytree(words, checkpoint)
    Qwen2ForCausalLM(Qwen2Config(**SHAPE | {"intermediate_size": 104})).save_pretrained(checkpoint)
    file = written(checkpoint, tmp_path / "out", "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert kinds["blk.0.attn_q.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == "F16"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2.5-instruct", "qwen3-instruct", "r1-distill", "smollm2"])
def test_families_have_the_same_tokens_and_prompts(family: str, tmp_path: Path) -> None:
    """With the family's whole tokenizer beside a tiny model; a reply keeps its thinking in each template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from r1pipe.models.loading import load_tokenizer

    checkpoint = family_tokenizer(family, tmp_path / family, cache=tmp_path / "cache")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint)).save_pretrained(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    llama = LlamaCpp(written(checkpoint, tmp_path / "out", "f16"))
    for text in TEXTS:
        text = text if family != "smollm2" else text.replace("<think>", "")
        assert llama.tokens(text) == tokenizer(text, add_special_tokens=False)["input_ids"]
    question = {"role": "user", "content": "1 + 2?"}
    asked = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    assert llama.prompt([question]) in (asked, asked.removeprefix(tokenizer.bos_token or ""))
    reply = {"role": "assistant", "content": "<think>one and two</think>3"}
    if family == "r1-distill":
        assert "one and two</think>3" in llama.prompt([question, reply, question])


def test_a_tokenizer_that_llama_cpp_has_not_is_refused(tmp_path: Path) -> None:
    """The tiny checkpoint's splits texts as GPT-2's; one that lowercases has no name there."""
    checkpoint = make_tiny_checkpoint(tmp_path / "tiny")
    path = checkpoint / "tokenizer.json"
    assert read_words(checkpoint, 400).rule == "gpt-2"
    parsed = json.loads(path.read_text())
    path.write_text(json.dumps(parsed | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(InputError, match="changes texts by Lowercase"):
        read_words(checkpoint, 400)
    with pytest.raises(InputError, match="has the id"):
        path.write_text(json.dumps(parsed))
        read_words(checkpoint, 200)
