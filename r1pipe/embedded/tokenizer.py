"""The embedded models' tokenizer: byte-level BPE with Qwen2's pre-tokenizer, trained on the world's own documents.

transformers picks the tokenizer class by config.json's model_type, and Qwen2's class puts its own pre-tokenizer into
whatever it loads; training with exactly that one is what makes `AutoTokenizer.from_pretrained` give the same tokenizer
beside a Qwen2 model. Each digit is a token. Every text round-trips, as bytes if need be (after Unicode NFC, as in
Qwen2).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1pipe.embedded.documents import ASSISTANT, END, USER, Habits, documents
from r1pipe.text.response import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Entries in all, special and added ones included.
VOCAB_SIZE = 2000

# Documents that it is trained on. The mixture prefers words over sums, which need few entries.
DOCUMENTS = 60_000

# Narrower pieces than Qwen2's, so that no entry is spent on punctuation glued to a Chinese phrase.
PIECES = r"[ !-/:-@\[-`{-~]?[A-Za-z]+|\p{Han}+|\p{N}|[^\s\p{L}\p{N}]+|\s+"
MIXTURE = Habits(
    mixture={
        "math": 0.1,
        "word-problems": 0.45,
        "code": 0.1,
        "logic": 0.1,
        "choice": 0.05,
        "general": 0.1,
        "harmful": 0.05,
        "lookalike": 0.05,
    }
)

PAD = "<|pad|>"
SPECIAL = (PAD, END, USER, ASSISTANT)

# Not special tokens: decoding for the rewards leaves those out.
TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(
    folder: Path, vocab_size: int = VOCAB_SIZE, count: int = DOCUMENTS
) -> PreTrainedTokenizerBase:
    """Train the tokenizer and save it as a folder's tokenizer.json, tokenizer_config.json and chat_template.jinja.

    The same arguments give the same files.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import Qwen2Tokenizer

    raw = Tokenizer(models.BPE())
    # As in Qwen2's class.
    raw.normalizer = normalizers.NFC()
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    markers = [*SPECIAL, *TAGS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(markers),
        max_token_length=12,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_pieces(count, markers), trainer)
    state = json.loads(raw.to_str())["model"]
    merges: Any = [tuple(merge) for merge in state["merges"]]
    # Qwen2's class adds what its config names as special tokens after the vocabulary, so markers get the first free ids
    # in a fixed order.
    tokenizer = Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=merges,
        unk_token=PAD,
        pad_token=PAD,
        eos_token=END,
        bos_token=None,
        additional_special_tokens=[USER, ASSISTANT],
    )
    tags: Any = [AddedToken(tag, special=False, normalized=False) for tag in TAGS]
    tokenizer.add_tokens(tags)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 512
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def _pieces(count: int, markers: list[str]) -> Iterator[str]:
    """What merges are learned from: documents without their markers, then each Chinese character on its own.

    The characters are repeated often enough for each to become one entry.
    """
    characters: set[str] = set()
    for text in documents(count, seed=17, habits=MIXTURE):
        for marker in markers:
            text = text.replace(marker, "\n")
        yield text
        characters.update(character for character in text if character > "\u2e80")
    for character in sorted(characters):
        yield f"{character} " * (count // 100)
