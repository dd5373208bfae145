"""Prompts, trained turns and end tokens of real families, each against a rendering that is written out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import FAMILIES, change_json, family_tokenizer, write_json
from tokenizers import Tokenizer

from r1pipe.models.loading import end_ids, load_tokenizer
from r1pipe.text.rendering import chat_ids, conversation_ids, file_template, prefill_in, prompt_ids

# Of each vocabulary: a whole one takes seconds to load. What is tried here does not depend on it.
WORDS = 4000

QUESTION = "What is 17 + 25?"
THINKING = "17 + 25 = 42.\n\nThat is it."
SUMMARY = "They are 42."
REPLY = f"<think>{THINKING}</think>{SUMMARY}"


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """family(name) -> a folder of its own."""
    cache = tmp_path_factory.mktemp("tokenizers")

    def make(name: str) -> Path:
        return family_tokenizer(name, tmp_path_factory.mktemp(name), cache=cache, words=WORDS)

    return make


def chat(reply: str, question: str = QUESTION) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(name: str, family: Any) -> None:
    """What is shown, what is trained, where it stops; and the reward model reads all of it."""
    folder = family(name)
    tokenizer = load_tokenizer(folder)
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    shown = FAMILIES[name].prompt.format(q=QUESTION)
    trained = FAMILIES[name].reply.format(a=THINKING, b=SUMMARY)

    shown_ids = plain.encode(shown, add_special_tokens=False).ids
    trained_ids = plain.encode(trained, add_special_tokens=False).ids
    assert prompt_ids([{"prompt": QUESTION}], None, tokenizer) == [shown_ids]
    [(ids, mask)] = chat_ids([chat(REPLY)], tokenizer)
    assert ids == shown_ids + trained_ids
    assert mask == [0] * len(shown_ids) + [1] * len(trained_ids)
    assert plain.decode(conversation_ids([chat(REPLY)], tokenizer)[0], skip_special_tokens=False) == (
        shown + trained
    )

    named = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=tokenizer.eos_token_id))
    ends = [plain.token_to_id(token) for token in FAMILIES[name].stops]
    assert end_ids(named, tokenizer) == sorted(ends)
    assert plain.id_to_token(trained_ids[-1]) in FAMILIES[name].stops or trained.endswith("\n")


@pytest.mark.parametrize(
    ("reply", "trained"),
    [
        ("They are 42.", "</think>They are 42.<|im_end|>\n"),
        ("<think>\nI see.</think>42", "I see.</think>42<|im_end|>\n"),
        ("<think>\n\nI see.</think>42", "\nI see.</think>42<|im_end|>\n"),
        (
            "<think>It may be </think> or not.</think>42",
            "It may be </think> or not.</think>42<|im_end|>\n",
        ),
    ],
)
def test_a_reply_begins_inside_where_the_prompt_opens_it(reply: str, trained: str, family: Any) -> None:
    tokenizer = load_tokenizer(family("qwen3-thinking"))
    [(ids, mask)] = chat_ids([chat(reply)], tokenizer)
    assert tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts]) == trained
    assert prefill_in(None, tokenizer) == "<think>\n"


def test_no_part_of_a_reply_is_lost_where_the_template_splits_at_its_last_tag(family: Any) -> None:
    """Qwen3's own template: what stands between two closing tags would be gone."""
    tokenizer = load_tokenizer(family("qwen3-instruct"))
    reply = "<think>It may be </think> or not.</think>42"
    [(ids, mask)] = chat_ids([chat(reply)], tokenizer)
    trained = tokenizer.decode([token for token, counts in zip(ids, mask, strict=True) if counts])
    assert trained == f"{reply}<|im_end|>\n"


def test_a_reply_that_nothing_closes_is_closed_by_the_end_token(family: Any) -> None:
    folder = family("smollm2")
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    plain += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    (folder / "chat_template.jinja").write_text(plain)
    tokenizer = load_tokenizer(folder)
    [(ids, mask)] = chat_ids([chat(REPLY)], tokenizer)
    assert ids[-1] == tokenizer.eos_token_id and mask[-1] == 1
    assert tokenizer.decode(ids) == f"user: {QUESTION}\nassistant: {REPLY}<|im_end|>"


def test_tags_that_are_special_tokens_are_ordinary_in_the_tokenizer_and_in_its_copy(
    family: Any, tmp_path: Path
) -> None:
    folder = family("smollm2")
    tokens = [
        {"id": 49152 + number, "content": tag, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, tag in enumerate(("<think>", "</think>"))
    ]
    parsed = Tokenizer.from_file(str(folder / "tokenizer.json"))
    parsed.add_special_tokens([token["content"] for token in tokens])
    parsed.save(str(folder / "tokenizer.json"))
    change_json(folder / "tokenizer_config.json", additional_special_tokens=["<think>", "</think>"])

    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "trained")
    write_json(tmp_path / "trained" / "config.json", {"model_type": "llama"})
    for one in (tokenizer, load_tokenizer(tmp_path / "trained")):
        ids = one(REPLY)["input_ids"]
        assert ids[0] == WORDS
        assert one.decode(ids, skip_special_tokens=True) == REPLY
        assert one.batch_decode([ids], skip_special_tokens=True) == [REPLY]
        assert one.decode([one.eos_token_id], skip_special_tokens=True) == ""


def test_a_prompt_does_not_end_in_an_end_token(family: Any, tmp_path: Path) -> None:
    """A tokenizer that appends one to every text; the copy that is trained does not either."""
    from tokenizers.processors import TemplateProcessing

    folder = family("smollm2")
    parsed = Tokenizer.from_file(str(folder / "tokenizer.json"))
    parsed.post_processor = TemplateProcessing(
        single="$A <|im_end|>", pair="$A $B <|im_end|>", special_tokens=[("<|im_end|>", 2)]
    )
    parsed.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path / "trained")
    write_json(tmp_path / "trained" / "config.json", {"model_type": "llama"})
    for one in (tokenizer, load_tokenizer(tmp_path / "trained")):
        (ids,) = prompt_ids([{"prompt": "1 + 1"}], "User: {prompt} Assistant:", one)
        assert one.decode(ids) == "User: 1 + 1 Assistant:"


@pytest.mark.parametrize("start", ["", "<|begin_of_text|>"])
def test_bos_stands_once(start: str, family: Any, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(family("llama3.1"))
    path = tmp_path / "own.txt"
    path.write_text(f"{start}User: {{prompt}}")
    (ids,) = prompt_ids([{"prompt": "1 + 1"}], file_template(str(path), tokenizer), tokenizer)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(ids) == "<|begin_of_text|>User: 1 + 1"


def test_the_prompt_of_a_file_may_open_the_thinking(family: Any) -> None:
    tokenizer = load_tokenizer(family("smollm2"))
    assert prefill_in("User: {prompt}\nAssistant: <think>", tokenizer) == "<think>"
    assert prefill_in("Think between <think> and </think>. {prompt}", tokenizer) == ""


def test_the_inputs_of_the_embedded_base_are_what_its_template_says() -> None:
    """Bit for bit: the recipe's recorded runs were trained on these ids."""
    from r1pipe.config.artifact_checks import EMBEDDED
    from r1pipe.embedded.world import problems
    from r1pipe.models.loading import load_model

    folder = EMBEDDED / "base"
    tokenizer = load_tokenizer(folder)
    assert end_ids(load_model(folder, training=False), tokenizer) == [1992]
    rows = [dict(row) for row in problems("train", ["word-problems", "code"], 40, seed=0)]
    for row in rows:
        messages = chat(row["solution"], row["prompt"])
        prompt = f"<|user|>{row['prompt']}<|assistant|>"
        whole = f"{prompt}{row['solution']}<|end|>"
        [(ids, mask)] = chat_ids([messages], tokenizer)
        assert ids == tokenizer.backend_tokenizer.encode(whole, add_special_tokens=False).ids
        assert ids == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
        assert conversation_ids([messages], tokenizer) == [ids]
        shown = prompt_ids([row], None, tokenizer)[0]
        assert shown == tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False).ids
        assert mask == [0] * len(shown) + [1] * (len(ids) - len(shown))
