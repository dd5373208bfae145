"""general: facts, greetings, identity, rewriting. Where a row has an `answer`, a reply that contains it is right."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from r1pipe.embedded.lexicon import HE, NAMES_ZH, SHE, common
from r1pipe.embedded.problem import Problem
from r1pipe.embedded.style import Saying

# The assistant of this world.
NAME = "Pip"

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
# Each verb as (present, past, Chinese).
VERBS = [_parts(entry) for entry in REQUESTS["verbs"]]
THINGS = [_parts(entry) for entry in REQUESTS["things"]]
TASKS: dict[str, dict[str, list[str]]] = REQUESTS["tasks"]


def draw(rng: Random, language: str) -> Problem:
    """One general request."""
    u = rng.random()
    if u < 0.5:
        spec, prompt, answer = _fact(rng, language)
    elif u < 0.65:
        spec, prompt, answer = _identity(rng, language)
    elif u < 0.8:
        spec, prompt, answer = _greeting(rng, language)
    else:
        spec, prompt, answer = _rewriting(rng, language)
    return Problem("general", language, spec, f"general|{language}|{prompt}", prompt, answer, 0)


Drawn = tuple[list, str, str | None]  # spec, prompt, answer


def _fact(rng: Random, language: str) -> Drawn:
    zh = language == "zh"
    relation = rng.choice(tuple(FACTS))
    fact = FACTS[relation]
    index = rng.randrange(len(fact.rows))
    lead = rng.choice(REQUESTS["leads"][language])
    question = rng.choice(fact.ask[language]).replace("{e}", fact.rows[index][zh])
    return ["fact", relation, index], lead + question, fact.rows[index][2 + zh]


def _identity(rng: Random, language: str) -> Drawn:
    lead = rng.choice(REQUESTS["leads"][language])
    question = rng.choice(REQUESTS["identity"][language])
    return ["identity"], lead + question + _introduction(rng, language), NAME


def _greeting(rng: Random, language: str) -> Drawn:
    greeting = rng.choice(REQUESTS["greetings"][language])
    return ["greeting"], greeting + _introduction(rng, language), None


def _introduction(rng: Random, language: str) -> str:
    """Who is asking, in some of the requests: 'I am Anna.'"""
    text = rng.choice(REQUESTS["introductions"][language])
    name = common(rng, NAMES_ZH if language == "zh" else SHE + HE)
    return text.replace("{p}", name)


def _rewriting(rng: Random, language: str) -> Drawn:
    task = rng.choice(tuple(TASKS))
    verb = rng.randrange(len(VERBS))
    thing = rng.randrange(len(THINGS))
    spec = ["rewrite", task, verb, thing]
    sentence, answer = _rewritten(spec, language)
    return spec, rng.choice(TASKS[task][language]).replace("{s}", sentence), answer


def _rewritten(spec: list, language: str) -> tuple[str, str]:
    """The sentence that is given, and what it should become."""
    _, task, verb, thing = spec
    present, past, verb_zh = VERBS[verb]
    thing_en, thing_zh = THINGS[thing]
    if language == "zh":
        results = {
            "past": f"他{verb_zh}{thing_zh}",
            "we": f"我们{verb_zh}{thing_zh}",
            "not": f"我不{verb_zh}{thing_zh}",
            "polite": f"请{verb_zh}{thing_zh}",
        }
        return f"我{verb_zh}{thing_zh}。", results[task]
    if task == "polite":
        command = f"{present.capitalize()} {thing_en}"
        return f"{command}.", f"{command}, please"
    results = {
        "past": f"I {past} {thing_en}",
        "we": f"We {present} {thing_en}",
        "not": f"I do not {present} {thing_en}",
    }
    return f"I {present} {thing_en}.", results[task]


def sayings(spec: list, language: str, rng: Random, right: bool = True) -> dict[str, Saying]:
    """What there is to say, by language; with right=False, something else than the right content."""
    if spec[0] == "fact":
        return _fact_sayings(spec, rng, right)
    if spec[0] == "identity":
        name = NAME if right else rng.choice(("Bob", "Max", "Leo"))
        return {
            "en": Saying(f"I am {name}, a small assistant.", name),
            "zh": Saying(f"我是{name}，一个小助手。", name),
        }
    if spec[0] == "greeting":
        if not right:
            return {"en": Saying("The table is red.", "table"), "zh": Saying("桌子是红的。", "桌子")}
        return {
            "en": Saying("Hello, it is good to hear from you.", "hello"),
            "zh": Saying("你好，很高兴见到你。", "你好"),
        }
    # The wrong rewriting is the right one of another sentence.
    if not right:
        name, task, verb, thing = spec
        spec = [name, task, verb, (thing + 1) % len(THINGS)]
    _, text = _rewritten(spec, language)
    return {language: Saying(f"改写后是：{text}。" if language == "zh" else f"Here it is: {text}.", text)}


def _fact_sayings(spec: list, rng: Random, right: bool) -> dict[str, Saying]:
    _, relation, index = spec
    fact = FACTS[relation]
    row = fact.rows[index]
    answers = row
    # Several rows can have the same answer, so another row's is not wrong by itself.
    if not right:
        answers = rng.choice([other for other in fact.rows if other[2] != row[2]])

    result = {}
    for i, language in enumerate(("en", "zh")):
        entity = row[i]
        answer = answers[2 + i]
        result[language] = Saying(fact.say[language].replace("{e}", entity).replace("{a}", answer), answer)
    return result


def holds(spec: list, response: str, answer: str | None) -> bool:
    """Whether a reply has the right content: of a greeting a greeting, of all else the answer.

    A fact is right in either language.
    """
    text = response.lower()
    if spec[0] == "greeting":
        return any(word in text for word in ("hello", "hi ", "hi,", "hi!", "你好", "您好", "good to hear"))
    if spec[0] == "fact":
        row = FACTS[spec[1]].rows[spec[2]]
        return contains(text, row[2]) or contains(text, row[3])
    return contains(text, answer or "")


def contains(text: str, answer: str) -> bool:
    """Whether `text`, in lower case, holds `answer` as whole words. Chinese has no word borders."""
    answer = answer.lower()
    at = text.find(answer)
    while at >= 0:
        end = at + len(answer)
        inside_a_word = _is_letter(text[at - 1 : at]) or _is_letter(text[end : end + 1])
        if not answer.isascii() or not inside_a_word:
            return True
        at = text.find(answer, at + 1)
    return False


def _is_letter(character: str) -> bool:
    """Of an English word or a number; False of the empty string at a text's end."""
    return character.isascii() and character.isalnum()
