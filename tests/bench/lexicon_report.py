"""How varied the world's word problems are beside GSM8K's: distinct nouns, verbs, question shapes, and 10-grams in common.

    python -m lexicon_report path/to/gsm8k_train.jsonl.gz [--count 7473]

GSM8K has no word classes marked, so both sides are counted by the same rough rules, on as many problems each:
  nouns      distinct words after 'how many' and after a number, in the singular
  verbs      distinct words with -s or -ed after a name or pronoun (she buys, Tom walked)
  questions  distinct last sentences with names, numbers and counted nouns masked
  shapes     distinct whole problems with the same masks
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path

from r1pipe.embedded.lexicon import ACTS, ACTS_ZH, GAIN, LOSS
from r1pipe.embedded.world import problems

_NOUN = re.compile(r"(?:\bhow many|\d+(?:[,.]\d+)*) (?:more |other |new |of the |of |total )?([a-z]{3,})", re.I)
_VERB = re.compile(r"\b(?:he|she|they|[A-Z][a-z]+) ([a-z]{2,}(?:s|ed))\b")
_MASK = re.compile(r"\b[A-Z][a-z]+(?:'s)?\b|\$?\d[\d,.]*%?")


def sentences(text: str) -> list[str]:
    """A problem's sentences."""
    return [part.strip() for part in re.split(r"(?<=[.?!])\s+", text) if part.strip()]


def masked(text: str) -> str:
    """Names and numbers as _, counted nouns as N."""
    text = _NOUN.sub(lambda m: m[0][: m.start(1) - m.start()] + "N", text)
    return re.sub(
        r"\s+", " ", _MASK.sub(lambda m: "_" if m[0][0] in "$0123456789" or m[0] not in _STARTS else m[0], text)
    ).strip()


_STARTS = frozenset(
    [
        "A",
        "After",
        "All",
        "An",
        "And",
        "At",
        "Before",
        "But",
        "By",
        "Count",
        "Each",
        "Every",
        "Find",
        "For",
        "From",
        "Give",
        "How",
        "If",
        "In",
        "It",
        "Later",
        "Next",
        "Now",
        "Of",
        "On",
        "Say",
        "She",
        "He",
        "So",
        "Sum",
        "Tell",
        "That",
        "The",
        "Then",
        "There",
        "They",
        "This",
        "To",
        "What",
        "When",
        "With",
    ]
)


def singular(word: str) -> str:
    """Roughly."""
    word = word.lower()
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def variety(texts: Iterable[str]) -> dict[str, int]:
    """Distinct nouns, verbs, questions and shapes of English problems."""
    nouns: set[str] = set()
    verbs: set[str] = set()
    questions: set[str] = set()
    shapes: set[str] = set()
    for text in texts:
        nouns.update(singular(word) for word in _NOUN.findall(text))
        verbs.update(_VERB.findall(text))
        questions.add(masked(sentences(text)[-1]))
        shapes.add(masked(text))
    return {"nouns": len(nouns), "verbs": len(verbs), "questions": len(questions), "shapes": len(shapes)}


def grams(texts: Iterable[str], n: int = 10) -> set[tuple[str, ...]]:
    """Word n-grams, case and punctuation aside."""
    found: set[tuple[str, ...]] = set()
    for text in texts:
        words = re.findall(r"[a-z]+|\d+", text.lower())
        found.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return found


def read_problems(path: Path) -> list[str]:
    """The `problem` column of a .jsonl.gz."""
    with gzip.open(path, "rt", encoding="utf8") as stream:
        return [json.loads(line)["problem"] for line in stream]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("--count", type=int, default=7473, help="problems of each side")
    arguments = parser.parse_args()
    theirs = read_problems(arguments.gsm8k)[: arguments.count]
    ours = [row["prompt"] for row in problems("documents", ["word-problems"], arguments.count, 0, ["en"])]
    for name, texts in (("GSM8K", theirs), ("ours", ours)):
        print(name, len(texts), variety(texts))
    nouns, nouns_zh = ({noun.singular for group in groups for noun in group.nouns} for groups in (ACTS, ACTS_ZH))
    verbs = {verb.base for group in (*GAIN.values(), *LOSS.values(), *(group.acts for group in ACTS)) for verb in group}
    print(f"word lists: {len(nouns)} nouns, {len(verbs)} verbs in English; {len(nouns_zh)} nouns in Chinese")
    print(f"10-grams in common: {len(grams(theirs) & grams(ours))}")


if __name__ == "__main__":
    main()
