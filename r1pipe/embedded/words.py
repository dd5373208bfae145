"""word-problems: little stories about stocks, rates, money, ages, ways; the sentences stand in stories.json, the words in lexicon.json.

A problem's identity is its story and numbers; names, nouns and wording do not make it a new one.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from r1pipe.embedded.arithmetic import apply
from r1pipe.embedded.lexicon import CONTAINERS, GAIN, HE, LEXICON, LOSS, NAMES_ZH, NOUNS, NOUNS_ZH, RATE, SHE, common
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


LONGEST = {"en": 102, "zh": 64}  # characters of a prompt, digits three times since each is a token: at most 48 tokens


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
        return {"x": x, "y": y}, [["has", "*", x, y], ["both", "+", x, "$0"] if story == "times-both" else ["gap", "-", "$0", x]]
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


def _person(rng: Random) -> tuple[str, str, str, str, str]:
    """Name, pronoun, possessive, possessive at a sentence's start, object form."""
    return (common(rng, SHE), "she", "her", "Her", "her") if rng.random() < 0.5 else (common(rng, HE), "he", "his", "His", "him")


def _slots(rng: Random, zh: bool, kind: str | None = None) -> dict[str, object]:
    if zh:
        noun = common(rng, NOUNS_ZH)
        a, b = rng.sample(NAMES_ZH, 2)
        return {
            "A": a,
            "B": b,
            "n": noun.word,
            "m": noun.measure,
            "n2": common(rng, NOUNS_ZH).word,
            "l": common(rng, LEXICON["places_zh"]),
            "c": common(rng, LEXICON["containers_zh"]),
            "v": common(rng, LEXICON["make_zh"]),
        }
    name, p, q, q2, p3 = _person(rng)
    noun = common(rng, NOUNS[kind or rng.choice(("food", "goods", "nature"))])
    box = common(rng, CONTAINERS)
    other = _person(rng)[0]
    while other == name:
        other = _person(rng)[0]
    return {
        "A": name,
        "B": other,
        "p": p,
        "P": p.capitalize(),
        "q": q,
        "q2": q2,
        "p3": p3,
        "n": noun.many,
        "o": noun.one,
        "o2": common(rng, NOUNS["goods"]).one,
        "c": box.one,
        "cs": box.many,
        "l": common(rng, LEXICON["places_en"]),
        "s": common(rng, LEXICON["shops_en"]),
        "r": common(rng, LEXICON["relatives_en"]),
    }


def _article(text: str) -> str:
    for vowel in "aeiou":
        if f" a {vowel}" in text or text.startswith(f"A {vowel}"):
            text = text.replace(f" a {vowel}", f" an {vowel}").replace(f"A {vowel}", f"An {vowel}")
    return text


def _lead_in(rng: Random, prompt: str, zh: bool) -> str:
    """A word or two before the question, in a quarter of the problems."""
    if rng.random() > 0.25:
        return prompt
    at = max(prompt.rfind("。"), prompt.rfind("，")) + 1 if zh else max(prompt.rfind(". "), prompt.rfind(", ")) + 2
    if at < 2 or (zh and prompt[at - 1] == "，"):
        return prompt
    question = prompt[at:]
    if zh:
        return prompt[:at] + rng.choice(_STORIES["zh"]["leads"]) + question
    if not question.startswith(("How", "What", "Which")):
        return prompt
    return prompt[:at] + rng.choice(_STORIES["en"]["leads"]) + question[0].lower() + question[1:]


def _stock(rng: Random, zh: bool) -> tuple[str, list[list]]:
    texts = _STORIES["zh" if zh else "en"]
    kind = rng.choice(("food", "goods", "nature"))
    slots = _slots(rng, zh, kind)
    value = rng.randint(5, 60)
    slots["x"] = value
    parts, steps = [rng.choice(texts["openings"]).format_map(slots)], []
    left: object = value
    for i in range(rng.choices((2, 3), (70, 30))[0]):
        u = rng.random()
        if u < 0.12 and value <= 40:
            op, y, label, pool = "*", rng.randint(2, 4), "fold", texts["folds"]
        elif u < 0.55 and value < 140 or value < 4:
            op, y, label, pool = "+", rng.randint(2, 50), "more", texts["gains"]
            slots["v"] = common(rng, LEXICON["gain_zh"]) if zh else common(rng, GAIN[kind])
        else:
            op, y, label, pool = "-", rng.randint(2, min(50, value - 1)), "less", texts["losses"]
            slots["v"] = common(rng, LEXICON["loss_zh"]) if zh else common(rng, LOSS[kind])
        slots["y"] = y
        parts.append(rng.choice(pool).format_map(slots))
        steps.append([label, op, left, y])
        left, value = f"${i}", apply(op, value, y)
    parts.append(rng.choice(texts["asks"]).format_map(slots))
    return ("" if zh else " ").join(parts), steps


def draw(rng: Random, language: str) -> Problem:
    """One word problem."""
    while True:
        problem = _draw(rng, language)
        if len(problem.prompt) + 2 * sum(map(str.isdigit, problem.prompt)) <= LONGEST[language]:
            return problem


def _draw(rng: Random, language: str) -> Problem:
    zh = language == "zh"
    story = "stock" if rng.random() < 0.3 else rng.choice(_NAMES)
    if story == "stock":
        prompt, steps = _stock(rng, zh)
    else:
        numbers, steps = _numbers(story, rng)
        slots = _slots(rng, zh)
        slots.update(numbers)
        if not zh and story in ("rate-less", "rate-more", "three"):
            slots["v"], things = common(rng, RATE)
            slots["n"] = rng.choice(things).many
        elif not zh and story == "share-less":
            slots["v"] = common(rng, LOSS["goods"])
        elif zh and story == "share-less":
            slots["v"] = common(rng, LEXICON["loss_zh"])
        prompt = ("" if zh else " ").join([rng.choice(texts).format_map(slots) for texts in _STORIES[language]["stories"][story]])
    if not zh:
        prompt = _article(prompt)
    prompt = _lead_in(rng, prompt, zh)
    return Problem("word-problems", language, ["steps", steps], f"word|{story}|{steps}", prompt, str(_answer(steps)), len(steps))


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
