"""The language reward on MGSM's eleven languages: texts in one language, and mixtures of two.

    python tests/bench/language_table.py

Prints the mean share that each language's texts (rows) have of each target (columns), and how far the share of a
mixture is from the true one: sentences of five words or more for any pair, single words for pairs in different scripts.
A mixture has 10 sentences or 40 words.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import statistics
from pathlib import Path

from r1pipe.rewards import latin
from r1pipe.rewards.language import _SCRIPT_OF_LANGUAGE, _WORDS, share, thinking_words, words_only

DATA = Path(__file__).parents[3] / "shared" / "data" / "mgsm.jsonl.gz"
LANGUAGES = ("en", "es", "fr", "de", "sw", "ru", "th", "bn", "te", "zh", "ja")
# Both use Han characters: reported apart.
ALIKE = {("zh", "ja"), ("ja", "zh")}


def problems() -> dict[str, list[str]]:
    """MGSM's problems by language."""
    texts: dict[str, list[str]] = {language: [] for language in LANGUAGES}
    with gzip.open(DATA, "rt", encoding="utf8") as stream:
        for line in stream:
            row = json.loads(line)
            texts[row["lang"]].append(row["problem"])
    return texts


def matrix(texts: dict[str, list[str]]) -> dict[tuple[str, str], float]:
    """(language of the texts, target) -> mean share."""
    return {
        (own, target): statistics.mean(share(text, target) or 0.0 for text in texts[own])
        for own in LANGUAGES
        for target in LANGUAGES
    }


def words(text: str) -> int:
    return thinking_words([f"<think>{text}</think>"])[0]


def single_words(text: str, language: str) -> list[str]:
    pattern = _WORDS[_SCRIPT_OF_LANGUAGE[language]] if language in _SCRIPT_OF_LANGUAGE else latin.WORD
    return pattern.findall(words_only(text))


def mixtures(texts: dict[str, list[str]], by: str, count: int) -> dict[tuple[str, str], list[float]]:
    """(target, other) -> errors of the target's share, `count` mixtures a pair, mixed by "sentences" or "words"."""
    draw = random.Random(0)
    if by == "sentences":
        parts = {
            own: [
                part
                for text in texts[own]
                for part in re.split(r"(?<=[.!?。？！।])\s*", text)
                if words(part) >= 5
            ]
            for own in LANGUAGES
        }
    else:
        parts = {own: [word for text in texts[own] for word in single_words(text, own)] for own in LANGUAGES}
    errors: dict[tuple[str, str], list[float]] = {}
    for target in LANGUAGES:
        for other in LANGUAGES:
            same_script = target not in _SCRIPT_OF_LANGUAGE and other not in _SCRIPT_OF_LANGUAGE
            if target == other or (by == "words" and (same_script or (target, other) in ALIKE)):
                continue
            for _ in range(count):
                size = 10 if by == "sentences" else 40
                ours = draw.randint(1, size - 1)
                chosen = [(target, draw.choice(parts[target])) for _ in range(ours)] + [
                    (other, draw.choice(parts[other])) for _ in range(size - ours)
                ]
                draw.shuffle(chosen)
                total = sum(words(part) for _, part in chosen)
                true = sum(words(part) for own, part in chosen if own == target) / total
                computed = share(" ".join(part for _, part in chosen), target) or 0.0
                errors.setdefault((target, other), []).append(abs(computed - true))
    return errors


def main() -> None:
    texts = problems()
    print("| of \\ target | " + " | ".join(LANGUAGES) + " |\n|" + " --- |" * (len(LANGUAGES) + 1))
    shares = matrix(texts)
    for own in LANGUAGES:
        print(f"| {own} | " + " | ".join(f"{shares[own, target]:.3f}" for target in LANGUAGES) + " |")
    print("\n| mixed by | pairs | mixtures | mean error | 95 % | worst | above 0.1 |\n|" + " --- |" * 7)
    for by in ("sentences", "words"):
        errors_of_pair = mixtures(texts, by, 40)
        groups = {
            by: [pair for pair in errors_of_pair if pair not in ALIKE],
            f"{by}, zh and ja": [pair for pair in errors_of_pair if pair in ALIKE],
        }
        groups[f"{by}, both Latin"] = [
            pair for pair in groups[by] if not set(pair) & set(_SCRIPT_OF_LANGUAGE)
        ]
        for name, pairs in groups.items():
            errors = sorted(error for pair in pairs for error in errors_of_pair[pair])
            if not errors:
                continue
            percentile = errors[int(0.95 * len(errors))]
            above = sum(error > 0.1 for error in errors)
            figures = f"{statistics.mean(errors):.4f} | {percentile:.4f} | {errors[-1]:.4f} | {above}"
            print(f"| {name} | {len(pairs)} | {len(errors)} | {figures} |")


if __name__ == "__main__":
    main()
