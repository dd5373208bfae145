"""word-problems: little stories about stocks, rates, money, ages, ways; the sentences stand in stories.json, the words in lexicon.json.

A problem's identity is its story and numbers; names, nouns and wording do not make it a new one.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from r1pipe.embedded.arithmetic import apply
from r1pipe.embedded.lexicon import (
    ACTS,
    ACTS_ZH,
    CONTAINERS,
    GAIN,
    GOODS,
    HAVE,
    HE,
    LEXICON,
    LOSS,
    NAMES_ZH,
    PEOPLE,
    SHE,
    Group,
    common,
    flatter,
)
from r1pipe.embedded.problem import Problem, Step, Steps

_STORIES: dict[str, Any] = json.loads((Path(__file__).parent / "stories.json").read_text("utf8"))

# what a step says before its sum; {a} {b} are its operands
LABELS = {
    "more": ("Add {b} more: ", "加上{b}："),
    "less": ("Take away {b}: ", "去掉{b}："),
    "fold": ("{b} times that: ", "变成{b}倍："),
    "product": ("{b} times {a} is: ", "{b}份{a}共："),
    "both": ("Both together: ", "两人共："),
    "gap": ("The difference is: ", "相差："),
    "cost": ("They cost: ", "花费："),
    "left": ("That leaves: ", "剩下："),
    "each": ("Each part gets: ", "每份："),
    "older": ("{b} years older: ", "大{b}岁："),
    "younger": ("{b} years younger: ", "小{b}岁："),
    "later": ("After {b} years: ", "{b}年后："),
    "sum": ("Add them up: ", "一共："),
    "has": ("The other has: ", "另一个有："),
}


LONGEST = {"en": 40, "zh": 58}  # what a prompt's _length may be: rarely more than 48 tokens
WORDINGS = 20  # tried before a story gives way, so that stories of long sentences stay as frequent as others


def _numbers(story: str, rng: Random) -> tuple[dict[str, int], list[list]]:
    """x, y, z of a story and its steps [label, op, left, right]; '$0' is the first step's value."""
    r = rng.randint
    if story in ("rate-less", "groups", "earn"):
        x, y = r(3, 16), r(2, 9)
        z = r(2, max(2, min(60, x * y - 1)))
        return {"x": x, "y": y, "z": z}, [["product", "*", x, y], ["left", "-", "$0", z]]
    if story in ("rate-more", "loose", "bill"):
        x, y, z = r(3, 16), r(2, 9), r(2, 50)
        return {"x": x, "y": y, "z": z}, [["cost" if story == "bill" else "product", "*", x, y], ["more", "+", "$0", z]]
    if story == "change":
        x, y = r(2, 12), r(2, 8)
        z = rng.choice([v for v in (20, 30, 40, 50, 60, 80, 100) if v > x * y])
        return {"x": x, "y": y, "z": z}, [["cost", "*", x, y], ["left", "-", z, "$0"]]
    if story == "more-both":
        x, y = r(3, 70), r(2, 40)
        return {"x": x, "y": y}, [["has", "+", x, y], ["both", "+", x, "$0"]]
    if story == "fewer-both":
        x = r(8, 90)
        y = r(2, x - 2)
        return {"x": x, "y": y}, [["has", "-", x, y], ["both", "+", x, "$0"]]
    if story in ("times-both", "times-diff"):
        x, y = r(3, 30), r(2, 5)
        return {"x": x, "y": y}, [
            ["has", "*", x, y],
            ["both", "+", x, "$0"] if story == "times-both" else ["gap", "-", "$0", x],
        ]
    if story == "share-more":
        z, part = r(2, 9), r(2, 12)
        x = r(2, z * part - 1)
        return {"x": x, "y": z * part - x, "z": z}, [["more", "+", x, z * part - x], ["each", "/", "$0", z]]
    if story == "share-less":
        z, part, y = r(2, 9), r(2, 12), r(2, 40)
        return {"x": z * part + y, "y": y, "z": z}, [["less", "-", z * part + y, y], ["each", "/", "$0", z]]
    if story in ("age-sum", "age-young"):
        x = r(10, 60)
        y, z = r(2, min(30, x - 3)), r(2, 30)
        op, label = ("+", "older") if story == "age-sum" else ("-", "younger")
        return {"x": x, "y": y, "z": z}, [[label, op, x, y], ["later", "+", "$0", z]]
    if story == "pages":
        y, z = r(3, 14), r(2, 8)
        x = y * z + r(3, 80)
        return {"x": x, "y": y, "z": z}, [["product", "*", y, z], ["left", "-", x, "$0"]]
    if story == "bus":
        x = r(8, 90)
        y, z = r(2, x - 2), r(2, 60)
        return {"x": x, "y": y, "z": z}, [["less", "-", x, y], ["more", "+", "$0", z]]
    if story in ("trip", "target", "kinds"):
        y, z = r(3, 50), r(3, 50)
        x = y + z + r(2, 60)
        return {"x": x, "y": y, "z": z}, [["sum", "+", y, z], ["left", "-", x, "$0"]]
    assert story == "three", story
    x, y, z = r(3, 60), r(3, 60), r(3, 60)
    return {"x": x, "y": y, "z": z}, [["sum", "+", x, y], ["more", "+", "$0", z]]


class _Slots(dict[str, Any]):
    """What fills a problem's sentences: each word or phrase is drawn when a sentence first asks for it, and then stays."""

    __slots__ = ("rng", "zh", "group", "phrases", "words")

    def __init__(self, rng: Random, zh: bool, groups: list[Group], weights: list[int]) -> None:
        self.rng, self.zh = rng, zh
        self.group = group = rng.choices(groups, cum_weights=weights)[0]
        self.phrases, self.words = (
            (_STORIES["zh"]["phrases"], _LISTS["zh"]) if zh else (_STORIES["en"]["phrases"], _LISTS["en"])
        )
        noun, verb = flatter(rng, group.nouns), flatter(rng, group.acts)
        self.update(o=noun.one, v=verb.third, vb=verb.base, vd=verb.past)
        if zh:
            self["A"], self["B"] = rng.sample(NAMES_ZH, 2)
            self.update(n=noun.one, m=noun.measure)
            return
        (a, self["p"], self["q"], self["p3"]), (b, self["pb"], _, _) = _person(rng), _person(rng)
        while b == a:
            b, self["pb"], _, _ = _person(rng)
        self.update(A=a, B=b, n=noun.many, P=self["p"].capitalize(), q2=self["q"].capitalize())

    def __missing__(self, key: str) -> str:
        if key in self.phrases:
            value = self.rng.choice(self.phrases[key]).format_map(self)
        elif key in self.words:
            value = flatter(self.rng, self.words[key])
        elif key in ("c", "cs"):
            box = flatter(self.rng, CONTAINERS)
            self["c"], self["cs"] = box.one, box.many
            return self[key]
        elif key == "m":
            value = common(self.rng, PEOPLE[0].nouns).many
        elif key in ("o2", "n2"):
            other = flatter(self.rng, self.group.nouns if self.zh else GOODS)
            value = other.one if key == "o2" or self.zh else other.many
        else:
            small = self[key.lower()]
            return small[0].upper() + small[1:]
        self[key] = value
        return value


def _person(rng: Random) -> tuple[str, str, str, str]:
    """Name, pronoun, possessive, object form."""
    return (common(rng, SHE), "she", "her", "her") if rng.random() < 0.5 else (common(rng, HE), "he", "his", "him")


def _weights(groups: list[Group]) -> list[int]:
    """Cumulative: large groups are drawn more often, so that their nouns and verbs are not rarer than others'."""
    return list(accumulate(len(group.nouns) + 2 * len(group.acts) for group in groups))


_GROUPS = {
    "zh": {of: (ACTS_ZH, _weights(ACTS_ZH)) for of in ("have", "acts", "people")},
    "en": {of: (groups, _weights(groups)) for of, groups in (("have", HAVE), ("acts", ACTS), ("people", PEOPLE))},
}
_LISTS = {
    "en": {
        "l": LEXICON["places_en"],
        "s": LEXICON["shops_en"],
        "room": LEXICON["rooms_en"],
        "r": LEXICON["relatives_en"],
    },
    "zh": {
        "l": LEXICON["places_zh"],
        "s": LEXICON["shops_zh"],
        "c": LEXICON["containers_zh"],
        "r": LEXICON["relatives_zh"],
    },
}
_VOWEL = re.compile(
    r"\b([Aa]) (?=[aeioAEIO]|u(?!n[ir]|se|k|t[ei]))"
)  # an onion, an umbrella; a unicorn, a uniform, a ukulele


def _change(slots: _Slots, gain: bool) -> str:
    """How things of a group come or go."""
    if slots.zh:
        return flatter(slots.rng, LEXICON["gain_zh" if gain else "loss_zh"])
    return flatter(slots.rng, (GAIN if gain else LOSS)[slots.group.kind]).third


def _lead_in(rng: Random, prompt: str, slots: _Slots) -> str:
    """A word or two before the question, in a quarter of the problems."""
    if rng.random() > 0.25:
        return prompt
    zh = slots.zh
    at = prompt.rfind("。") + 1 if zh else prompt.rfind(". ") + 2
    question = prompt[at:]
    if at < 2 or "，" in question or (not zh and not question.startswith(("How", "What", "Which"))):
        return prompt
    if "when" in slots:  # the question has its time
        return prompt
    lead = rng.choice(_STORIES["zh" if zh else "en"]["leads"]).format_map(slots)
    return prompt[:at] + lead + (question if zh else question[0].lower() + question[1:])


def _stock(slots: _Slots, plan: list[tuple[str, int]], value: int) -> list[str]:
    texts, rng = _STORIES["zh" if slots.zh else "en"], slots.rng
    slots["x"] = value
    parts = [rng.choice(texts["openings"]).format_map(slots)]
    for op, y in plan:
        slots["y"] = y
        if op != "*":
            slots["w"] = _change(slots, op == "+")
        parts.append(rng.choice(texts[_POOLS[op]]).format_map(slots))
    return [*parts, rng.choice(texts["asks"]).format_map(slots)]


def _length(prompt: str, zh: bool) -> int:
    """About a prompt's tokens: those of the stories' own words are one each, others take more than one for every two letters. Chinese: characters."""
    if zh:
        return len(prompt) + 2 * sum(map(str.isdigit, prompt))
    pieces = _PIECE.findall(prompt)
    return sum(
        1 + (len(word) > 5) if word in _FREQUENT else 1 + (5 * len(word) - 8) // 9 if word.isalpha() else len(word)
        for word in pieces
    )


_PIECE = re.compile(r"[A-Za-z]+|[^A-Za-z ]+")
_FREQUENT = frozenset(
    re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", " ", " ".join(re.findall(r'"[^"]*{[^"]*"', json.dumps(_STORIES["en"])))))
)
_POOLS = {"*": "folds", "+": "gains", "-": "losses"}


def _plan(rng: Random) -> tuple[int, list[tuple[str, int]], list[list]]:
    """A stock and what happens to it; the same as steps."""
    first = value = rng.randint(5, 60)
    plan: list[tuple[str, int]] = []
    steps: list[list] = []
    left: object = value
    for i in range(rng.choices((2, 3), (70, 30))[0]):
        u = rng.random()
        if u < 0.12 and value <= 40:
            op, y, label = "*", rng.randint(2, 4), "fold"
        elif u < 0.55 and value < 140 or value < 4:
            op, y, label = "+", rng.randint(2, 50), "more"
        else:
            op, y, label = "-", rng.randint(2, min(50, value - 1)), "less"
        plan.append((op, y))
        steps.append([label, op, left, y])
        left, value = f"${i}", apply(op, value, y)
    return first, plan, steps


def draw(rng: Random, language: str) -> Problem:
    """One word problem. A wording that is too long is tried again; a story that has no short one gives way."""
    while True:
        story = "stock" if rng.random() < 0.3 else rng.choice(_NAMES)
        stock, plan, steps = 0, [], []
        numbers: dict[str, int] = {}
        if story == "stock":
            stock, plan, steps = _plan(rng)
        else:
            numbers, steps = _numbers(story, rng)
        for _ in range(WORDINGS):
            prompt = _worded(rng, language, story, numbers, stock, plan)
            if _length(prompt, language == "zh") <= LONGEST[language]:
                return Problem(
                    "word-problems",
                    language,
                    ["steps", steps],
                    f"word|{story}|{steps}",
                    prompt,
                    str(_answer(steps)),
                    len(steps),
                )


def _worded(
    rng: Random, language: str, story: str, numbers: dict[str, int], stock: int, plan: list[tuple[str, int]]
) -> str:
    zh = language == "zh"
    if story == "stock":
        slots = _Slots(rng, zh, *_GROUPS[language]["have"])
        parts = _stock(slots, plan, stock)
    else:
        version = rng.choice(_STORIES[language]["stories"][story])
        slots = _Slots(rng, zh, *_GROUPS[language][version["of"]])
        slots.update(numbers)
        if zh or slots.group.kind in LOSS:
            slots["w"] = _change(slots, False)
        parts = [rng.choice(texts).format_map(slots) for texts in version["parts"]]
    prompt = ("" if zh else " ").join(parts)
    return _lead_in(rng, prompt if zh else _VOWEL.sub(r"\1n ", prompt), slots)


_NAMES = tuple(_STORIES["en"]["stories"])


def _answer(steps: list[list]) -> int:
    values: list[int] = []
    for _, op, a, b in steps:
        values.append(apply(op, *(values[int(v[1:])] if isinstance(v, str) else v for v in (a, b))))
    return values[-1]


def think(spec: list, language: str) -> Steps:
    """One step a sum: 'Add 7 more: 12+7=19.'"""
    values: list[int] = []
    for label, op, a, b in spec[1]:
        a, b = (values[int(v[1:])] if isinstance(v, str) else v for v in (a, b))
        en, zh = LABELS[label]
        sum_ = f"{a}{op}{b}=§"
        right = apply(op, a, b) if op != "/" or b else 0
        values.append((yield Step(en.format(a=a, b=b) + sum_, zh.format(a=a, b=b) + sum_, right)))
    return values[-1]
