"""word-problems: little stories about stocks, rates, money, ages and ways.

The sentences stand in stories.json, the words in lexicon.json. A problem's identity is its story and numbers; names,
nouns and wording do not make it a new one.
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

# What a step says before its sum; {a} and {b} are its operands.
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

# What a prompt's _length may be, so that it rarely has more than 48 tokens.
LONGEST = {"en": 40, "zh": 58}

# Wordings tried before a story gives way to another, so that stories of long sentences stay as frequent as others.
WORDINGS = 20

Numbers = dict[str, int]  # x, y, z of a story's sentences
StepSpecs = list[list]  # [label, operation, left, right]; '$0' is the first step's value
Plan = list[tuple[str, int]]  # what happens to a stock: operation and number


def draw(rng: Random, language: str) -> Problem:
    """One word problem. A wording that is too long is drawn again; a story that has no short one gives way."""
    while True:
        story = "stock" if rng.random() < 0.3 else rng.choice(_NAMES)
        stock = 0
        plan: Plan = []
        numbers: Numbers = {}
        if story == "stock":
            stock, plan, steps = _plan(rng)
        else:
            numbers, steps = _numbers(story, rng)
        for _ in range(WORDINGS):
            if story == "stock":
                prompt = _stock_prompt(rng, language, stock, plan)
            else:
                prompt = _story_prompt(rng, language, story, numbers)
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


def think(spec: list, language: str) -> Steps:
    """One step a sum: 'Add 7 more: 12+7=19.'"""
    values: list[int] = []
    for label, op, left, right in spec[1]:
        a = _operand(left, values)
        b = _operand(right, values)
        en, zh = LABELS[label]
        sum_ = f"{a}{op}{b}=§"
        # After a mistake the divisor may be 0.
        result = apply(op, a, b) if op != "/" or b else 0
        value = yield Step(en.format(a=a, b=b) + sum_, zh.format(a=a, b=b) + sum_, result)
        values.append(value)
    return values[-1]


def _answer(steps: StepSpecs) -> int:
    values: list[int] = []
    for _, op, left, right in steps:
        values.append(apply(op, _operand(left, values), _operand(right, values)))
    return values[-1]


def _operand(operand: int | str, values: list[int]) -> int:
    """A number as it is; of '$0', the value of the first step."""
    return values[int(operand[1:])] if isinstance(operand, str) else operand


# --- numbers ----------------------------------------------------------------------------------------------------------


def _numbers(story: str, rng: Random) -> tuple[Numbers, StepSpecs]:
    """The numbers of a story and its steps. Every value is a whole number above 0."""
    r = rng.randint
    if story in ("rate-less", "groups", "earn"):
        x = r(3, 16)
        y = r(2, 9)
        z = r(2, max(2, min(60, x * y - 1)))
        return {"x": x, "y": y, "z": z}, [["product", "*", x, y], ["left", "-", "$0", z]]
    if story in ("rate-more", "loose", "bill"):
        x = r(3, 16)
        y = r(2, 9)
        z = r(2, 50)
        label = "cost" if story == "bill" else "product"
        return {"x": x, "y": y, "z": z}, [[label, "*", x, y], ["more", "+", "$0", z]]
    if story == "change":
        x = r(2, 12)
        y = r(2, 8)
        z = rng.choice([note for note in (20, 30, 40, 50, 60, 80, 100) if note > x * y])
        return {"x": x, "y": y, "z": z}, [["cost", "*", x, y], ["left", "-", z, "$0"]]
    if story == "more-both":
        x = r(3, 70)
        y = r(2, 40)
        return {"x": x, "y": y}, [["has", "+", x, y], ["both", "+", x, "$0"]]
    if story == "fewer-both":
        x = r(8, 90)
        y = r(2, x - 2)
        return {"x": x, "y": y}, [["has", "-", x, y], ["both", "+", x, "$0"]]
    if story in ("times-both", "times-diff"):
        x = r(3, 30)
        y = r(2, 5)
        second = ["both", "+", x, "$0"] if story == "times-both" else ["gap", "-", "$0", x]
        return {"x": x, "y": y}, [["has", "*", x, y], second]
    if story == "share-more":
        z = r(2, 9)
        part = r(2, 12)
        x = r(2, z * part - 1)
        y = z * part - x
        return {"x": x, "y": y, "z": z}, [["more", "+", x, y], ["each", "/", "$0", z]]
    if story == "share-less":
        z = r(2, 9)
        part = r(2, 12)
        y = r(2, 40)
        x = z * part + y
        return {"x": x, "y": y, "z": z}, [["less", "-", x, y], ["each", "/", "$0", z]]
    if story in ("age-sum", "age-young"):
        x = r(10, 60)
        y = r(2, min(30, x - 3))
        z = r(2, 30)
        label, op = ("older", "+") if story == "age-sum" else ("younger", "-")
        return {"x": x, "y": y, "z": z}, [[label, op, x, y], ["later", "+", "$0", z]]
    if story == "pages":
        y = r(3, 14)
        z = r(2, 8)
        x = y * z + r(3, 80)
        return {"x": x, "y": y, "z": z}, [["product", "*", y, z], ["left", "-", x, "$0"]]
    if story == "bus":
        x = r(8, 90)
        y = r(2, x - 2)
        z = r(2, 60)
        return {"x": x, "y": y, "z": z}, [["less", "-", x, y], ["more", "+", "$0", z]]
    if story in ("trip", "target", "kinds"):
        y = r(3, 50)
        z = r(3, 50)
        x = y + z + r(2, 60)
        return {"x": x, "y": y, "z": z}, [["sum", "+", y, z], ["left", "-", x, "$0"]]
    assert story == "three", story
    x = r(3, 60)
    y = r(3, 60)
    z = r(3, 60)
    return {"x": x, "y": y, "z": z}, [["sum", "+", x, y], ["more", "+", "$0", z]]


def _plan(rng: Random) -> tuple[int, Plan, StepSpecs]:
    """A stock and what happens to it; the same as steps."""
    first = value = rng.randint(5, 60)
    plan: Plan = []
    steps: StepSpecs = []
    left: int | str = value
    for i in range(rng.choices((2, 3), (70, 30))[0]):
        # The bounds keep the stock within 0..200; a small one only grows, since there is little to take away.
        u = rng.random()
        if u < 0.12 and value <= 40:
            op, y, label = "*", rng.randint(2, 4), "fold"
        elif u < 0.55 and value < 140 or value < 4:
            op, y, label = "+", rng.randint(2, 50), "more"
        else:
            op, y, label = "-", rng.randint(2, min(50, value - 1)), "less"
        plan.append((op, y))
        steps.append([label, op, left, y])
        left = f"${i}"
        value = apply(op, value, y)
    return first, plan, steps


# --- words ------------------------------------------------------------------------------------------------------------


class _Slots(dict[str, Any]):
    """What fills a problem's sentences.

    Each word or phrase is drawn when a sentence first has its slot, and then stays, so that the order of draws follows
    the sentences.

    o, n     a thing, and several; in Chinese n is the thing and m its measure word
    v vb vd  what is done to it: third person, base form, past
    A, B     two people; p, q, p3 the first one's pronoun, possessive and object form, pb the second one's pronoun
    P, q2    p and q with a capital; so is every other slot whose name begins with a capital
    """

    __slots__ = ("rng", "zh", "group", "phrases", "words")

    def __init__(self, rng: Random, language: str, groups: tuple[list[Group], list[int]]) -> None:
        self.rng = rng
        self.zh = language == "zh"
        self.phrases = _STORIES[language]["phrases"]
        self.words = _LISTS[language]
        sorts, weights = groups
        self.group = group = rng.choices(sorts, cum_weights=weights)[0]
        noun = flatter(rng, group.nouns)
        verb = flatter(rng, group.acts)
        self.update(o=noun.singular, v=verb.third, vb=verb.base, vd=verb.past)
        if self.zh:
            self["A"], self["B"] = rng.sample(NAMES_ZH, 2)
            self.update(n=noun.singular, m=noun.measure)
        else:
            self.update(n=noun.plural)
            self._draw_people()

    def _draw_people(self) -> None:
        name, pronoun, possessive, objective = _person(self.rng)
        other, other_pronoun, _, _ = _person(self.rng)
        while other == name:
            other, other_pronoun, _, _ = _person(self.rng)
        self.update(A=name, p=pronoun, q=possessive, p3=objective, B=other, pb=other_pronoun)
        self.update(P=pronoun.capitalize(), q2=possessive.capitalize())

    def __missing__(self, key: str) -> str:
        if key in self.phrases:
            value = self.rng.choice(self.phrases[key]).format_map(self)
        elif key in self.words:
            value = flatter(self.rng, self.words[key])
        elif key in ("c", "cs"):
            # Both at once: a sentence with 'a box' and one with 'boxes' mean the same container.
            container = flatter(self.rng, CONTAINERS)
            self.update(c=container.singular, cs=container.plural)
            return self[key]
        elif key == "m":
            value = common(self.rng, PEOPLE[0].nouns).plural
        elif key in ("o2", "n2"):
            other = flatter(self.rng, self.group.nouns if self.zh else GOODS)
            value = other.singular if key == "o2" or self.zh else other.plural
        else:
            small = self[key.lower()]
            return small[0].upper() + small[1:]
        self[key] = value
        return value


def _person(rng: Random) -> tuple[str, str, str, str]:
    """Name, pronoun, possessive, object form."""
    if rng.random() < 0.5:
        return common(rng, SHE), "she", "her", "her"
    return common(rng, HE), "he", "his", "him"


def _weights(groups: list[Group]) -> list[int]:
    """Cumulative weights: a large group is drawn more often, so its nouns and verbs are not rarer than others'."""
    return list(accumulate(len(group.nouns) + 2 * len(group.acts) for group in groups))


# What a story's sentences can be about: groups with their weights. Chinese has one list for all stories.
_GROUPS = {
    "en": {
        "have": (HAVE, _weights(HAVE)),
        "acts": (ACTS, _weights(ACTS)),
        "people": (PEOPLE, _weights(PEOPLE)),
    },
    "zh": {of: (ACTS_ZH, _weights(ACTS_ZH)) for of in ("have", "acts", "people")},
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
_POOLS = {"*": "folds", "+": "gains", "-": "losses"}
_NAMES = tuple(_STORIES["en"]["stories"])


def _stock_prompt(rng: Random, language: str, stock: int, plan: Plan) -> str:
    texts = _STORIES[language]
    slots = _Slots(rng, language, _GROUPS[language]["have"])
    slots["x"] = stock
    parts = [rng.choice(texts["openings"]).format_map(slots)]
    for op, y in plan:
        slots["y"] = y
        if op != "*":
            slots["w"] = _change(slots, op == "+")
        parts.append(rng.choice(texts[_POOLS[op]]).format_map(slots))
    parts.append(rng.choice(texts["asks"]).format_map(slots))
    return _finished(parts, slots)


def _story_prompt(rng: Random, language: str, story: str, numbers: Numbers) -> str:
    version = rng.choice(_STORIES[language]["stories"][story])
    slots = _Slots(rng, language, _GROUPS[language][version["of"]])
    slots.update(numbers)
    # Not every group can be lost; stories about such groups have no slot for it.
    if slots.zh or slots.group.kind in LOSS:
        slots["w"] = _change(slots, False)
    parts = [rng.choice(texts).format_map(slots) for texts in version["parts"]]
    return _finished(parts, slots)


def _change(slots: _Slots, gain: bool) -> str:
    """How things of a group come or go."""
    if slots.zh:
        return flatter(slots.rng, LEXICON["gain_zh" if gain else "loss_zh"])
    return flatter(slots.rng, (GAIN if gain else LOSS)[slots.group.kind]).third


# Where 'a' becomes 'an': an onion, an umbrella; but a unicorn, a uniform, a ukulele.
_VOWEL = re.compile(r"\b([Aa]) (?=[aeioAEIO]|u(?!n[ir]|se|k|t[ei]))")


def _finished(parts: list[str], slots: _Slots) -> str:
    prompt = "".join(parts) if slots.zh else _VOWEL.sub(r"\1n ", " ".join(parts))
    return _with_lead(prompt, slots)


def _with_lead(prompt: str, slots: _Slots) -> str:
    """The prompt with a word or two before its question, in a quarter of the problems."""
    if slots.rng.random() > 0.25:
        return prompt
    zh = slots.zh
    at = prompt.rfind("。") + 1 if zh else prompt.rfind(". ") + 2
    question = prompt[at:]
    if at < 2 or "，" in question or (not zh and not question.startswith(("How", "What", "Which"))):
        return prompt
    # A question that has its time needs no second one.
    if "when" in slots:
        return prompt
    lead = slots.rng.choice(_STORIES["zh" if zh else "en"]["leads"]).format_map(slots)
    if not zh:
        question = question[0].lower() + question[1:]
    return prompt[:at] + lead + question


# --- lengths ----------------------------------------------------------------------------------------------------------

# The words of the stories' own sentences. They occur so often that each is one or two entries of the vocabulary.
_SENTENCES = " ".join(re.findall(r'"[^"]*{[^"]*"', json.dumps(_STORIES["en"])))
_FREQUENT = frozenset(re.findall(r"[A-Za-z]+", re.sub(r"{\w+}", " ", _SENTENCES)))
_PIECE = re.compile(r"[A-Za-z]+|[^A-Za-z ]+")


def _length(prompt: str, zh: bool) -> int:
    """About the number of a prompt's tokens. In Chinese a character is one, and a digit counts as three."""
    if zh:
        return len(prompt) + 2 * sum(map(str.isdigit, prompt))
    return sum(map(_word_length, _PIECE.findall(prompt)))


def _word_length(word: str) -> int:
    if word in _FREQUENT:
        return 2 if len(word) > 5 else 1
    if word.isalpha():
        # A rare word takes more than one token for every two letters.
        return 1 + (5 * len(word) - 8) // 9
    return len(word)
