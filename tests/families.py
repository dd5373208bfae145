"""Checkpoints of real model families in small: the family's tokenizer and template beside tiny random weights.

Tokenizers are those of ../shared/tokenizers (its README says from where). `stand_in` families have none there: a small
tokenizer with the family's special tokens takes its place, under the family's own template, which TRL ships. Templates
that are written here by hand have the property that their name states, and nothing else of a family.
"""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TOKENIZERS = Path(__file__).parents[2] / "shared" / "tokenizers"

# Closed by <|im_end|>, as Qwen2.5's and Qwen3's; drops what stands before </think>, as QwQ's. Written by hand.
DROPS_THINKING = """\
{%- for m in messages %}
{%- set content = m.content %}
{%- if m.role == 'assistant' and '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
{{- '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# The same with a generation prompt that opens the thinking, as QwQ's and Qwen3-Thinking's. Written by hand.
OPENS_THINKING = DROPS_THINKING.replace("assistant\n' }}", "assistant\n<think>\n' }}")


class Family(NamedTuple):
    """A family.

    Attributes:
        tokenizer: its folder in ../shared/tokenizers, or the special tokens of a stand-in, BOS and end first.
        model: transformers' name of its architecture.
        end: the tokenizer's end token, where it is not the folder's own.
        template: TRL's file, or a text; None = the folder's own.
        prompt: what a question becomes; {q} is the question.
        reply: what is trained for the reply `<think>a</think>b`: {a} and {b} are its parts.
        stops: the end tokens, in the order of their ids.
    """

    tokenizer: str | tuple[str, ...]
    model: str
    prompt: str
    reply: str
    stops: tuple[str, ...]
    end: str = ""
    template: str | None = None
    images: bool = False
    """It reads images as well: the language model is a part of it."""

    @property
    def stand_in(self) -> bool:
        return not isinstance(self.tokenizer, str)


CHATML = "<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n"
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QWEN25 = f"<|im_start|>system\n{QWEN_SYSTEM}<|im_end|>\n{CHATML}"
SMOL_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
SMOL = f"<|im_start|>system\n{SMOL_SYSTEM}<|im_end|>\n{CHATML}"
PLAIN = "<think>{a}</think>{b}<|im_end|>\n"
BOTH = ("<|endoftext|>", "<|im_end|>")
LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)

FAMILIES = {
    "qwen2.5-base": Family("qwen2.5-coder", "Qwen2", QWEN25, PLAIN, BOTH, end="<|endoftext|>"),
    "qwen2.5-instruct": Family("qwen2.5-coder", "Qwen2", QWEN25, PLAIN, ("<|im_end|>",)),
    "qwen3-base": Family(
        "qwen3", "Qwen3", CHATML, "<think>\n{a}\n</think>\n\n{b}<|im_end|>\n", BOTH, end="<|endoftext|>"
    ),
    "qwen3-instruct": Family(
        "qwen3", "Qwen3", CHATML, "<think>\n{a}\n</think>\n\n{b}<|im_end|>\n", ("<|im_end|>",)
    ),
    "qwen3-drops": Family("qwen3", "Qwen3", CHATML, PLAIN, ("<|im_end|>",), template=DROPS_THINKING),
    "qwen3-thinking": Family(
        "qwen3",
        "Qwen3",
        CHATML + "<think>\n",
        "{a}</think>{b}<|im_end|>\n",
        ("<|im_end|>",),
        template=OPENS_THINKING,
    ),
    "llama3.1": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        "Llama",
        LLAMA,
        "<think>{a}</think>{b}<|eot_id|>",
        ("<|end_of_text|>", "<|eot_id|>"),
        template="llama3_1.jinja",
    ),
    "deepseek-v3": Family(
        "deepseek-v3",
        "DeepseekV3",
        "<｜begin▁of▁sentence｜><｜User｜>{q}<｜Assistant｜>",
        "<think>{a}</think>{b}<｜end▁of▁sentence｜>",
        ("<｜end▁of▁sentence｜>",),
    ),
    "r1-distill": Family(
        "deepseek-v3",
        "Llama",
        "<｜begin▁of▁sentence｜><｜User｜>{q}<｜Assistant｜><think>\n",
        "{a}</think>{b}<｜end▁of▁sentence｜>",
        ("<｜end▁of▁sentence｜>",),
        template="deepseek_r1_distill.jinja",
    ),
    "smollm2": Family("smollm2", "Llama", SMOL, PLAIN, ("<|im_end|>",)),
    "gemma3": Family(
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "Gemma3",
        "<bos><start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n",
        "<think>{a}</think>{b}<end_of_turn>\n",
        ("<eos>", "<end_of_turn>"),
        template="gemma3.jinja",
    ),
}
FAMILIES["gemma3-images"] = FAMILIES["gemma3"]._replace(images=True)
FAMILIES["qwen3.5"] = FAMILIES["qwen3-instruct"]._replace(model="Qwen3_5", images=True)

MODEL_TYPES = {
    "Qwen2": "qwen2",
    "Qwen3": "qwen3",
    "Qwen3_5": "qwen3_5_text",
    "Llama": "llama",
    "DeepseekV3": "deepseek_v3",
    "Gemma3": "gemma3_text",
}
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "max_position_embeddings": 512,
}
# Its default belongs to heads of 256.
GEMMA = {"query_pre_attn_scalar": 16}
QWEN35 = {"layer_types": ["full_attention"]}
EYES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    # Gemma's names, and Qwen's for the same
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "depth": 1,
    "num_heads": 2,
    "out_hidden_size": 32,
}
DEEPSEEK = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 0,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def family_tokenizer(name: str, folder: Path, *, cache: Path, words: int | None = None) -> Path:
    """A folder with the family's tokenizer and template, and a config.json of its architecture.

    Args:
        cache: where unpacked tokenizers are kept.
        words: cut the vocabulary to its first words, and number the added tokens anew behind them.
    """
    family = FAMILIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(family.tokenizer, str):
        shutil.copytree(_unpacked(family.tokenizer, cache, words), folder, dirs_exist_ok=True)
    else:
        _stand_in(family.tokenizer, folder)

    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf8"))
    if family.end:
        settings["eos_token"] = family.end
    if family.template is not None:
        settings.pop("chat_template", None)
        (folder / "chat_template.jinja").write_text(template_text(family.template), encoding="utf8")
    write_json(folder / "tokenizer_config.json", settings)

    added = {
        token["content"]: token["id"]
        for token in json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))["added_tokens"]
    }
    end_token = settings["eos_token"]
    end = added[end_token["content"] if isinstance(end_token, dict) else end_token]
    own = {"DeepseekV3": DEEPSEEK, "Gemma3": GEMMA, "Qwen3_5": QWEN35}
    config = {
        **TINY,
        **own.get(family.model, {}),
        "model_type": MODEL_TYPES[family.model],
        "architectures": [f"{family.model}ForCausalLM"],
        # a multiple of 64, as most families pad theirs
        "vocab_size": -(-_words(folder) // 64) * 64,
        "eos_token_id": end,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    if family.images:
        config = {
            "model_type": MODEL_TYPES[family.model].removesuffix("_text"),
            "architectures": [f"{family.model}ForConditionalGeneration"],
            "eos_token_id": end,
            "text_config": config,
            "vision_config": EYES,
        }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": end})
    return folder


def family_checkpoint(name: str, folder: Path, *, cache: Path) -> Path:
    """The same with random weights and a vocabulary of 2,000 words, since a model of 150,000 learns slowly."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    family_tokenizer(name, folder, cache=cache, words=2000)
    torch.manual_seed(0)
    kept = {path.name: path.read_bytes() for path in folder.glob("*config.json")}
    auto_class = AutoModelForImageTextToText if FAMILIES[name].images else AutoModelForCausalLM
    auto_class.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    (folder / "generation_config.json").write_bytes(kept["generation_config.json"])
    return folder


def template_text(template: str) -> str:
    if not template.endswith(".jinja"):
        return template
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / template).read_text(encoding="utf8")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf8")


def change_json(path: Path, **changes: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf8")) if path.exists() else {}
    content |= changes
    write_json(path, {name: value for name, value in content.items() if value is not None})


def _words(folder: Path) -> int:
    parsed = json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))
    ids = [*parsed["model"]["vocab"].values(), *(token["id"] for token in parsed["added_tokens"])]
    return max(ids) + 1


def _unpacked(name: str, cache: Path, words: int | None) -> Path:
    source = TOKENIZERS / name
    if not source.is_dir():
        pytest.skip("the tokenizers of real families are not beside this checkout (../shared/tokenizers)")
    target = cache / f"{name}-{words or 'all'}"
    if not target.is_dir():
        target.mkdir(parents=True)
        for file in source.iterdir():
            if file.suffix == ".xz":
                (target / file.stem).write_bytes(lzma.decompress(file.read_bytes()))
            else:
                shutil.copy(file, target)
        if words is not None:
            _cut(target, words)
    return target


def _cut(folder: Path, words: int) -> None:
    """Keep the first words and their merges; pre-tokenizer, added tokens and template stay the family's own."""
    parsed = json.loads((folder / "tokenizer.json").read_text(encoding="utf8"))
    model = parsed["model"]
    vocab = {word: number for word, number in model["vocab"].items() if number < words}
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    kept = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab and "".join(pair) in vocab]
    model |= {"vocab": vocab, "merges": kept}
    following = words
    for token in parsed["added_tokens"]:
        if token["content"] in vocab:
            continue
        token["id"] = following
        following += 1
    write_json(folder / "tokenizer.json", parsed)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf8"))
    settings.pop("added_tokens_decoder", None)
    write_json(folder / "tokenizer_config.json", settings)


def _stand_in(special: tuple[str, ...], folder: Path) -> None:
    """A small byte-level tokenizer with these special tokens, which puts the first of them before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    bpe.train_from_iterator(["the user asks, the assistant answers"], trainer)
    bos = special[0]
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bpe.token_to_id(bos))]
    )
    bpe.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": special[1]}
    write_json(folder / "tokenizer_config.json", settings)
