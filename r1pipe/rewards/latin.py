"""Which language words in Latin script belong to, by py3langid's naive Bayes over byte n-grams.

py3langid judged sentences in five languages best of what we measured (see tests/bench/language_table.py), but it is too
slow for a reward. Its evidence is a sum over n-grams, so the part of each word is kept: a sentence then costs a look-up
and an addition for each word. N-grams across words are lost by that.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

# The languages that a word may belong to, together with the target.
LANGUAGES = ("en", "es", "fr", "de", "sw", "it", "pt", "nl", "pl", "id", "vi", "tr")
# Shorter sentences are joined with their neighbours: single words say little.
MIN_WORDS = 5
# Natural logarithm of 1000: a sentence counts as another language than the expected one only if that is 1000 times as
# likely.
_MARGIN = 6.9
# Words whose evidence is kept; then the table starts again.
_MAX_WORDS = 1 << 17
_SENTENCE_END = re.compile(r"[.!?…。！？；;\n](?!\d)")
# Characters up to which a first look at all words together pays.
_SHORT = 400
# Neither part of an identifier nor the name of a function that is called. The t of don't is a single letter.
WORD = re.compile(r"(?<![A-Za-z0-9_\u00c0-\u024f])[A-Za-z\u00c0-\u024f\u1e00-\u1eff]{2,}+(?![0-9_(])")
# English words that the other languages do not have: a sentence with one in five is English, without asking the model.
_ENGLISH_WORDS = (
    "the and are were been being this that these those there their they them then than it its if our you your she his "
    "him have with from how what when where which who why each every both would could should must can does did first "
    "finally now next more fewer less add adding take away gives give get makes left many much number answer result "
    "equals times divided multiply subtract check wait know follows therefore because after before other only not let "
    "true false right back one two three four five seven eight half twice "
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday "
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split()) | frozenset(_ENGLISH_WORDS.title().split())

# The words that decide a sentence's language, and the number of words that are counted with them.
_Sentence = tuple[list[str], int]


# Names in mathematics that stand among words of another script: points (ABC), functions, units behind a number.
_FUNCTIONS = (
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lim max min gcd lcm mod"
)
_UNITS = "mm cm dm km mg kg ml cl hl ha min"
_FUNCTION_NAMES = frozenset(_FUNCTIONS.split())
_UNIT_NAMES = frozenset(_UNITS.split())
# The corners of a polygon have different letters; of more than four they follow the alphabet.
_MAX_POINTS = 4
_MAX_CORNERS = 8
_BESIDE_A_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]{2,} +$")
_BEFORE_A_WORD = re.compile(r" +[A-Za-z\u00c0-\u024f]{2,}")
_BEHIND_A_NUMBER = re.compile(r"\d\s*$")


def words_among_others(text: str) -> int:
    """The number of words in Latin script in a text of another one, without names of points and functions, and units.

    >>> words_among_others("在直角三角形ABC中，AB = 5 cm"), words_among_others("先 ADD THE TWO 再算")
    (0, 3)
    """
    return sum(not _is_a_name(text, word) for word in WORD.finditer(text))


def _is_a_name(text: str, found: re.Match[str]) -> bool:
    word = found[0]
    may_be_points = word.isupper() and len(word) <= _MAX_CORNERS and len(set(word)) == len(word)
    is_points = may_be_points and (len(word) <= _MAX_POINTS or list(word) == sorted(word))
    if not is_points and word not in _FUNCTION_NAMES and word not in _UNIT_NAMES:
        return False
    if word in _UNIT_NAMES and not is_points and word not in _FUNCTION_NAMES:
        return bool(_BEHIND_A_NUMBER.search(text, max(0, found.start() - 3), found.start()))
    # Beside another word it is a word itself: THE ONE, log of.
    before = text[max(0, found.start() - 24) : found.start()]
    return not _BESIDE_A_WORD.search(before) and not _BEFORE_A_WORD.match(text, found.end())


def words_of(text: str) -> list[str]:
    """Words of two letters or more in Latin script.

    >>> words_of("So f(x) = x2, don't add 3 kg")
    ['So', 'don', 'add', 'kg']
    """
    return WORD.findall(text)


def count(text: str, expected: str) -> dict[str, int]:
    """Words in Latin script by language.

    Args:
        text: without maths and code.
        expected: ISO 639-1 code of the language that is assumed in doubt: a sentence counts as another one of LANGUAGES
            only if that is a thousand times as likely. Fewer than five words in all count as the expected language.

    >>> count("We add the two first. Luego sumamos las dos partes, ya está.", "en")
    {'en': 5, 'es': 7}
    """
    if len(text) < _SHORT:
        words = WORD.findall(text)
        if len(words) < MIN_WORDS or (expected == "en" and _surely_english(words)):
            return {expected: len(words)} if words else {}

    counts: dict[str, int] = {}
    unclear: list[_Sentence] = []
    for words, size in _sentences(text):
        is_expected = (
            len(words) < MIN_WORDS
            or (expected == "en" and _plainly_english(words))
            # Names only, which occur in any language.
            or not any(map(str.islower, words))
        )
        if is_expected:
            counts[expected] = counts.get(expected, 0) + size
        else:
            unclear.append((words, size))
    if unclear:
        languages = _identifier(expected).judge([words for words, _ in unclear], expected)
        for (_, size), language in zip(unclear, languages, strict=True):
            counts[language] = counts.get(language, 0) + size
    return counts


def _surely_english(words: Sequence[str]) -> bool:
    """Whether every three words in a row hold an English one, so that no sentence can be of another language.

    A short cut: most short texts end here, without being split into sentences.
    """
    is_english = bytes(map(_ENGLISH.__contains__, words))
    return b"\0\0\0" not in is_english


def _plainly_english(words: Sequence[str]) -> bool:
    return sum(map(_ENGLISH.__contains__, words)) * 5 >= len(words)


def _sentences(text: str) -> list[_Sentence]:
    """The text's sentences; short ones are joined with each other or counted with a neighbour."""
    sentences: list[_Sentence] = []
    short: list[str] = []

    def add_to_last(size: int) -> None:
        last_words, last_size = sentences[-1]
        sentences[-1] = (last_words, last_size + size)

    for sentence in _SENTENCE_END.split(text):
        words = WORD.findall(sentence)
        if len(words) < MIN_WORDS:
            short = short + words
            if len(short) >= MIN_WORDS:
                sentences.append((short, len(short)))
                short = []
            continue
        before = 0
        if short and sentences:
            add_to_last(len(short))
        else:
            before = len(short)
        sentences.append((words, before + len(words)))
        short = []

    if short and sentences:
        add_to_last(len(short))
    elif short:
        sentences.append((short, len(short)))
    return sentences


def identify(text: str) -> str | None:
    """The most likely of LANGUAGES for a whole text; None without words in Latin script.

    >>> identify("Wie viele Äpfel sind es?")
    'de'
    """
    words = WORD.findall(text)
    if not words:
        return None
    if _plainly_english(words):
        return "en"
    # Words with capitals are no evidence, so a text in capitals is read in lower case.
    evidence = [word.lower() for word in words] if text.isupper() else words
    return _identifier("en").judge([evidence], "en")[0]


class Identifier:
    """Evidence of words for each of a few languages. Thread-safe.

    Args:
        languages: ISO 639-1 codes, of those that py3langid knows.

    Raises:
        ValueError: py3langid does not know one of them.
    """

    def __init__(self, languages: Sequence[str]) -> None:
        import numpy as np

        self.languages = list(languages)
        self.model = copy.copy(tables())  # shares the tables, but has its own choice of languages
        self.model.set_languages(tuple(languages))
        prior = dict(zip(self.model.nb_classes, self.model.nb_pc.tolist(), strict=True))
        self.prior = np.array([prior[language] for language in languages], dtype=np.float32)
        self.lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        import numpy as np

        self.places: dict[str, int] = {}
        # (words, languages); doubles when it is full
        self.evidence = np.zeros((256, len(self.languages)), dtype=np.float32)

    def learn(self, words: Iterable[str]) -> None:
        import numpy as np

        for word in words:
            if word in self.places:
                continue
            # With the spaces around it: n-grams reach over the ends of a word.
            scores = dict(self.model.rank(f" {word} "))
            row = np.array([scores[language] for language in self.languages], dtype=np.float32)
            place = len(self.places)
            if place == len(self.evidence):
                self.evidence = np.concatenate([self.evidence, np.zeros_like(self.evidence)])
            # Words with capitals are mostly names, which occur in any language; and the model knows no n-gram of some
            # words.
            says_nothing = not word.islower() or row.min() < -1e30
            self.evidence[place] = 0 if says_nothing else row - self.prior
            self.places[word] = place

    def judge(self, parts: Sequence[Sequence[str]], expected: str) -> list[str]:
        """The language of each list of words: the likeliest, unless `expected` is nearly as likely."""
        import numpy as np

        # Rewards may be computed in several threads, and `clear` would take the places away from under another one.
        with self.lock:
            if len(self.places) > _MAX_WORDS:
                self.clear()
            # Nearly always every word is known already.
            try:
                places = [self.places[word] for part in parts for word in part]
            except KeyError:
                self.learn(chain.from_iterable(parts))
                places = [self.places[word] for part in parts for word in part]
            evidence = self.evidence[places]
        # The sum over the words of each part, in one call.
        starts = np.cumsum([0, *map(len, parts[:-1])])
        sums = np.add.reduceat(evidence, starts, axis=0)
        sums[:, self.languages.index(expected)] += _MARGIN
        return [self.languages[i] for i in sums.argmax(axis=1).tolist()]


@lru_cache(maxsize=256)
def known(language: str) -> bool:
    """Whether words can be assigned to that language (ISO 639-1)."""
    return language in LANGUAGES or language in tables().nb_classes


@lru_cache(maxsize=64)
def _identifier(expected: str) -> Identifier:
    return Identifier(tuple(dict.fromkeys((*LANGUAGES, expected))))


@lru_cache(maxsize=1)
def tables() -> Any:
    """py3langid's model, once in each process: unpacking it costs a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
