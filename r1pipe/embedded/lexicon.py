"""The world's words (lexicon.json), read once and split into lists; common words stand in front and are drawn more often."""

from __future__ import annotations

import json
import re
from itertools import zip_longest
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

    __slots__ = ("one", "measure")

    def __init__(self, entry: str) -> None:
        self.one, _, self.measure = entry.partition("/")


class Verb:
    """An English verb in three forms; 'give-away/gave' is 'give away', 'gives away', 'gave away'."""

    __slots__ = ("base", "third", "past")

    def __init__(self, entry: str) -> None:
        entry, _, irregular = entry.partition("/")
        first, _, rest = entry.replace("-", " ").partition(" ")
        rest = " " + rest if rest else ""
        self.base, self.third, self.past = first + rest, third(first) + rest, (irregular or past(first)) + rest


class VerbZh:
    """A Chinese verb, which has one form only."""

    __slots__ = ("base", "third", "past")

    def __init__(self, entry: str) -> None:
        self.base = self.third = self.past = entry


class Group:
    """Nouns of one sort and what is done to them."""

    __slots__ = ("kind", "nouns", "acts")

    def __init__(self, kind: str, nouns: list[Any], acts: list[Any]) -> None:
        self.kind, self.nouns, self.acts = kind, nouns, acts


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


def third(verb: str) -> str:
    """The third person: as the plural, but for -o.

    >>> third("dry"), third("do"), third("shoo")
    ('dries', 'does', 'shoos')
    """
    return verb + "es" if verb.endswith("o") and not verb.endswith("oo") else plural(verb)


_DOUBLED = re.compile(
    r"(?:un|re)?[^aeiou]*(?:qu)?[aeiouy][^aeiouwxy]"
)  # one short syllable: its last letter is written twice


def past(verb: str) -> str:
    """Regular past.

    >>> past("dry"), past("bake"), past("unwrap"), past("open"), past("weigh")
    ('dried', 'baked', 'unwrapped', 'opened', 'weighed')
    """
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + (verb[-1] if _DOUBLED.fullmatch(verb) else "") + "ed"


def _split(value: Any) -> Any:
    return {k: _split(v) for k, v in value.items()} if isinstance(value, dict) else value.split()


def _mixed(*lists: list[Any]) -> list[Any]:
    """Several lists as one, the common words of all in front."""
    return [word for row in zip_longest(*lists) for word in row if word is not None]


LEXICON: dict[str, Any] = _split(json.loads((Path(__file__).parent / "lexicon.json").read_text("utf8")))
SHE, HE, NAMES_ZH = LEXICON["names_en"]["she"], LEXICON["names_en"]["he"], LEXICON["names_zh"]
CONTAINERS = [Noun(w) for w in LEXICON["containers_en"]]
ACTS = [
    Group(g["kind"][0], [Noun(w) for w in g["nouns"]], [Verb(w) for w in g["acts"]])
    for g in LEXICON["groups_en"].values()
]
HAVE = [group for group in ACTS if group.kind not in ("work", "people")]  # what one can have so many of
PEOPLE = [group for group in ACTS if group.kind == "people"]
GOODS = _mixed(*(group.nouns for group in HAVE if group.kind == "goods"))  # what one buys
ACTS_ZH = [
    Group("", [NounZh(w) for w in g["nouns"]], [VerbZh(w) for w in g["acts"]]) for g in LEXICON["groups_zh"].values()
]
_verbs = {
    sign: {kind: [Verb(w) for w in words] for kind, words in kinds.items()}
    for sign, kinds in LEXICON["verbs_en"].items()
}
GAIN = {kind: _mixed(_verbs["gain"]["any"], words) for kind, words in _verbs["gain"].items() if kind != "any"}
LOSS = {kind: _mixed(_verbs["loss"]["any"], words) for kind, words in _verbs["loss"].items() if kind != "any"}


def common(rng: Random, words: list[Any]) -> Any:
    """A draw that favours the front of the list: half the draws fall on its first eighth, and one in ten on its last third."""
    u = rng.random()
    return words[int(u * u * u * len(words))]


def flatter(rng: Random, words: list[Any]) -> Any:
    """A draw for long lists: one in seven as `common`, the others even, so that the rare words are met and the common ones stay so."""
    u = rng.random()
    return words[int((u * 7) ** 3 * len(words))] if u * 7 < 1 else words[int((u * 7 - 1) / 6 * len(words))]
