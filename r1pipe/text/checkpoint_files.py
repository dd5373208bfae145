"""What the files of a checkpoint say, without its weights: config, tokenizer, chat template, sampling defaults.

Only JSON is read, and of a tokenizer's vocabulary, which would take most of the time, as a rule its last word alone.
"""

from __future__ import annotations

import copy
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.text.collector import paused_collector
from r1pipe.text.response import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN

TAGS = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)

INDEX = "model.safetensors.index.json"

# Fields of generation_config.json that change what is sampled, each with the values at which it changes nothing.
SAMPLING_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (None, 1, 1.0),
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "no_repeat_ngram_size": (None, 0),
    "typical_p": (None, 1, 1.0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "bad_words_ids": (None, []),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
}

# The end tokens of transformers' classes of tokenizers, by the start of their names.
ENDS_OF_CLASSES = {
    "Qwen2": "<|endoftext|>",
    "GPT2": "<|endoftext|>",
    "Llama": "</s>",
    "Gemma": "<eos>",
}

# Where the model begins in tokenizer.json, and the end of its vocabulary.
_MODEL = re.compile(rb',\s*"model"\s*:\s*\{\s*"type"\s*:\s*"BPE"')
_LAST_WORD = re.compile(rb":\s*(\d+)\s*\}\s*,\s*\Z")

# The start of a file that Git LFS has not fetched.
LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one folder, each as it was parsed; empty where there is none."""

    folder: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    tokenizer: dict[str, Any] = field(repr=False)
    """tokenizer.json without its `model`, which holds the vocabulary."""

    last_word: int | None
    """The id of the last word in the vocabulary, which is in the order of ids; None where it is not to be seen."""

    tokenizer_config: dict[str, Any] = field(repr=False)
    special_tokens: dict[str, Any] = field(repr=False)
    template: str | None = field(repr=False)
    """The chat template; None where there is none."""

    # --- the model ----------------------------------------------------------------------------------------------------

    @property
    def text_config(self) -> dict[str, Any]:
        """The language model's part of config.json; of a model that reads images too, it stands below."""
        nested = self.config.get("text_config")
        return nested if isinstance(nested, dict) else self.config

    @property
    def positions(self) -> int | None:
        """The tokens of the longest sequence that the model has positions for; None where config.json does not say."""
        config = self.text_config
        stated = config.get("max_position_embeddings")
        if not isinstance(stated, int):
            return None
        scaling = config.get("rope_parameters") or config.get("rope_scaling")
        if isinstance(scaling, dict) and isinstance(scaling.get("factor"), int | float):
            original = scaling.get("original_max_position_embeddings") or 0
            return max(stated, int(original * scaling["factor"]))
        return stated

    @property
    def tied(self) -> bool | None:
        """Whether the last layer is the embedding; None where config.json does not say."""
        stated = self.text_config.get("tie_word_embeddings", self.config.get("tie_word_embeddings"))
        return stated if isinstance(stated, bool) else None

    # --- the tokenizer ------------------------------------------------------------------------------------------------

    @cached_property
    def added_tokens(self) -> dict[str, int]:
        """The tokens that are no part of the words' vocabulary: text -> id."""
        added = {token["content"]: int(token["id"]) for token in self.tokenizer.get("added_tokens", [])}
        for number, token in self.tokenizer_config.get("added_tokens_decoder", {}).items():
            added.setdefault(token["content"], int(number))
        return added

    @cached_property
    def highest_id(self) -> int | None:
        """The highest id that the tokenizer gives; None without tokenizer.json."""
        if not self.tokenizer:
            return None
        if self.last_word is not None:
            ids = [self.last_word]
        elif isinstance(self.vocabulary, dict):
            ids = list(self.vocabulary.values())
        else:
            ids = [len(self.vocabulary) - 1]
        return max([*ids, *self.added_tokens.values()], default=None)

    def parts_badly(self, prompt: str) -> bool:
        """Whether a prompt ends in white space that would be part of another token with the thinking behind it.

        A model whose prompt ends in a word opens its thinking behind a space or a line break of its own.
        """
        if not prompt[-1:].isspace() or self._encoder is None:
            return False
        before, whole = (
            self._encoder.encode(text, add_special_tokens=False).ids for text in (prompt, prompt + THINK_OPEN)
        )
        return whole[: len(before)] != before

    @cached_property
    def _encoder(self) -> Any:
        """The tokenizer itself; None where there is no tokenizer.json, or one that cannot be read."""
        path = self.folder / TOKENIZER
        if not path.is_file():
            return None
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(path))
        except Exception:
            # The library raises nothing narrower; such a file is for the stage to refuse.
            return None

    @cached_property
    def vocabulary(self) -> dict[str, int] | list[Any]:
        """The words with their ids, or the list of words with their scores; empty where there is none."""
        model = _json(self.folder / TOKENIZER).get("model")
        return model.get("vocab") or {} if isinstance(model, dict) else {}

    def named_token(self, name: str) -> str:
        """The text of bos_token, eos_token, pad_token or unk_token; empty where none is named."""
        for holder in (self.tokenizer_config, self.special_tokens):
            token = holder.get(name)
            if isinstance(token, dict):
                token = token.get("content")
            if isinstance(token, str):
                return token
        if name == "eos_token":
            return self._end_of_class
        return ""

    @property
    def _end_of_class(self) -> str:
        """The end token that transformers' class of the tokenizer has where no file names one."""
        named = self.tokenizer_config.get("tokenizer_class", "")
        token = next((end for start, end in ENDS_OF_CLASSES.items() if named.startswith(start)), "")
        return token if self.knows(token) else ""

    @property
    def named_tokens(self) -> dict[str, str]:
        """The special tokens that a chat template may name."""
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {name: self.named_token(name) for name in names if self.named_token(name)}

    @property
    def lacking_tokens(self) -> list[str]:
        """The special tokens that a config names and the tokenizer does not have."""
        named = list(self.named_tokens.values())
        for holder in (self.tokenizer_config, self.special_tokens):
            named += [_text(token) for _, tokens in _lists_of_special(holder) for token in tokens]
        end = self.named_token("eos_token")
        return [token for token in dict.fromkeys(named) if token and token != end and not self.knows(token)]

    def knows(self, token: str) -> bool:
        """Whether the tokenizer has this token; True where there is no tokenizer.json to look into."""
        if not self.tokenizer or token in self.added_tokens:
            return True
        if isinstance(self.vocabulary, dict):
            return token in self.vocabulary
        return any(entry[0] == token for entry in self.vocabulary)

    @property
    def end_tokens(self) -> set[str]:
        """The tokens that end a response by the checkpoint's own account: the tokenizer's, and generation_config's."""
        named = self.generation.get("eos_token_id", self.config.get("eos_token_id"))
        ids = set(named if isinstance(named, list) else [named])
        tokens = {token for token, number in self.added_tokens.items() if number in ids}
        return tokens | ({self.named_token("eos_token")} - {""})

    @cached_property
    def special_tags(self) -> list[str]:
        """The tags of a response that are special tokens, which decoding leaves out."""
        special = {token["content"] for token in self.tokenizer.get("added_tokens", []) if token["special"]}
        decoder = self.tokenizer_config.get("added_tokens_decoder", {}).values()
        special |= {token["content"] for token in decoder if token.get("special")}
        for holder in (self.tokenizer_config, self.special_tokens):
            special |= {_text(token) for _, tokens in _lists_of_special(holder) for token in tokens}
        return [tag for tag in TAGS if tag in special]

    @property
    def appends_end(self) -> bool:
        """Whether a text that is tokenized ends in the end token."""
        after = _around(self.tokenizer.get("post_processor"))[1]
        return self.named_token("eos_token") in after or self.tokenizer_config.get("add_eos_token") is True

    @property
    def adds_bos(self) -> bool:
        """Whether a text that is tokenized begins with the BOS token."""
        bos = self.named_token("bos_token")
        if not bos:
            return False
        return bos in _around(self.tokenizer.get("post_processor"))[0]

    def mended(self) -> dict[str, Any]:
        """The tokenizer's files in which tags are ordinary tokens and no end token is appended.

        Returns:
            name -> content, of the files that change.
        """
        if not self.tokenizer or not (self.special_tags or self.appends_end):
            return {}
        before = {
            TOKENIZER: _json(self.folder / TOKENIZER),
            TOKENIZER_CONFIG: self.tokenizer_config,
            SPECIAL_TOKENS: self.special_tokens,
        }
        after = copy.deepcopy(before)
        for token in after[TOKENIZER].get("added_tokens", []):
            token["special"] = token["special"] and token["content"] not in TAGS
        for token in after[TOKENIZER_CONFIG].get("added_tokens_decoder", {}).values():
            token["special"] = bool(token.get("special")) and token["content"] not in TAGS
        for holder in (after[TOKENIZER_CONFIG], after[SPECIAL_TOKENS]):
            for name, tokens in _lists_of_special(holder):
                holder[name] = [token for token in tokens if _text(token) not in TAGS]
        if after[TOKENIZER_CONFIG].get("add_eos_token"):
            after[TOKENIZER_CONFIG]["add_eos_token"] = False
        _take_out(after[TOKENIZER].get("post_processor"), self.named_token("eos_token"))
        return {name: after[name] for name in before if after[name] != before[name]}

    # --- the weights --------------------------------------------------------------------------------------------------

    def shapes(self) -> dict[str, list[int]]:
        """The shape of each tensor in the safetensors files, by name, from their headers.

        Raises:
            InputError: a file is missing, was not fetched by Git LFS, or is cut off.
        """
        index = self.folder / INDEX
        if index.is_file():
            names = sorted(set(_json(index).get("weight_map", {}).values()))
        else:
            names = sorted(file.name for file in self.folder.glob("*.safetensors"))
        shapes: dict[str, list[int]] = {}
        for name in names:
            shapes |= _header(self.folder / name)
        return shapes


def read_checkpoint(folder: Path) -> CheckpointFiles:
    """Read a checkpoint's JSON files.

    Raises:
        InputError: one of them is not JSON.
    """
    tokenizer_config = _json(folder / TOKENIZER_CONFIG)
    tokenizer, last_word = _tokenizer(folder / TOKENIZER)
    return CheckpointFiles(
        folder=folder,
        config=_json(folder / "config.json"),
        generation=_json(folder / "generation_config.json"),
        tokenizer=tokenizer,
        last_word=last_word,
        tokenizer_config=tokenizer_config,
        special_tokens=_json(folder / SPECIAL_TOKENS),
        template=_template(folder, tokenizer_config),
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = path.read_bytes()
    if content.startswith(LFS):
        raise _not_fetched(path)
    try:
        # A vocabulary is hundreds of thousands of small objects.
        with paused_collector():
            parsed = json.loads(content)
    except ValueError as error:
        raise InputError(f"{path.name} is not JSON: {error}", str(path), "copy it again") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{path.name} holds no JSON object", str(path), "copy it again")
    return parsed


def _tokenizer(path: Path) -> tuple[dict[str, Any], int | None]:
    """tokenizer.json without its model, and the id of the last word; as tokenizers writes it, the model comes last.

    Of a file that is written otherwise all is read, and there is no last word.
    """
    content = path.read_bytes() if path.is_file() else b""
    model = _MODEL.search(content)
    end = content.rfind(b'"merges"')
    word = _LAST_WORD.search(content, max(0, end - 200), max(0, end))
    if model and word:
        try:
            head = json.loads(content[: model.start()] + b"}")
        except ValueError:
            head = None
        if isinstance(head, dict) and "added_tokens" in head:
            return head, int(word[1])
    whole = _json(path)
    whole.pop("model", None)
    return whole, None


def _not_fetched(path: Path) -> InputError:
    what = f"{path.name} is the pointer of a file that Git LFS has not fetched"
    return InputError(what, str(path), "git lfs pull, or download the checkpoint again")


def _template(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """The chat template, from the places where transformers looks."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf8")
    stated = tokenizer_config.get("chat_template")
    if isinstance(stated, list):
        by_name = {entry.get("name"): entry.get("template") for entry in stated}
        stated = by_name.get("default")
    return stated or None


def _text(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else str(token)


def _lists_of_special(holder: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """The lists of further special tokens: in transformers 4 by the first name, in 5 by the second."""
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(holder.get(name), list):
            yield name, list(holder[name])


def _around(processor: Any) -> tuple[set[str], set[str]]:
    """The tokens that a post-processor puts before a text, and those that it puts behind it."""
    before: set[str] = set()
    after: set[str] = set()
    for part in _templates(processor):
        tokens = [token.get("SpecialToken", {}).get("id") for token in part["single"]]
        texts = [place for place, token in enumerate(tokens) if token is None]
        before |= {token for token in tokens[: texts[0]] if token} if texts else set()
        after |= {token for token in tokens[texts[-1] :] if token} if texts else set()
    return before, after


def _templates(processor: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(processor, dict):
        return
    if processor.get("type") == "TemplateProcessing":
        yield processor
    for part in processor.get("processors", []):
        yield from _templates(part)


def _take_out(processor: Any, token: str) -> None:
    for part in _templates(processor):
        for name in ("single", "pair"):
            part[name] = [one for one in part[name] if one.get("SpecialToken", {}).get("id") != token]


def _header(path: Path) -> dict[str, list[int]]:
    """The shapes in one safetensors file: 8 bytes of length, then JSON."""
    if not path.is_file():
        raise InputError(
            f"{path.name} is missing, which model.safetensors.index.json names",
            str(path.parent),
            "download the checkpoint again",
        )
    with path.open("rb") as stream:
        start = stream.read(len(LFS))
        if start == LFS:
            raise _not_fetched(path)
        (length,) = struct.unpack("<Q", start[:8].ljust(8, b"\0"))
        stream.seek(8)
        content = stream.read(min(length, 1 << 27))
    try:
        header = json.loads(content)
    except ValueError:
        what = f"{path.name} is not a whole safetensors file"
        raise InputError(what, str(path), "download it again") from None
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    if path.stat().st_size < 8 + length + max(ends, default=0):
        raise InputError(f"{path.name} is cut off", str(path), "download it again")
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
