"""Planted faults of checkpoints: each is named, with what it does and the way out; what is sound gives no word."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import DROPS_THINKING, OPENS_THINKING, change_json, write_json
from sound_checkpoint import SOUND, added, look, sound_checkpoint, write_weights

from r1pipe.config.artifact_checks import EMBEDDED
from r1pipe.text.checkpoint_files import read_checkpoint
from r1pipe.text.rendering import read_template

TOKENIZERS = Path(__file__).parents[3] / "shared" / "tokenizers"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sound_checkpoint(tmp_path / "mine")


def template(text: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text(text)

    return plant


def file(name: str, **changes: Any) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        change_json(folder / name, **changes)

    return plant


def special_tags(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += [added("<think>", 6), added("</think>", 7)]
    write_json(folder / "tokenizer.json", tokenizer)


def more_words(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += [added("<answer>", 8, special=False)]
    write_json(folder / "tokenizer.json", tokenizer)


def appended_end(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"]["single"].append({"SpecialToken": {"id": "<end>", "type_id": 0}})
    write_json(folder / "tokenizer.json", tokenizer)


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def missing_shard(folder: Path) -> None:
    index = {"weight_map": {"model.embed_tokens.weight": "model-00002-of-00002.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)


def cut_off(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-8])


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def own_head(folder: Path) -> None:
    write_weights(folder, model__embed_tokens__weight=[8, 2], lm_head__weight=[8, 2])


def other_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"x")


def template_of_a_processor(folder: Path) -> None:
    no_template(folder)
    write_json(folder / "chat_template.json", {"chat_template": SOUND})


def layers(folder: Path, stated: int, **more: Any) -> None:
    """Weights of the layers 0, 1 and 2, of which config.json states another number."""
    change_json(folder / "config.json", num_hidden_layers=stated, **more)
    names = {f"model__layers__{number}__mlp__up_proj__weight": [2, 2] for number in range(3)}
    write_weights(folder, model__embed_tokens__weight=[8, 2], **names)


def two_of_three_layers(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers=3)
    names = {f"model__layers__{number}__mlp__up_proj__weight": [2, 2] for number in range(2)}
    write_weights(folder, model__embed_tokens__weight=[8, 2], **names)


def three_of_two_layers(folder: Path) -> None:
    layers(folder, 2)


IM_END = SOUND.replace("<end>", "<|im_end|>")
SFT, RL, DRAW = {"job": "sft"}, {"job": "rl"}, {"job": "sampling"}

# what is planted, the use, the level, words of what is said, words of the way out
FAULTS: dict[str, tuple[Callable[[Path], None], dict[str, Any], str, str, str]] = {
    "the closing token ends nothing": (template(IM_END), SFT, "warning", "'<|im_end|>'", "stops at both"),
    "the same, drawn from": (template(IM_END), DRAW, "warning", "only <end> ends", "stops at both"),
    "the thinking is dropped": (
        template(SOUND.replace("m.content", "m.content.split('</think>')[-1]")),
        SFT,
        "warning",
        "leaves the thinking",
        "as it stands",
    ),
    "the prompt opens the thinking": (
        template(SOUND.replace("'assistant:'", "'assistant:<think>\\n'")),
        RL,
        "warning",
        "opens <think>",
        "with that tag in front",
    ),
    "the prompt closes the thinking": (
        template(SOUND.replace("'assistant:'", "'assistant:<think>\\n\\n</think>\\n\\n'")),
        RL,
        "error",
        "asked not to think",
        "take that out",
    ),
    "tags are special": (special_tags, SFT, "warning", "<think>, </think> are special", "ordinary tokens"),
    "an end behind every prompt": (appended_end, RL, "warning", "behind every text", "takes that out"),
    "no BOS in chats": (
        template(SOUND.replace("{{ bos_token }}", "")),
        SFT,
        "warning",
        "does not begin with '<bos>'",
        "{{ bos_token }}",
    ),
    "two BOS in chats": (template("{{ bos_token }}" + SOUND), SFT, "error", "'<bos>' twice", "take one out"),
    "rows longer than the model": (
        lambda folder: None,
        {"job": "sft", "max_length": 32768},
        "error",
        "max_length is 32768, and the model has 4096",
        "sft: {positions: N}",
    ),
    "responses longer than the model": (
        lambda folder: None,
        {"job": "rl", "max_tokens": 32768},
        "error",
        "max_tokens is 32768",
        "lower max_tokens below 4096",
    ),
    "no room for a prompt": (
        lambda folder: None,
        {"job": "sampling", "max_tokens": 4096},
        "error",
        "max_tokens is 4096",
        "lower max_tokens",
    ),
    "no chat template": (no_template, SFT, "error", "no chat template", "chat_template.jinja"),
    "no chat template, drawn from": (no_template, DRAW, "error", "no chat template", "chat_template.jinja"),
    "a template with a mistake": (
        template("{% for m in messages %}{{ m.content }}"),
        SFT,
        "error",
        "cannot render",
        "mend",
    ),
    "a template that refuses a user": (
        template("{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"),
        DRAW,
        "error",
        "system first",
        "mend it",
    ),
    "a template without replies": (
        template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}assistant:"),
        SFT,
        "error",
        "leaves the reply out",
        "mend",
    ),
    "a template without questions": (
        template(
            "{{ bos_token }}assistant:{{ messages[-1].content if messages[-1].role != 'user' else '' }}"
        ),
        SFT,
        "error",
        "leaves the question out",
        "mend",
    ),
    "no generation prompt": (
        template(
            "{{ bos_token }}{% for m in messages %}{{ m.role + ':' + m.content + '<end>' }}{% endfor %}"
        ),
        DRAW,
        "error",
        "lacks 'assistant:'",
        "add_generation_prompt",
    ),
    "a reply that nothing closes": (
        template(SOUND.replace("+ '<end>'", "+ '\\n'")),
        SFT,
        "warning",
        "does not learn to stop",
        "trains '<end>'",
    ),
    "today's date": (
        template("{{ bos_token }}{{ strftime_now('%d %b %Y') }}" + SOUND.removeprefix("{{ bos_token }}")),
        RL,
        "warning",
        "today's date",
        "fixed date",
    ),
    "no end token": (file("tokenizer_config.json", eos_token=None), SFT, "error", "no eos_token", "set"),
    "an end token of another tokenizer": (
        file("tokenizer_config.json", eos_token="</s>"),
        SFT,
        "error",
        "'</s>' is not in",
        "trained with",
    ),
    "more words than embeddings": (more_words, SFT, "error", "ids up to 8 (<answer>)", "resize_token"),
    "a pad token that the tokenizer lacks": (
        file("tokenizer_config.json", pad_token="<pad>", extra_special_tokens=["<x>", "<y>"]),
        SFT,
        "error",
        "names <pad>, <x>, <y>, which the tokenizer lacks",
        "name tokens that it has",
    ),
    "a tokenizer of another kind": (
        other_tokenizer,
        SFT,
        "unchecked",
        "no tokenizer.json",
        "save_pretrained",
    ),
    "a template where only processors look": (
        template_of_a_processor,
        SFT,
        "error",
        "no chat template",
        "chat_template.jinja",
    ),
    "layers that are missing": (
        two_of_three_layers,
        SFT,
        "error",
        "3 layers, and the weights have 2",
        "bring",
    ),
    "layers that nothing reads": (
        three_of_two_layers,
        SFT,
        "error",
        "2 layers, and the weights have 3",
        "bring",
    ),
    "another width": (
        file("config.json", hidden_size=4),
        SFT,
        "error",
        "hidden_size is 4",
        "the weights have 2",
    ),
    "another vocab_size": (file("config.json", vocab_size=16), SFT, "error", "has 8 rows", "vocab_size 8"),
    "no last layer": (file("config.json", tie_word_embeddings=False), SFT, "error", "no lm_head", "tie_word"),
    "a last layer that is not used": (own_head, SFT, "warning", "lm_head of their own", "tie_word"),
    "sampling defaults": (
        file("generation_config.json", repetition_penalty=1.1, top_k=20),
        DRAW,
        "warning",
        "repetition_penalty 1.1, top_k 20",
        "does not apply",
    ),
    "weights that were not fetched": (pointer, SFT, "error", "Git LFS", "git lfs pull"),
    "a shard that is missing": (missing_shard, SFT, "error", "model-00002-of-00002", "download"),
    "weights that are cut off": (cut_off, DRAW, "error", "cut off", "download"),
    "quantized weights": (
        file("config.json", quantization_config={"quant_method": "awq"}),
        SFT,
        "error",
        "quantized (awq)",
        "bfloat16",
    ),
    "no language model": (
        file("config.json", architectures=["BertForMaskedLM"]),
        SFT,
        "error",
        "BertForMaskedLM",
        "ForCausalLM",
    ),
    "a classifier of many labels": (
        file(
            "config.json",
            id2label={"0": "a", "1": "b"},
            architectures=["Qwen2ForSequenceClassification"],
        ),
        {"job": "scoring"},
        "error",
        "2 labels",
        "safety-rm",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name: str, folder: Path) -> None:
    plant, use, level, what, fix = FAULTS[name]
    plant(folder)
    found = [finding for finding in look(folder, **use) if what in finding.what]
    assert [finding.level for finding in found] == [level]
    assert fix in found[0].fix and found[0].where.startswith("cold-start.inputs.model (")


def test_a_sound_checkpoint_gives_no_word(folder: Path) -> None:
    for use in (SFT, RL, DRAW, {"job": "reward model"}, {"job": "other"}):
        assert look(folder, **use, max_length=4096, max_tokens=4000) == []
    change_json(folder / "config.json", architectures=["Qwen2ForSequenceClassification"])
    assert look(folder, job="scoring") == []


@pytest.mark.parametrize("name", ["base", "student"])
def test_the_bases_that_ship_give_no_word(name: str) -> None:
    for job in ("sft", "rl", "sampling", "reward model"):
        assert look(EMBEDDED / name, job, max_length=160, max_tokens=80) == []


def test_a_file_that_begins_with_bos(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("<bos>User: {prompt}")
    (finding,) = look(folder, "rl", template=str(own))
    assert (finding.level, "begins with '<bos>'" in finding.what) == ("warning", True)


@pytest.mark.parametrize(
    ("family", "ending", "warned"),
    [
        ("qwen2.5-coder", "Assistant: ", True),
        ("qwen2.5-coder", "Assistant:", False),
        ("smollm2", "Assistant: ", True),
        ("smollm2", "Assistant:", False),
        # its `<think>` is one token wherever it stands
        ("qwen3", "Assistant: ", False),
    ],
)
def test_a_file_that_ends_in_a_space(
    family: str, ending: str, warned: bool, folder: Path, tmp_path: Path
) -> None:
    """One character, and of 1,899 responses of a real base none had the form (LOG.md)."""
    packed = TOKENIZERS / family / "tokenizer.json.xz"
    if not packed.is_file():
        pytest.skip("the tokenizers of real families are not beside this checkout (../shared/tokenizers)")
    (folder / "tokenizer.json").write_bytes(lzma.decompress(packed.read_bytes()))
    own = tmp_path / "own.txt"
    own.write_text(f"User: {{prompt}}\n{ending}")
    found = [finding for finding in look(folder, "rl", template=str(own)) if "in the middle" in finding.what]
    assert [finding.level for finding in found] == ["warning"] * warned


@pytest.mark.parametrize("name", ["r1-zero", "r1-zero-example"])
def test_the_templates_that_ship_end_well(name: str) -> None:
    assert not read_template(name)[-1].isspace()  # type: ignore[index]


def test_a_file_that_is_not_json(folder: Path) -> None:
    from r1pipe.errors import InputError

    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match="tokenizer_config.json is not JSON"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_parameters": {"factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        ({}, None),
    ],
)
def test_positions(config: dict[str, Any], positions: int | None, folder: Path) -> None:
    write_json(folder / "config.json", config)
    assert read_checkpoint(folder).positions == positions


def test_templates_written_by_hand_have_their_property(folder: Path) -> None:
    for text, prefill in ((DROPS_THINKING, ""), (OPENS_THINKING, "<think>\n")):
        (folder / "chat_template.jinja").write_text(text)
        said = " ".join(finding.what for finding in look(folder))
        assert "leaves the thinking" in said and ("opens <think>" in said) == bool(prefill)


def test_layers_that_predict_further_tokens_are_no_fault(folder: Path) -> None:
    """DeepSeek-V3's last layer, which transformers leaves out."""
    layers(folder, 2, num_nextn_predict_layers=1)
    assert look(folder) == []


def test_layers_of_another_part_are_not_counted(folder: Path) -> None:
    change_json(folder / "config.json", num_hidden_layers=1)
    names = ("model__layers__0__w", "vision_tower__encoder__layers__9__w")
    write_weights(folder, model__embed_tokens__weight=[8, 2], **dict.fromkeys(names, [2, 2]))
    assert look(folder) == []


def test_a_special_token_with_room_in_the_embedding_is_no_fault(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", pad_token="<pad>")
    assert look(folder) == []
