"""Contamination: training rows that share an n-gram with a question or a reference solution of a benchmark.

The paper removes any row with a matching 10-gram (v2 D.1) and does not say of what its 10-grams are made. Here they are
words (r1pipe/text/ngrams.py). For a benchmark text that is mostly Chinese or Japanese they are more characters, since a
word of these languages is one to two characters.

The comparison is exact except for collisions of 64-bit hashes. Not covered: a text of fewer than n words matches
nothing, and paraphrases are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r1pipe.artifacts import Prompts
from r1pipe.data.files import Row
from r1pipe.data.io import column_names
from r1pipe.data.mixture import Decontaminate
from r1pipe.data.selection import raw_rows, selected
from r1pipe.data.shapes import SHAPES
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError
from r1pipe.text.ngrams import hash_texts, mostly_characters, ngrams, words

# Columns that hold a question or a reference solution.
TEXTS = ("prompt", "solution", "answer", "response")

# The low bits of a hash, by which most n-grams are passed over without a search.
_LOW_BITS = np.uint64((1 << 22) - 1)


@dataclass(frozen=True)
class Grams:
    """The n-grams of benchmark texts. The axis G is that of the different n-grams."""

    n: int

    hashes_G: np.ndarray
    """uint64, sorted"""

    owners_G: np.ndarray
    """int64, the number of the benchmark row that has the n-gram; the first, if several have it"""

    known_low_bits: np.ndarray
    """bool, which values of _LOW_BITS occur in hashes_G"""

    @classmethod
    def of(cls, texts: Sequence[str], owners: Sequence[int], n: int) -> Grams:
        """The n-grams of texts; `owners` has the benchmark row of each text."""
        hashes, offsets = ngrams(*hash_texts(texts), n)
        owner_of_gram = np.repeat(np.asarray(owners, np.int64), np.diff(offsets))
        hashes_G, first = np.unique(hashes, return_index=True)
        known_low_bits = np.zeros(int(_LOW_BITS) + 1, bool)
        known_low_bits[hashes_G & _LOW_BITS] = True
        return cls(n, hashes_G, owner_of_gram[first], known_low_bits)

    def find(self, hashes_T: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the texts that share an n-gram with a benchmark.

        Args:
            hashes_T: the words of all texts (ngrams.hash_texts).
            offsets: (R+1,) of the texts in hashes_T.

        Returns:
            three arrays of the same length: the texts, the benchmark row of each text's first shared n-gram, and the
            number of the word where this begins.
        """
        grams, starts = ngrams(hashes_T, offsets, self.n)
        places = np.flatnonzero(self.known_low_bits[grams & _LOW_BITS])
        candidates = grams[places]
        nearest = np.minimum(np.searchsorted(self.hashes_G, candidates), len(self.hashes_G) - 1)
        equal = self.hashes_G[nearest] == candidates
        places = places[equal]
        nearest = nearest[equal]

        # Only the first shared n-gram of each text is reported.
        text_of_place = np.searchsorted(starts, places, side="right") - 1
        texts, first = np.unique(text_of_place, return_index=True)
        return texts, self.owners_G[nearest[first]], places[first] - starts[texts]


@dataclass(frozen=True)
class Benchmarks:
    """The benchmark texts with which training rows must not share an n-gram."""

    rows: list[str]
    """The benchmark rows' ids, as "file: id"."""

    grams: list[Grams]
    """One set for words, one for characters; a set that would be empty is left out."""

    too_short: int
    """The number of benchmark rows without any n-gram, which match nothing."""

    @classmethod
    def load(cls, config: Decontaminate, seed: int) -> Benchmarks:
        """Read all questions and reference solutions; `seed` draws those of a world.

        Raises:
            InputError: a file cannot be read, a row has no question, or no text has an n-gram.
        """
        rows: list[str] = []
        texts: dict[int, list[str]] = {config.ngram: [], config.ngram_characters: []}
        owners: dict[int, list[int]] = {n: [] for n in texts}
        too_short = 0
        for source in config.sources:
            for name, row_texts in _read(source, seed):
                matchable = False
                # Each text is in one of the two sets; training rows are looked up in both.
                for text in row_texts:
                    text_words = words(text)
                    n = config.ngram_characters if mostly_characters(text_words) else config.ngram
                    texts[n].append(text)
                    owners[n].append(len(rows))
                    matchable |= len(text_words) >= n
                too_short += not matchable
                rows.append(name)

        grams = [Grams.of(texts[n], owners[n], n) for n in texts]
        grams = [grams_of_n for grams_of_n in grams if len(grams_of_n.hashes_G)]
        if not grams:
            raise InputError(
                f"no benchmark text has {config.ngram} words",
                f"{len(rows)} rows",
                "give other files to `against`, or a smaller `ngram`",
            )
        return cls(rows, grams, too_short)

    def find(self, hashes_T: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The benchmark row with which each of R texts shares an n-gram.

        Args:
            hashes_T: the words of all texts (ngrams.hash_texts).
            offsets: (R+1,) of the texts in hashes_T.

        Returns:
            owner_R, the benchmark row or -1; start_R, the number of the word where the shared n-gram begins; and n_R,
            the words of the n-gram.
        """
        owner_R = np.full(len(offsets) - 1, -1, np.int64)
        start_R = np.zeros_like(owner_R)
        n_R = np.zeros_like(owner_R)
        for grams in self.grams:
            texts, owners, starts = grams.find(hashes_T, offsets)
            # What the set of words has found is not reported again for characters.
            new = owner_R[texts] < 0
            owner_R[texts[new]] = owners[new]
            start_R[texts[new]] = starts[new]
            n_R[texts[new]] = grams.n
        return owner_R, start_R, n_R


def _read(source: Source, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Each row's name and its texts.

    Answers are not parsed: a benchmark is compared whole, even if some of its gold answers cannot be read.
    """
    if source.generated:
        for row in load(source, Prompts, seed).rows:
            yield f"{source.name}: {row['id']}", [row[column] for column in TEXTS if row.get(column)]
        return

    for where, raw in raw_rows(source):
        if not selected(raw, source):
            continue
        for row in SHAPES[source.shape](raw, source, where):
            file = Path(where.rpartition(":")[0]).name if source.path else source.name
            yield f"{file}: {row.get('id', where)}", _texts(row, where)


def _texts(row: Row, where: str) -> list[str]:
    """The row's questions and solutions; an answer that is a number has no n-gram."""
    if "messages" not in row and not isinstance(row.get("prompt"), str):
        raise InputError(
            "no column 'prompt' with a text",
            where,
            f"the row has {column_names(row)}; `columns: {{prompt: THEIRS, solution: THEIRS}}` renames",
        )
    # A benchmark of conversations has its questions and replies in the messages.
    messages = [message["content"] for message in row.get("messages", ())]
    return messages + [row[column] for column in TEXTS if isinstance(row.get(column), str)]
