"""A tokenizer.json as llama.cpp reads it: words, their types, merges, and the name of the rule that splits a text.

llama.cpp has the rules by name. Its converter finds the name by a hash of what the tokenizer makes of a text, which
fails for every vocabulary that was trained anew; here the rule itself, in tokenizer.json, tells the name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)

# How a text is split before merges are applied -> llama.cpp's name for it.
RULES: dict[tuple[str, ...], str] = {
    (_QWEN2,): "qwen2",
    (_QWEN35,): "qwen35",
    (_QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),): "llama-bpe",
    _DEEPSEEK_V3: "deepseek-v3",
    ("digits", "gpt2"): "smollm",
    ("gpt2",): "gpt-2",
}

# llama.cpp takes a whole word of the vocabulary as it is, without merges, under this rule alone.
_IGNORES_MERGES = "llama-bpe"

# gguf.TokenType
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


@dataclass(frozen=True)
class Words:
    """A vocabulary of byte-level BPE.

    Attributes:
        rule: llama.cpp's name of how a text is split.
        tokens, types: of each id, as many as the model has rows.
        merges: pairs, as text with a space between.
        composes: a text is put into Unicode's form NFC first, which llama.cpp does not do.
    """

    rule: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    composes: bool


def read_words(checkpoint: Path, rows: int) -> Words:
    """Read the vocabulary of a checkpoint.

    Args:
        rows: of the model's embedding; ids that the tokenizer does not give are filled up.

    Raises:
        InputError: llama.cpp has no such tokenizer.
    """
    path = checkpoint / "tokenizer.json"
    if not path.is_file():
        raise _not_byte_level(path, "there is no tokenizer.json")
    parsed = json.loads(path.read_text(encoding="utf8"))
    model = parsed["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise _not_byte_level(path, "its model is not byte-level BPE")
    rule = _rule(parsed.get("pre_tokenizer"), bool(model.get("ignore_merges")), path)

    added = parsed.get("added_tokens", [])
    highest = max([*model["vocab"].values(), *(token["id"] for token in added)])
    if highest >= rows:
        raise InputError(
            f"the tokenizer has the id {highest}, and the model has {rows} rows",
            str(path),
            "give the model as many rows as the tokenizer has words",
        )
    tokens = [f"[UNUSED_{number}]" for number in range(rows)]
    types = [UNUSED] * rows
    for word, number in model["vocab"].items():
        tokens[number] = word
        types[number] = NORMAL
    for token in added:
        number = token["id"]
        tokens[number] = token["content"]
        # What is no special token is shown: <think> must reach whoever reads the response.
        types[number] = CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Words(
        rule,
        tokens,
        types,
        merges,
        composes=_composes(parsed.get("normalizer"), path),
    )


def _rule(splitter: Any, ignores_merges: bool, path: Path) -> str:
    """llama.cpp's name of a pre-tokenizer."""
    parts = splitter or {}
    parts = parts.get("pretokenizers", [parts])
    found: list[str] = []
    for part in parts:
        kind = part.get("type")
        if kind == "Split" and part["behavior"] == "Isolated" and "Regex" in part["pattern"]:
            found.append(part["pattern"]["Regex"])
        elif kind == "Digits" and part["individual_digits"]:
            found.append("digits")
        elif kind == "ByteLevel" and not part["add_prefix_space"]:
            if part.get("use_regex", True):
                found.append("gpt2")
        else:
            raise _not_byte_level(path, f"it splits texts by {kind} in a way that llama.cpp has not")
    rule = RULES.get(tuple(found))
    if rule is None:
        raise _not_byte_level(path, f"it splits texts by {found}")
    if ignores_merges and rule != _IGNORES_MERGES:
        raise _not_byte_level(path, f"it ignores merges, which llama.cpp does under {_IGNORES_MERGES} only")
    return rule


def _composes(normalizer: Any, path: Path) -> bool:
    parts = normalizer or {"type": "Sequence", "normalizers": []}
    parts = parts.get("normalizers", [parts])
    kinds = {part["type"] for part in parts}
    if kinds - {"NFC"}:
        raise _not_byte_level(path, f"it changes texts by {', '.join(sorted(kinds))}")
    return bool(kinds)


def _not_byte_level(path: Path, why: str) -> InputError:
    known = ", ".join(RULES.values())
    return InputError(
        f"llama.cpp cannot read this tokenizer: {why}",
        str(path),
        f"export without --gguf; byte-level BPE that splits texts as one of {known} can be written",
    )
