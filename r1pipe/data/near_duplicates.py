"""Near-duplicates: texts whose sets of word 5-grams overlap by at least a threshold (Jaccard index).

They are found by MinHash-LSH, with the signatures of rensa's R-MinHash, and checked exactly. Rows that agree in all
hashes of one band are candidates; a candidate is removed only if its exact Jaccard index to an earlier row that is kept
reaches the threshold, so the estimate alone removes nothing. Pairs that agree in no band are missed: by construction at
most one in ten at the threshold itself, and fewer above it (0.1 % at 0.85 with the default threshold of 0.75).

The paper does not say how it removes duplicates; all of this is our choice. The suffixes of array names say which axis
they have: R texts or rows, T words of all texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # a Rust module without stubs

from r1pipe.text.ngrams import hash_texts, ngrams, words

# Words of an n-gram (characters of Chinese).
NGRAM = 5

# Hashes of a signature.
HASHES = 128

# Share of the pairs at the threshold that become candidates, at least.
RECALL = 0.9

# Kept rows that a bucket holds, and candidates of one row that are checked. It limits the cost of a row in crowded
# buckets, e.g. one of many rows that begin with the same long instruction.
_FULL = 64

_SEED = 1


def band_rows(threshold: float) -> int:
    """The number of hashes of a band: the largest that still reaches RECALL; there are HASHES // band_rows bands.

    >>> band_rows(0.75)
    7
    """

    def recall(rows: int) -> float:
        bands = HASHES // rows
        return 1 - (1 - threshold**rows) ** bands

    return max(rows for rows in range(1, HASHES + 1) if rows == 1 or recall(rows) >= RECALL)


def shingle_words(text: str) -> list[str]:
    """The words of a text, filled up to NGRAM so that a short text has one 5-gram too.

    A text without any word counts as one word.
    """
    text_words = words(text) or [text]
    return text_words + [""] * (NGRAM - len(text_words))


def bands(hashes_T: np.ndarray, offsets: np.ndarray, threshold: float) -> np.ndarray:
    """The band keys (R, bands) uint64 of R texts.

    Args:
        hashes_T: the words, at least NGRAM of each text (ngrams.hash_texts).
        offsets: (R+1,) of the texts in hashes_T.
    """
    grams, gram_offsets = ngrams(hashes_T, offsets, NGRAM)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        grams,
        gram_offsets.astype(np.uint64),
        num_perm=HASHES,
        seed=_SEED,
    )
    signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(offsets) - 1, HASHES)

    # A band's key is the hash of its hashes, as if these were the words of a text.
    rows = band_rows(threshold)
    signatures = signatures[:, : HASHES // rows * rows]
    band_offsets = np.arange(0, signatures.size + 1, rows)
    keys, _ = ngrams(signatures.ravel(), band_offsets, rows)
    return keys.reshape(len(signatures), -1)


def near_duplicates(
    keys: np.ndarray,
    candidates_R: np.ndarray,
    text: Callable[[int], str],
    *,
    threshold: float,
    progress: Callable[[int, int], None],
) -> dict[int, tuple[int, float]]:
    """The rows to remove. Of two near-duplicates, the first in the order of the rows stays.

    Args:
        keys: band keys (R, bands) uint64.
        candidates_R: bool; the other rows are passed over.
        text: row number -> text.
        threshold: the smallest Jaccard index at which the later row is removed.
        progress: called with (rows done, rows in all) of those that agree with another row in a band.

    Returns:
        removed row -> the kept row that it duplicates, and their exact Jaccard index.
    """
    shared = _shared_keys(keys, np.flatnonzero(candidates_R))

    @lru_cache(maxsize=1024)
    def shingles(row: int) -> np.ndarray:
        hashes, _ = ngrams(*hash_texts([text(row)], NGRAM), NGRAM)
        return np.unique(hashes)

    # (band, key) -> the first kept rows with this key in this band
    buckets: dict[tuple[int, int], list[int]] = {}
    removed: dict[int, tuple[int, float]] = {}
    rows = np.flatnonzero(shared.any(axis=1)).tolist()
    for done, row in enumerate(rows):
        progress(done, len(rows))
        shared_bands = np.flatnonzero(shared[row]).tolist()
        row_keys = [(band, int(keys[row, band])) for band in shared_bands]

        # Rows that agree in many bands are likely the nearest, so they are compared first.
        agreeing = Counter(other for key in row_keys for other in buckets.get(key, ()))
        for other, _ in agreeing.most_common(_FULL):
            overlap = jaccard(shingles(other), shingles(row))
            if overlap >= threshold:
                removed[row] = (other, overlap)
                break
        if row in removed:
            continue

        for key in row_keys:
            bucket = buckets.setdefault(key, [])
            if len(bucket) < _FULL:
                bucket.append(row)
    return removed


def _shared_keys(keys: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether a row has the key of another one of `rows`, (R, bands) bool.

    Few rows do; all others need no comparison.
    """
    shared = np.zeros(keys.shape, bool)
    for band in range(keys.shape[1]):
        band_keys = keys[rows, band]
        order = np.argsort(band_keys, kind="stable")
        equal = band_keys[order[1:]] == band_keys[order[:-1]]
        shared[rows[order[1:][equal]], band] = True
        shared[rows[order[:-1][equal]], band] = True
    return shared


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """The size of the intersection divided by that of the union, of two sorted arrays without repetitions."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
