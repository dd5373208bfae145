"""Texts as words and n-grams of words, hashed: what near-duplicates and contamination are found by.

A word is a run of letters, digits and underscores, in lower case and NFKC form. Chinese and Japanese are written without spaces, so each of their
characters is a word; Korean has spaces. Punctuation does not count. Many texts are done at once: their words lie behind one another in a
flat array (T,), and `offsets` (R+1,) says where each of the R texts starts and ends.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain

import numpy as np
import xxhash

_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana, CJK ideographs
_WORDS = re.compile(rf"[{_CHARACTER}]|[^\W{_CHARACTER}]+")
_ASCII_WORDS = re.compile(r"\w+")
_CHARACTERS = re.compile(f"[{_CHARACTER}]")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a hash is lost; else arbitrary
_KNOWN_WORDS = 1 << 20  # hashes that are remembered, about 150 MB at most


def words(text: str) -> list[str]:
    """The words of a text.

    >>> words("Naïve x_1, 看了90页!")
    ['naïve', 'x_1', '看', '了', '90', '页']
    """
    if text.isascii():
        return _ASCII_WORDS.findall(text.lower())
    return _WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def mostly_characters(of_text: Sequence[str]) -> bool:
    """Most of a text's words are characters of Chinese or Japanese."""
    return 2 * sum(bool(_CHARACTERS.match(word)) for word in of_text) > len(of_text)


class _Hashes(dict[str, int]):
    """word -> 64-bit hash, the same in every process."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KNOWN_WORDS:
            self.clear()
        self[word] = value = xxhash.xxh3_64_intdigest(word.encode("utf8", "surrogatepass"))
        return value


_hashes = _Hashes()


def hash_words(texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """Texts as lists of words -> hashes_T uint64, offsets (R+1,) int64."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.fromiter(map(_hashes.__getitem__, chain.from_iterable(texts)), np.uint64, offsets[-1]), offsets


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
