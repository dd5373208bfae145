"""Which language words in Latin script are in: py3langid's naive Bayes over byte n-grams, summed word by word, sentence by sentence.

py3langid judged sentences in five languages best of what we measured (see tests/bench/language_table.py), and too slowly for a
reward. Its evidence is a sum over n-grams, so a word's part of it is kept, and a sentence costs a look-up and an addition a word.
N-grams across words are lost by that.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

LANGUAGES = (
    "en",
    "es",
    "fr",
    "de",
    "sw",
    "it",
    "pt",
    "nl",
    "pl",
    "id",
    "vi",
    "tr",
)  # what a word may be in, together with the target
MIN_WORDS = 5  # shorter sentences are joined with their neighbours: single words tell little
_MARGIN = 6.9  # natural logarithm of a thousand to one: what it takes against the language that is expected
_MAX_WORDS = 1 << 17
_SENTENCE = re.compile(r"[.!?…。！？；;\n](?!\d)")
_SHORT = 400  # characters up to which a first look at all words together pays
# Neither part of an identifier nor the name of a function that is called; the t of don't is a single letter.
WORD = re.compile(r"(?<![A-Za-z0-9_\u00c0-\u024f])[A-Za-z\u00c0-\u024f\u1e00-\u1eff]{2,}+(?![0-9_(])")
# English words that the other languages do not have: a sentence with one in five is English, without a look at any model.
_ENGLISH_WORDS = (
    "the and are were been being this that these those there their they them then than it its if our you your she his him have with from how what when "
    "where which who why each every both would could should must can does did first finally now next more fewer less add adding take away gives give "
    "get makes left many much number answer result equals times divided multiply subtract check wait know follows therefore because after before other "
    "only not let true false right back one two three four five seven eight half twice Monday Tuesday Wednesday Thursday Friday Saturday Sunday "
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split()) | frozenset(_ENGLISH_WORDS.title().split())


def words_of(text: str) -> list[str]:
    """Words of two letters or more in Latin script.

    >>> words_of("So f(x) = x2, don't add 3 kg")
    ['So', 'don', 'add', 'kg']
    """
    return WORD.findall(text)


def count(text: str, expected: str) -> dict[str, int]:
    """Words in Latin script by language.

    Args:
        text: without what is no language (maths, code).
        expected: ISO 639-1 code of the language that doubt speaks for: a sentence counts as another one of LANGUAGES only if it is a
            thousand times as likely to be that. Fewer than five words in all are taken for it.

    >>> count("We add the two first. Luego sumamos las dos partes, ya está.", "en")
    {'en': 5, 'es': 7}
    """
    if len(text) < _SHORT:
        words = WORD.findall(text)
        # A sentence that is not plainly English has three words in a row that are none of these: most short texts are through here.
        if len(words) < MIN_WORDS or (expected == "en" and b"\0\0\0" not in bytes(map(_ENGLISH.__contains__, words))):
            return {expected: len(words)} if words else {}
    counts: dict[str, int] = {}
    rest: list[tuple[list[str], int]] = []
    for part, size in _sentences(text):
        if len(part) < MIN_WORDS or (expected == "en" and _plainly_english(part)) or not any(map(str.islower, part)):
            counts[expected] = counts.get(expected, 0) + size
        else:
            rest.append((part, size))
    if rest:
        for (_, size), language in zip(
            rest, _identifier(expected).judge([part for part, _ in rest], expected), strict=True
        ):
            counts[language] = counts.get(language, 0) + size
    return counts


def _plainly_english(words: Sequence[str]) -> bool:
    return sum(map(_ENGLISH.__contains__, words)) * 5 >= len(words)


def _sentences(text: str) -> list[tuple[list[str], int]]:
    """The words that tell a sentence's language, and how many words go with them: those of its short neighbours as well."""
    parts: list[tuple[list[str], int]] = []
    short: list[str] = []
    for sentence in _SENTENCE.split(text):
        words = WORD.findall(sentence)
        if len(words) < MIN_WORDS:
            short = short + words
            if len(short) >= MIN_WORDS:
                parts.append((short, len(short)))
                short = []
            continue
        before = 0
        if short and parts:
            parts[-1] = (parts[-1][0], parts[-1][1] + len(short))
        else:
            before = len(short)
        parts.append((words, before + len(words)))
        short = []
    if short and parts:
        parts[-1] = (parts[-1][0], parts[-1][1] + len(short))
    return parts or [(short, len(short))] * bool(short)


def identify(text: str) -> str | None:
    """The most likely of LANGUAGES for a whole text; None without words in Latin script.

    >>> identify("Wie viele Äpfel sind es?")
    'de'
    """
    words = WORD.findall(text)
    if not words or _plainly_english(words):
        return "en" if words else None
    return _identifier("en").judge([[word.lower() for word in words] if text.isupper() else words], "en")[0]


class Identifier:
    """Evidence of words for each of a few languages.

    Args:
        languages: ISO 639-1 codes, of those that py3langid knows.

    Raises:
        ValueError: py3langid does not know one of them.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        import numpy as np

        self.languages = list(languages)
        self.model = _model(tuple(languages))
        prior = dict(zip(self.model.nb_classes, self.model.nb_pc.tolist(), strict=True))
        self.prior = np.array([prior[language] for language in languages], dtype=np.float32)
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        import numpy as np

        self.places: dict[str, int] = {}
        self.evidence = np.zeros((256, len(self.languages)), dtype=np.float32)

    def learn(self, words: Iterable[str]) -> None:
        import numpy as np

        for word in words:
            if word in self.places:
                continue
            scores = dict(self.model.rank(f" {word} "))
            row = np.array([scores[language] for language in self.languages], dtype=np.float32)
            place = len(self.places)
            if place == len(self.evidence):
                self.evidence = np.concatenate([self.evidence, np.zeros_like(self.evidence)])
            # Capitals are mostly names, which are of any language; and there are words without an n-gram that the model knows.
            self.evidence[place] = 0 if not word.islower() or row.min() < -1e30 else row - self.prior
            self.places[word] = place

    def judge(self, parts: Sequence[Sequence[str]], expected: str | None) -> list[str]:
        """The language of each list of words: the likeliest, if `expected` is not nearly as likely."""
        import numpy as np

        with self.lock:
            if len(self.places) > _MAX_WORDS:
                self.clear()
            try:
                places = [self.places[word] for part in parts for word in part]
            except KeyError:
                self.learn(chain.from_iterable(parts))
                places = [self.places[word] for part in parts for word in part]
            evidence = self.evidence[places]
        starts = np.cumsum([0, *map(len, parts[:-1])])
        sums = np.add.reduceat(evidence, starts, axis=0)
        if expected is not None:
            sums[:, self.languages.index(expected)] += _MARGIN
        return [self.languages[i] for i in sums.argmax(axis=1).tolist()]


@lru_cache(maxsize=256)
def known(language: str) -> bool:
    """Whether words can be told to be of that language (ISO 639-1)."""
    return language in LANGUAGES or language in tables().nb_classes


@lru_cache(maxsize=64)
def _identifier(expected: str) -> Identifier:
    return Identifier(tuple(dict.fromkeys((*LANGUAGES, expected))))


@lru_cache(maxsize=1)
def tables() -> Any:
    """py3langid's model, once a process: unpacking it costs a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _model(languages: tuple[str, ...]) -> Any:
    import copy

    model = copy.copy(tables())  # shares the tables, has its own choice of languages
    model.set_languages(languages)
    return model
