"""Texts as words and n-grams of words, hashed: what near-duplicates and contamination are found by.

A word is a run of letters, digits and underscores, in lower case and NFKC form. Chinese and Japanese are written without spaces, so each of their
characters is a word; Korean has spaces. Punctuation does not count. Many texts are done at once: their words lie behind one another in a
flat array (T,), and `offsets` (R+1,) says where each of the R texts starts and ends.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import xxhash

_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, CJK ideographs
_WORDS = re.compile(rf"[{_CHARACTER}]|[^\W{_CHARACTER}]+")
_ASCII_WORDS = re.compile(r"\w+")
_CHARACTERS = re.compile(f"[{_CHARACTER}]")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a hash is lost; else arbitrary
_PIECE = 1 << 20  # characters whose words are hashed at a time; some 50 bytes each
_BETWEEN = re.compile(r"\W")
_MIX = np.uint64(0xD6E8FEB86659FD93)
_NO_WORD = np.uint64(0x2545F4914F6CDD1D)  # stands for the words that a text is short of


def words(text: str) -> list[str]:
    """The words of a text.

    >>> words("Naïve x_1, 看了90页!")
    ['naïve', 'x_1', '看', '了', '90', '页']
    """
    return (_ASCII_WORDS if text.isascii() else _WORDS).findall(_plain(text))


def _plain(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def mostly_characters(of_text: Sequence[str]) -> bool:
    """Most of a text's words are characters of Chinese or Japanese."""
    return 2 * sum(bool(_CHARACTERS.match(word)) for word in of_text) > len(of_text)


@cache
def _kinds() -> np.ndarray:
    """What each code point is (0x110000,) uint8: 0 between words, 1 within a word, 2 a word by itself."""
    every = "".join(map(chr, range(0x110000)))
    kinds = np.zeros(len(every), np.uint8)
    for kind, pattern in ((1, r"\w+"), (2, f"[{_CHARACTER}]+")):
        for run in re.finditer(pattern, every):
            kinds[run.start() : run.end()] = kind
    return kinds


def hash_texts(texts: Sequence[str], least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The words of R texts, as `words` finds them, each as a hash that is the same in every process.

    All at once and without a string for each word, which took several times as long. A word's hash is a polynomial of its code points modulo 2^64.

    Args:
        least: a text of fewer words is filled up to so many; one without any word is then its own.

    Returns:
        hashes_T uint64 of all texts, and their offsets (R+1,) int64.
    """
    plain = list(map(_plain, texts))
    if max(map(len, plain), default=0) <= _PIECE:
        hashes_T, counts_R = _hash_plain(plain)
    else:  # a text at a time, in pieces
        parts = [[_hash_plain([piece])[0] for piece in _pieces(text)] for text in plain]
        hashes_T, counts_R = (
            np.concatenate([part for of_text in parts for part in of_text]),
            np.array([sum(map(len, of_text)) for of_text in parts]),
        )
    offsets = np.concatenate([[0], np.cumsum(counts_R)]).astype(np.int64)
    return _filled(texts, hashes_T, offsets, least) if counts_R.min(initial=least) < least else (hashes_T, offsets)


def _pieces(plain: str) -> Iterator[str]:
    """A text cut between its words, so that the arrays of a long one stay small."""
    start = 0
    while start < len(plain):
        cut = _BETWEEN.search(plain, start + _PIECE)
        end = cut.end() if cut else len(plain)
        yield plain[start:end]
        start = end


def _hash_plain(plain: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """hashes_T of all texts, and how many words each has (R,)."""
    points_C = np.frombuffer("\n".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds_C = _kinds()[points_C]
    starts_C = kinds_C == 2
    starts_C[:1] |= kinds_C[:1] == 1
    starts_C[1:] |= (kinds_C[1:] == 1) & (kinds_C[:-1] != 1)
    starts_T = np.flatnonzero(starts_C)
    first = starts_T[0] if len(starts_T) else len(points_C)
    within_C = np.arange(first, len(points_C)) - np.repeat(
        starts_T, np.diff(starts_T, append=len(points_C))
    )  # the place in its word
    within_C[kinds_C[first:] == 0] = 0
    powers = np.full(int(within_C.max(initial=0)) + 1, _BASE)
    powers[0] = 1
    terms_C = np.multiply.accumulate(powers)[within_C] * np.where(kinds_C[first:] == 0, 0, points_C[first:]).astype(
        np.uint64
    )
    hashes_T = np.add.reduceat(terms_C, starts_T - first) if len(starts_T) else np.zeros(0, np.uint64)
    hashes_T ^= hashes_T >> np.uint64(32)
    hashes_T *= _MIX
    hashes_T ^= hashes_T >> np.uint64(29)
    ends = np.cumsum([len(text) + 1 for text in plain], dtype=np.int64)
    return hashes_T, np.diff(np.searchsorted(starts_T, ends), prepend=0)


def _filled(
    texts: Sequence[str], hashes_T: np.ndarray, offsets: np.ndarray, least: int
) -> tuple[np.ndarray, np.ndarray]:
    parts = []
    for number, text in enumerate(texts):
        found = hashes_T[offsets[number] : offsets[number + 1]]
        if not len(found):
            found = np.array([xxhash.xxh3_64_intdigest(text.encode("utf8", "surrogatepass"))], np.uint64)
        parts.append(np.pad(found, (0, max(0, least - len(found))), constant_values=_NO_WORD))
    return np.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])])


def ngrams(hashes_T: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every n words in a row, never across two texts; a text of fewer words has none.

    Returns:
        hashes_G uint64 of all texts, and their offsets (R+1,).
    """
    counts = np.maximum(np.diff(offsets) - n + 1, 0)
    of_text = np.zeros(len(offsets), np.int64)
    np.cumsum(counts, out=of_text[1:])
    windows = max(len(hashes_T) - n + 1, 0)
    rolled = np.zeros(windows, np.uint64)
    for k in range(n):
        rolled = rolled * _BASE + hashes_T[k : k + windows]
    rolled = rolled[np.arange(of_text[-1]) + np.repeat(offsets[:-1] - of_text[:-1], counts)]
    return rolled ^ (rolled >> np.uint64(32)), of_text
