"""The world's words (lexicon.json), read once and split into lists.

Common words stand in front and are drawn more often.
"""

from __future__ import annotations

import json
import re
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any


class Noun:
    """An English noun with both numbers."""

    __slots__ = ("singular", "plural")

    def __init__(self, entry: str) -> None:
        self.singular, _, irregular = entry.partition("/")
        self.plural = irregular or plural(self.singular)


class NounZh:
    """A Chinese noun with its measure word."""

    __slots__ = ("singular", "measure")

    def __init__(self, entry: str) -> None:
        self.singular, _, self.measure = entry.partition("/")


class Verb:
    """An English verb in three forms; 'give-away/gave' is 'give away', 'gives away', 'gave away'."""

    __slots__ = ("base", "third", "past")

    def __init__(self, entry: str) -> None:
        entry, _, irregular = entry.partition("/")
        first, _, rest = entry.replace("-", " ").partition(" ")
        rest = " " + rest if rest else ""
        self.base = first + rest
        self.third = third(first) + rest
        self.past = (irregular or past(first)) + rest


class VerbZh:
    """A Chinese verb, which has one form only."""

    __slots__ = ("base", "third", "past")

    def __init__(self, entry: str) -> None:
        self.base = self.third = self.past = entry


class Group:
    """Nouns of one sort and what is done to them."""

    __slots__ = ("kind", "nouns", "acts")

    def __init__(self, kind: str, nouns: list[Any], acts: list[Any]) -> None:
        self.kind = kind
        self.nouns = nouns
        self.acts = acts


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


# Verbs of one short syllable, whose last letter is doubled.
_DOUBLED = re.compile(r"(?:un|re)?[^aeiou]*(?:qu)?[aeiouy][^aeiouwxy]")


def past(verb: str) -> str:
    """Regular past.

    >>> past("dry"), past("bake"), past("unwrap"), past("open"), past("weigh")
    ('dried', 'baked', 'unwrapped', 'opened', 'weighed')
    """
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    doubled = verb[-1] if _DOUBLED.fullmatch(verb) else ""
    return f"{verb}{doubled}ed"


def _split(value: Any) -> Any:
    """Every string of a nested mapping, as a list of words."""
    if isinstance(value, dict):
        return {key: _split(inner) for key, inner in value.items()}
    return value.split()


def _mixed(*lists: list[Any]) -> list[Any]:
    """Several lists taken in turns, so that the common words of all stand in front."""
    return [word for row in zip_longest(*lists) for word in row if word is not None]


def _group(entry: dict[str, list[str]]) -> Group:
    return Group(
        entry["kind"][0], [Noun(word) for word in entry["nouns"]], [Verb(word) for word in entry["acts"]]
    )


def _group_zh(entry: dict[str, list[str]]) -> Group:
    return Group("", [NounZh(word) for word in entry["nouns"]], [VerbZh(word) for word in entry["acts"]])


def _verbs(sign: str) -> dict[str, list[Any]]:
    """The verbs of a gain or a loss by kind of noun; those for any noun are in every list."""
    lists = {kind: [Verb(word) for word in words] for kind, words in LEXICON["verbs_en"][sign].items()}
    return {kind: _mixed(lists["any"], verbs) for kind, verbs in lists.items() if kind != "any"}


LEXICON: dict[str, Any] = _split(json.loads((Path(__file__).parent / "lexicon.json").read_text("utf8")))
SHE = LEXICON["names_en"]["she"]
HE = LEXICON["names_en"]["he"]
NAMES_ZH = LEXICON["names_zh"]
CONTAINERS = [Noun(word) for word in LEXICON["containers_en"]]

ACTS = [_group(entry) for entry in LEXICON["groups_en"].values()]
ACTS_ZH = [_group_zh(entry) for entry in LEXICON["groups_zh"].values()]
# Things that a person can have several of; people; and things that are bought.
HAVE = [group for group in ACTS if group.kind not in ("work", "people")]
PEOPLE = [group for group in ACTS if group.kind == "people"]
GOODS = _mixed(*(group.nouns for group in HAVE if group.kind == "goods"))

GAIN = _verbs("gain")
LOSS = _verbs("loss")


def common(rng: Random, words: list[Any]) -> Any:
    """A draw that favours the front: half the draws fall on the first eighth, one in eight on the last third."""
    u = rng.random()
    return words[int(u * u * u * len(words))]


def flatter(rng: Random, words: list[Any]) -> Any:
    """A draw for long lists: one in seven as `common`, the others even.

    So the rare words are met at all, and the common ones stay common.
    """
    u = rng.random()
    if u * 7 < 1:
        return words[int((u * 7) ** 3 * len(words))]
    return words[int((u * 7 - 1) / 6 * len(words))]
