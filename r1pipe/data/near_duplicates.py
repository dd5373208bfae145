"""Near-duplicates: texts whose sets of word 5-grams overlap by at least a threshold (Jaccard), found by MinHash-LSH and checked exactly.

The signatures are rensa's R-MinHash. Rows that agree in all hashes of one band are candidates; a candidate is removed only if its exact Jaccard
index to an earlier row that is kept reaches the threshold, so nothing is removed by the estimate. Missed are pairs that agree in no band: by
construction at most one in ten at the threshold itself, fewer above it (0.1 % at 0.85 with the default threshold of 0.75).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # a Rust module without stubs

from r1pipe.text.ngrams import hash_texts, ngrams, words

NGRAM = (
    5  # words (characters of Chinese); our choice, as is all of this: the paper does not say how it removes duplicates
)
HASHES = 128  # of a signature
RECALL = 0.9  # share of the pairs at the threshold that become candidates, at least
_FULL = 64  # kept rows that a bucket holds, and candidates of one row that are checked: bounds the cost of a row in crowded buckets
_SEED = 1


def band_rows(threshold: float) -> int:
    """Hashes a band: the most with which RECALL holds; HASHES // that is the number of bands.

    >>> band_rows(0.75)
    7
    """
    return max(
        rows for rows in range(1, HASHES + 1) if rows == 1 or 1 - (1 - threshold**rows) ** (HASHES // rows) >= RECALL
    )


def shingle_words(text: str) -> list[str]:
    """The words of a text, filled up to NGRAM so that a short text has one 5-gram too; one without any word is its own."""
    found = words(text) or [text]
    return found + [""] * (NGRAM - len(found))


def bands(hashes_T: np.ndarray, offsets: np.ndarray, threshold: float) -> np.ndarray:
    """Words of R texts (ngrams.hash_texts, at least NGRAM each) -> the band keys (R, bands) uint64."""
    grams, starts = ngrams(hashes_T, offsets, NGRAM)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, starts.astype(np.uint64), num_perm=HASHES, seed=_SEED)
    rows = band_rows(threshold)
    signatures = np.array(matrix.to_rows(), np.uint64).reshape(len(offsets) - 1, HASHES)[:, : HASHES // rows * rows]
    keys, _ = ngrams(signatures.ravel(), np.arange(0, signatures.size + 1, rows), rows)
    return keys.reshape(len(signatures), -1)


def near_duplicates(
    keys: np.ndarray,
    candidates: np.ndarray,
    text: Callable[[int], str],
    threshold: float,
    tell: Callable[[int, int], None],
) -> dict[int, tuple[int, float]]:
    """The rows to remove. Of two near-duplicates the first in row order stays.

    Args:
        keys: band keys (R, bands) uint64.
        candidates: (R,) bool; the other rows are passed over.
        text: row number -> text.
        tell: called with (rows done, rows in all) of those that agree with another in a band.

    Returns:
        removed row -> the kept row that it duplicates, and their exact Jaccard index.
    """
    shared = np.zeros(keys.shape, bool)
    rows = np.flatnonzero(candidates)
    for band in range(keys.shape[1]):
        of_band = keys[rows, band]
        order = np.argsort(of_band, kind="stable")
        same = of_band[order[1:]] == of_band[order[:-1]]
        shared[rows[order[1:][same]], band] = shared[rows[order[:-1][same]], band] = True

    @lru_cache(maxsize=1024)
    def shingles(row: int) -> np.ndarray:
        return np.unique(ngrams(*hash_texts([text(row)], NGRAM), NGRAM)[0])

    buckets: dict[tuple[int, int], list[int]] = {}
    removed: dict[int, tuple[int, float]] = {}
    alike = np.flatnonzero(shared.any(axis=1)).tolist()
    for done, row in enumerate(alike):
        tell(done, len(alike))
        mine = [(band, int(keys[row, band])) for band in np.flatnonzero(shared[row]).tolist()]
        met = Counter(other for key in mine for other in buckets.get(key, ()))
        for other, _ in met.most_common(_FULL):
            if (overlap := jaccard(shingles(other), shingles(row))) >= threshold:
                removed[row] = (other, overlap)
                break
        else:
            for key in mine:
                if len(bucket := buckets.setdefault(key, [])) < _FULL:
                    bucket.append(row)
    return removed


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Size of the intersection over that of the union, of two sorted arrays without repetitions."""
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
