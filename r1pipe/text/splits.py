"""The split that a problem belongs to. Its text alone decides: neither the order of a file nor a copy can move it."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping


def content_key(text: str) -> str:
    """16 hex digits that are equal for texts that differ only in case, spacing or character width."""
    normalized = unicodedata.normalize("NFKC", text)
    canonical = " ".join(normalized.split()).casefold()
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def split_of(text: str, shares: Mapping[str, float]) -> str:
    """The split of a problem: each name in `shares` gets that share of all problems, `train` the rest.

    >>> split_of("What is 2+2?", {"dev": 1.0})
    'dev'
    """
    if not shares:
        return "train"

    # The key as a number in [0, 1); the splits are intervals of it, in the order of `shares`.
    point = int(content_key(text), 16) / 16**16
    for name, share in shares.items():
        if point < share:
            return name
        point -= share
    return "train"
