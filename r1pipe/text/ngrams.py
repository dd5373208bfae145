"""Texts as words and n-grams of words, hashed. Near-duplicates and contamination are found by these hashes.

A word is a run of letters, digits and underscores, in lower case and NFKC form. Chinese and Japanese are written
without spaces, so each of their characters is a word; Korean has spaces. Punctuation does not count.

Many texts are processed at once. The suffixes of array names say which axis they have:
    R  texts; `offsets` (R+1,) says where each of them starts and ends in an array of all texts
    C  characters of all texts, laid end to end
    T  words of all texts, laid end to end
    G  n-grams of all texts, laid end to end
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import xxhash

# Kana and CJK ideographs.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORDS = re.compile(rf"[{_CHARACTER}]|[^\W{_CHARACTER}]+")
_ASCII_WORDS = re.compile(r"\w+")
_CHARACTERS = re.compile(f"[{_CHARACTER}]")
_BETWEEN = re.compile(r"\W")

# What _kinds says of a code point.
_SEPARATOR, _PART_OF_WORD, _WORD_BY_ITSELF = 0, 1, 2

# The base of the polynomial hashes is odd, so that multiplication loses no bit.
# Otherwise these constants are arbitrary.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)

# Stands for the words that a short text lacks.
_NO_WORD = np.uint64(0x2545F4914F6CDD1D)

# Characters whose words are hashed at a time; each needs some 50 bytes of memory.
_PIECE = 1 << 20


def words(text: str) -> list[str]:
    """The words of a text.

    >>> words("Naïve x_1, 看了90页!")
    ['naïve', 'x_1', '看', '了', '90', '页']
    """
    pattern = _ASCII_WORDS if text.isascii() else _WORDS
    return pattern.findall(_normalized(text))


def _normalized(text: str) -> str:
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()


def mostly_characters(text_words: Sequence[str]) -> bool:
    """Whether most of a text's words are characters of Chinese or Japanese."""
    characters = sum(bool(_CHARACTERS.match(word)) for word in text_words)
    return 2 * characters > len(text_words)


@cache
def _kinds() -> np.ndarray:
    """The kind of each code point, (0x110000,) uint8: _SEPARATOR, _PART_OF_WORD or _WORD_BY_ITSELF."""
    code_points = "".join(map(chr, range(0x110000)))
    kinds = np.full(len(code_points), _SEPARATOR, np.uint8)
    for kind, pattern in ((_PART_OF_WORD, r"\w+"), (_WORD_BY_ITSELF, f"[{_CHARACTER}]+")):
        for run in re.finditer(pattern, code_points):
            kinds[run.start() : run.end()] = kind
    return kinds


def hash_texts(texts: Sequence[str], least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The words of R texts, as `words` returns them, each as a hash that is the same in every process.

    All texts are hashed at once and no string is made for a word; making the strings took several times as long.
    A word's hash is a polynomial of its code points modulo 2^64.

    Args:
        least: a text of fewer words is filled up to this number; a text without any word then counts as one word.

    Returns:
        hashes_T uint64 of all texts, and their offsets (R+1,) int64.
    """
    normalized = list(map(_normalized, texts))
    if max(map(len, normalized), default=0) <= _PIECE:
        hashes_T, counts_R = _hash_normalized(normalized)
    else:
        hashes_T, counts_R = _hash_in_pieces(normalized)

    offsets = np.concatenate([[0], np.cumsum(counts_R)]).astype(np.int64)
    if counts_R.min(initial=least) < least:
        return _filled(texts, hashes_T, offsets, least)
    return hashes_T, offsets


def _hash_in_pieces(normalized: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """As _hash_normalized, one text at a time and that in pieces, so that the arrays of a long text stay small."""
    hashes: list[np.ndarray] = []
    counts: list[int] = []
    for text in normalized:
        pieces = [_hash_normalized([piece])[0] for piece in _pieces(text)]
        hashes += pieces
        counts.append(sum(map(len, pieces)))
    return np.concatenate(hashes), np.array(counts)


def _pieces(normalized: str) -> Iterator[str]:
    """A text in pieces of about _PIECE characters, cut between its words."""
    start = 0
    while start < len(normalized):
        cut = _BETWEEN.search(normalized, start + _PIECE)
        end = cut.end() if cut else len(normalized)
        yield normalized[start:end]
        start = end


def _hash_normalized(normalized: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """hashes_T of all texts, and the number of words of each text (R,)."""
    # Line feeds separate the texts, so that no word crosses from one text into the next.
    points_C = np.frombuffer("\n".join(normalized).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds_C = _kinds()[points_C]
    within_word_C = kinds_C == _PART_OF_WORD

    starts_C = kinds_C == _WORD_BY_ITSELF
    starts_C[:1] |= within_word_C[:1]
    starts_C[1:] |= within_word_C[1:] & ~within_word_C[:-1]
    starts_T = np.flatnonzero(starts_C)

    # From here on, C counts from the first word. `place_C` is a character's place in its word.
    first = starts_T[0] if len(starts_T) else len(points_C)
    lengths_T = np.diff(starts_T, append=len(points_C))
    separator_C = kinds_C[first:] == _SEPARATOR
    place_C = np.arange(first, len(points_C)) - np.repeat(starts_T, lengths_T)
    place_C[separator_C] = 0

    powers = np.full(int(place_C.max(initial=0)) + 1, _BASE)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    # Separators behind a word belong to its segment in the sum below, and must add nothing.
    values_C = np.where(separator_C, 0, points_C[first:]).astype(np.uint64)
    terms_C = powers[place_C] * values_C
    hashes_T = np.add.reduceat(terms_C, starts_T - first) if len(starts_T) else np.zeros(0, np.uint64)

    hashes_T ^= hashes_T >> np.uint64(32)
    hashes_T *= _MIX
    hashes_T ^= hashes_T >> np.uint64(29)

    ends_R = np.cumsum([len(text) + 1 for text in normalized], dtype=np.int64)
    counts_R = np.diff(np.searchsorted(starts_T, ends_R), prepend=0)
    return hashes_T, counts_R


def _filled(
    texts: Sequence[str],
    hashes_T: np.ndarray,
    offsets: np.ndarray,
    least: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Every text filled up to `least` words."""
    filled: list[np.ndarray] = []
    for number, text in enumerate(texts):
        hashes = hashes_T[offsets[number] : offsets[number + 1]]
        if not len(hashes):
            # Texts of signs alone are still equal or different: the whole text counts as one word.
            whole_text = xxhash.xxh3_64_intdigest(text.encode("utf8", "surrogatepass"))
            hashes = np.array([whole_text], np.uint64)
        missing = max(0, least - len(hashes))
        filled.append(np.pad(hashes, (0, missing), constant_values=_NO_WORD))

    lengths = [len(hashes) for hashes in filled]
    return np.concatenate(filled), np.concatenate([[0], np.cumsum(lengths)])


def ngrams(hashes_T: np.ndarray, offsets: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The hash of every n words in a row, never across two texts; a text of fewer words has none.

    Returns:
        hashes_G uint64 of all texts, and their offsets (R+1,).
    """
    counts_R = np.maximum(np.diff(offsets) - n + 1, 0)
    gram_offsets = np.zeros(len(offsets), np.int64)
    np.cumsum(counts_R, out=gram_offsets[1:])

    # Hash every window of n words first, also those that cross from one text into the next ...
    windows = max(len(hashes_T) - n + 1, 0)
    hashes_W = np.zeros(windows, np.uint64)
    for k in range(n):
        hashes_W = hashes_W * _BASE + hashes_T[k : k + windows]

    # ... then take those that lie within one text.
    shift_G = np.repeat(offsets[:-1] - gram_offsets[:-1], counts_R)
    hashes_G = hashes_W[np.arange(gram_offsets[-1]) + shift_G]
    return hashes_G ^ (hashes_G >> np.uint64(32)), gram_offsets
