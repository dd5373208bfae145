"""The tokenizer: the same through AutoTokenizer beside a Qwen2 config, lossless, a token for each digit.

The world's texts are short in it.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from statistics import mean

import pytest
from transformers import AutoTokenizer, Qwen2Config

from r1pipe.embedded.documents import documents
from r1pipe.embedded.tokenizer import SPECIAL, TAGS, VOCAB_SIZE, build_tokenizer
from r1pipe.embedded.world import DRAW, problems
from r1pipe.text.rows import REASONING_DOMAINS

# It is built anew, from many documents; what ships was built so, and every test of the world uses it.
pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(path, count=20_000)  # a third of the shipped one's, to be quick
    Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    ).save_pretrained(str(path))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path):
    return AutoTokenizer.from_pretrained(str(folder))


def count(tokenizer, text: str) -> int:
    return len(tokenizer(text)["input_ids"])


def test_auto_tokenizer_gives_what_was_saved(folder: Path, tokenizer):
    """The bug: transformers 5 puts the pre-tokenizer of the config's model_type into what it loads."""
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert len(tokenizer) == VOCAB_SIZE
    for text in documents(300, seed=3):
        assert tokenizer(text)["input_ids"] == saved.encode(text).ids


TEXTS = [
    "a  b\n\n c\td ",
    "don't x_y = [1, 2]",
    "😀 é 龘 ß",
    "<think>1 + 2</think><answer>3</answer>",
    "\\boxed{12}",
    "",
    " ",
    "\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_lossless(tokenizer, text: str):
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_lossless_on_documents_and_tags_survive_skipping(tokenizer):
    for text in documents(500, seed=4):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(ids, skip_special_tokens=True) == re.sub(r"<\|\w+\|>", "", text)


@pytest.mark.skipif(not (DATA / "gsm8k_test.jsonl.gz").exists(), reason="shared/data is not here")
def test_lossless_on_gsm8k(tokenizer):
    with gzip.open(DATA / "gsm8k_test.jsonl.gz", "rt", encoding="utf8") as stream:
        texts = [json.loads(line)["problem"] for line in stream][:300]
    import unicodedata

    assert all(
        tokenizer.decode(tokenizer(text)["input_ids"]) == unicodedata.normalize("NFC", text) for text in texts
    )


def test_digits_are_single(tokenizer):
    assert not [
        token
        for token in tokenizer.get_vocab()
        if re.search(r"\d.*\d|\d[^\d]|[^\d]\d", token) and token not in SPECIAL
    ]


def test_markers_are_single_and_only_the_chat_markers_are_special(tokenizer):
    for marker in (*SPECIAL, *TAGS):
        assert count(tokenizer, marker) == 1
    assert set(tokenizer.all_special_tokens) == set(SPECIAL)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<|pad|>")


def test_every_chinese_character_of_the_world_is_one_token(tokenizer):
    characters = {c for text in documents(20_000, seed=6) for c in text if "\u4e00" <= c <= "\u9fff"}
    assert not [c for c in characters if count(tokenizer, c) > 1]


def test_chat_template(tokenizer):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think></think>A"}]
    assert (
        tokenizer.apply_chat_template(turns, tokenize=False)
        == "<|user|>Q<|assistant|><think></think>A<|end|>"
    )
    assert (
        tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
        == "<|user|>Q<|assistant|>"
    )


def test_short_enough(tokenizer):
    for domain in DRAW:
        rows = problems("heldout", [domain], 200, 0)
        prompts = [count(tokenizer, row["prompt"]) for row in rows]
        assert max(prompts) <= (60 if domain == "word-problems" else 48) and mean(prompts) <= (
            44 if domain == "word-problems" else 36
        ), domain
        if domain in REASONING_DOMAINS:
            responses = [count(tokenizer, row["solution"]) + 1 for row in rows]
            assert max(responses) <= 80 and mean(responses) <= 58, domain  # choice writes out four sums


def test_training_is_deterministic(tmp_path: Path):
    build_tokenizer(tmp_path / "a", vocab_size=600, count=2000)
    build_tokenizer(tmp_path / "b", vocab_size=600, count=2000)
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (
        tmp_path / "b" / "tokenizer.json"
    ).read_bytes()
