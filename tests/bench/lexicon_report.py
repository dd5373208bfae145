"""How varied the embedded world's word problems are, compared with GSM8K's.

    python tests/bench/lexicon_report.py path/to/gsm8k_train.jsonl.gz [--count 7473]

GSM8K has no marks of word classes, so both sides are counted by the same rough rules, on the same number of problems:
  nouns      distinct words after 'how many' and after a number, in the singular
  verbs      distinct words with -s or -ed after a name or pronoun (she buys, Tom walked)
  questions  distinct last sentences with names, numbers and counted nouns masked
  shapes     distinct whole problems with the same masks
It also prints the number of 10-grams that both have, which should be 0.
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

_NOUN = re.compile(
    r"(?:\bhow many|\d+(?:[,.]\d+)*) (?:more |other |new |of the |of |total )?([a-z]{3,})", re.I
)
_VERB = re.compile(r"\b(?:he|she|they|[A-Z][a-z]+) ([a-z]{2,}(?:s|ed))\b")
_MASK = re.compile(r"\b[A-Z][a-z]+(?:'s)?\b|\$?\d[\d,.]*%?")

# Words that begin a sentence with a capital letter and are not names.
_STARTS = frozenset(
    re.findall(
        r"\w+",
        "A After All An And At Before But By Count Each Every Find For From Give He How If In It Later Next Now Of On "
        "Say She So Sum Tell That The Then There They This To What When With",
    )
)


def sentences(text: str) -> list[str]:
    """The sentences of a problem."""
    parts = re.split(r"(?<=[.?!])\s+", text)
    return [part.strip() for part in parts if part.strip()]


def masked(text: str) -> str:
    """The text with _ for names and numbers, and N for counted nouns."""

    def mask_noun(match: re.Match[str]) -> str:
        before_noun = match.start(1) - match.start()
        return match[0][:before_noun] + "N"

    def mask_name_or_number(match: re.Match[str]) -> str:
        word = match[0]
        is_number = word[0] in "$0123456789"
        return "_" if is_number or word not in _STARTS else word

    # Nouns first: they are found by the numbers before them.
    text = _NOUN.sub(mask_noun, text)
    text = _MASK.sub(mask_name_or_number, text)
    return re.sub(r"\s+", " ", text).strip()


def singular(word: str) -> str:
    """The singular of a noun, roughly."""
    word = word.lower()
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def variety(texts: Iterable[str]) -> dict[str, int]:
    """The number of distinct nouns, verbs, questions and shapes of English problems."""
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
    """The word n-grams, without case and punctuation."""
    all_grams: set[tuple[str, ...]] = set()
    for text in texts:
        words = re.findall(r"[a-z]+|\d+", text.lower())
        all_grams.update(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
    return all_grams


def read_problems(path: Path) -> list[str]:
    """The column `problem` of a .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf8") as stream:
        return [json.loads(line)["problem"] for line in stream]


def print_word_lists() -> None:
    """The size of the lists that the world draws its words from."""
    nouns = {noun.singular for group in ACTS for noun in group.nouns}
    nouns_zh = {noun.singular for group in ACTS_ZH for noun in group.nouns}
    verb_lists = [*GAIN.values(), *LOSS.values(), *(group.acts for group in ACTS)]
    verbs = {verb.base for verb_list in verb_lists for verb in verb_list}
    print(f"word lists: {len(nouns)} nouns, {len(verbs)} verbs in English; {len(nouns_zh)} nouns in Chinese")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("gsm8k", type=Path)
    parser.add_argument("--count", type=int, default=7473, help="problems of each side")
    arguments = parser.parse_args()

    theirs = read_problems(arguments.gsm8k)[: arguments.count]
    rows = problems("documents", ["word-problems"], arguments.count, 0, ["en"])
    ours = [row["prompt"] for row in rows]
    print("GSM8K", len(theirs), variety(theirs))
    print("ours", len(ours), variety(ours))
    print_word_lists()
    print(f"10-grams in common: {len(grams(theirs) & grams(ours))}")


if __name__ == "__main__":
    main()
