"""general: facts, greetings, identity, rewriting. Rows with a checkable `answer` are right when the reply contains it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from r1pipe.embedded.lexicon import HE, NAMES_ZH, SHE, common
from r1pipe.embedded.problem import Problem
from r1pipe.embedded.style import Saying

NAME = "Pip"  # the assistant of this world

REQUESTS: dict[str, Any] = json.loads((Path(__file__).parent / "requests.json").read_text("utf8"))


class Fact(NamedTuple):
    """A relation: how it is asked and said by language, and its rows (entity en, entity zh, answer en, answer zh)."""

    ask: dict[str, list[str]]
    say: dict[str, str]
    rows: list[list[str]]


def _parts(entry: str) -> list[str]:
    return [part.strip() for part in entry.split("/")]


FACTS = {
    name: Fact(fact["ask"], fact["say"], [_parts(row) for row in fact["rows"]])
    for name, fact in REQUESTS["facts"].items()
}
VERBS = [_parts(entry) for entry in REQUESTS["verbs"]]  # present, past, Chinese
THINGS = [_parts(entry) for entry in REQUESTS["things"]]
TASKS: dict[str, dict[str, list[str]]] = REQUESTS["tasks"]


def draw(rng: Random, language: str) -> Problem:
    """One general request."""
    u, zh = rng.random(), language == "zh"
    texts = {name: REQUESTS[name][language] for name in ("leads", "identity", "greetings", "introductions")}
    if u < 0.5:
        relation = rng.choice(tuple(FACTS))
        fact = FACTS[relation]
        index = rng.randrange(len(fact.rows))
        spec: list = ["fact", relation, index]
        answer: str | None = fact.rows[index][2 + zh]
        prompt = rng.choice(texts["leads"]) + rng.choice(fact.ask[language]).replace("{e}", fact.rows[index][zh])
    elif u < 0.65:
        spec, answer = ["identity"], NAME
        prompt = (
            rng.choice(texts["leads"])
            + rng.choice(texts["identity"])
            + rng.choice(texts["introductions"]).replace("{p}", _someone(rng, zh))
        )
    elif u < 0.8:
        spec, answer = ["greeting"], None
        prompt = rng.choice(texts["greetings"]) + rng.choice(texts["introductions"]).replace("{p}", _someone(rng, zh))
    else:
        task, verb, thing = rng.choice(tuple(TASKS)), rng.randrange(len(VERBS)), rng.randrange(len(THINGS))
        spec = ["rewrite", task, verb, thing]
        sentence, answer = _rewritten(spec, language)
        prompt = rng.choice(TASKS[task][language]).replace("{s}", sentence)
    return Problem("general", language, spec, f"general|{language}|{prompt}", prompt, answer, 0)


def _someone(rng: Random, zh: bool) -> str:
    return common(rng, NAMES_ZH if zh else SHE + HE)


def _rewritten(spec: list, language: str) -> tuple[str, str]:
    """The sentence that is given, and what it should become."""
    _, task, verb, thing = spec
    if language == "zh":
        v, t = VERBS[verb][2], THINGS[thing][1]
        given = f"我{v}{t}。"
        return given, {"past": f"他{v}{t}", "we": f"我们{v}{t}", "not": f"我不{v}{t}", "polite": f"请{v}{t}"}[task]
    v, t = VERBS[verb], THINGS[thing][0]
    if task == "polite":
        return f"{v[0].capitalize()} {t}.", f"{v[0].capitalize()} {t}, please"
    return f"I {v[0]} {t}.", {"past": f"I {v[1]} {t}", "we": f"We {v[0]} {t}", "not": f"I do not {v[0]} {t}"}[task]


def sayings(spec: list, language: str, rng: Random, right: bool = True) -> dict[str, Saying]:
    """What there is to say, by language; with right=False something else than the right content."""
    if spec[0] == "fact":
        fact, index = FACTS[spec[1]], spec[2]
        entity = fact.rows[index]
        told = entity if right else rng.choice([row for row in fact.rows if row[2] != entity[2]])
        return {
            code: Saying(fact.say[code].replace("{e}", entity[i]).replace("{a}", told[2 + i]), told[2 + i])
            for i, code in enumerate(("en", "zh"))
        }
    if spec[0] == "identity":
        name = NAME if right else rng.choice(("Bob", "Max", "Leo"))
        return {"en": Saying(f"I am {name}, a small assistant.", name), "zh": Saying(f"我是{name}，一个小助手。", name)}
    if spec[0] == "greeting":
        if not right:
            return {"en": Saying("The table is red.", "table"), "zh": Saying("桌子是红的。", "桌子")}
        return {
            "en": Saying("Hello, it is good to hear from you.", "hello"),
            "zh": Saying("你好，很高兴见到你。", "你好"),
        }
    wrong = spec if right else [spec[0], spec[1], spec[2], (spec[3] + 1) % len(THINGS)]
    text = _rewritten(wrong, language)[1]
    return {language: Saying(f"改写后是：{text}。" if language == "zh" else f"Here it is: {text}.", text)}


def holds(spec: list, response: str, answer: str | None) -> bool:
    """Whether a reply has the right content, in either language: facts and rewriting by the answer, greetings by a greeting."""
    text = response.lower()
    if spec[0] == "greeting":
        return any(word in text for word in ("hello", "hi ", "hi,", "hi!", "你好", "您好", "good to hear"))
    if spec[0] == "fact":
        row = FACTS[spec[1]].rows[spec[2]]
        return contains(text, row[2]) or contains(text, row[3])
    return contains(text, answer or "")


def contains(text: str, answer: str) -> bool:
    """`answer` as whole words of `text` (lower case); Chinese has no word borders."""
    answer = answer.lower()
    at = text.find(answer)
    while at >= 0:
        before, after = text[at - 1 : at], text[at + len(answer) : at + len(answer) + 1]
        if not answer.isascii() or not (before.isascii() and before.isalnum() or after.isascii() and after.isalnum()):
            return True
        at = text.find(answer, at + 1)
    return False
