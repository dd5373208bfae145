"""The world's words (lexicon.json), read once and split into lists; common words stand in front and are drawn more often."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any


class Noun:
    """An English noun with both numbers."""

    __slots__ = ("one", "many")

    def __init__(self, entry: str) -> None:
        self.one, _, many = entry.partition("/")
        self.many = many or plural(self.one)


class NounZh:
    """A Chinese noun with its measure word."""

    __slots__ = ("word", "measure")

    def __init__(self, entry: str) -> None:
        self.word, _, self.measure = entry.partition("/")


def plural(word: str) -> str:
    """Regular English plural.

    >>> plural("cherry"), plural("box"), plural("toy")
    ('cherries', 'boxes', 'toys')
    """
    if word.endswith(("s", "x", "ch", "sh", "z")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def _split(value: Any) -> Any:
    return {k: _split(v) for k, v in value.items()} if isinstance(value, dict) else value.split()


def _mixed(general: list[str], own: list[str]) -> list[str]:
    """Two lists as one, the common words of both in front."""
    longest = max(len(general), len(own))
    return [words[i].replace("-", " ") for i in range(longest) for words in (general, own) if i < len(words)]


LEXICON: dict[str, Any] = _split(json.loads((Path(__file__).parent / "lexicon.json").read_text("utf8")))
NOUNS: dict[str, list[Noun]] = {kind: [Noun(w) for w in words] for kind, words in LEXICON["nouns_en"].items()}
NOUNS_ZH = [NounZh(w) for w in LEXICON["nouns_zh"]]
CONTAINERS = [Noun(w) for w in LEXICON["containers_en"]]
SHE, HE, NAMES_ZH = LEXICON["names_en"]["she"], LEXICON["names_en"]["he"], LEXICON["names_zh"]
_verbs = LEXICON["verbs_en"]
GAIN = {k: _mixed(_verbs["gain"]["any"], vs) for k, vs in _verbs["gain"].items()}
LOSS = {k: _mixed(_verbs["loss"]["any"], vs) for k, vs in _verbs["loss"].items()}
RATE = [(verb, [Noun(w) for w in LEXICON["nouns_en"]["work"]] if len(nouns) == 1 else [Noun(w) for w in nouns]) for verb, nouns in _verbs["rate_of"].items()]


def common(rng: Random, words: list[Any]) -> Any:
    """A draw that favours the front of the list: half the draws fall on its first eighth, and one in ten on its last third."""
    u = rng.random()
    return words[int(u * u * u * len(words))]
