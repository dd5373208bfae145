"""Contamination: training rows that share an n-gram with a question or a reference solution of a benchmark (v2 D.1: any matching 10-gram).

The paper does not say of what its 10-grams are made. Here they are words (r1pipe/text/ngrams.py); for a benchmark text that is mostly Chinese or
Japanese, more characters, since one of its words is one to two of them. Exact up to 64-bit hashes. A text shorter than n words matches nothing,
and paraphrases are not found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from r1pipe.artifacts import Prompts
from r1pipe.data.mixture import Decontaminate
from r1pipe.data.selection import raw_rows, selected
from r1pipe.data.sources import Source, load
from r1pipe.errors import InputError
from r1pipe.text.ngrams import hash_texts, mostly_characters, ngrams, words

TEXTS = ("prompt", "solution", "answer", "response")  # columns that hold a question or a reference solution
_FILTER = np.uint64((1 << 22) - 1)


@dataclass(frozen=True)
class Grams:
    """The n-grams of benchmark texts: hashes_G uint64, sorted; whose each is; and which low bits occur, to pass over most others quickly."""

    n: int
    hashes_G: np.ndarray
    owners_G: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str], owners: Sequence[int], n: int) -> Grams:
        hashes, offsets = ngrams(*hash_texts(texts), n)
        unique, first = np.unique(hashes, return_index=True)
        seen = np.zeros(int(_FILTER) + 1, bool)
        seen[unique & _FILTER] = True
        return cls(n, unique, np.repeat(np.asarray(owners, np.int64), np.diff(offsets))[first], seen)

    def find(self, hashes_T: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hashed words of texts -> the texts that share an n-gram, the benchmark row of each text's first, and the word where it starts."""
        grams, starts = ngrams(hashes_T, offsets, self.n)
        at = np.flatnonzero(self.seen[grams & _FILTER])
        place = np.minimum(np.searchsorted(self.hashes_G, grams[at]), len(self.hashes_G) - 1)
        hit = self.hashes_G[place] == grams[at]
        at, place = at[hit], place[hit]
        texts, first = np.unique(np.searchsorted(starts, at, side="right") - 1, return_index=True)
        return texts, self.owners_G[place[first]], at[first] - starts[texts]


@dataclass(frozen=True)
class Benchmarks:
    """What training rows must not share an n-gram with.

    Attributes:
        rows: the benchmark rows' ids, as "file: id".
        grams: one set for words, one for characters; a set that would be empty is left out.
        too_short: rows without any n-gram, which can match nothing.
    """

    rows: list[str]
    grams: list[Grams]
    too_short: int

    @classmethod
    def load(cls, config: Decontaminate, seed: int) -> Benchmarks:
        """Read all questions and reference solutions; `seed` draws those of a world.

        Raises:
            InputError: a file that cannot be read, a row without a question, or no n-gram in all of them.
        """
        n, n_characters = config.ngram, config.ngram_characters
        rows: list[str] = []
        texts: dict[int, list[str]] = {n: [], n_characters: []}
        owners: dict[int, list[int]] = {n: [], n_characters: []}
        too_short = 0
        for source in config.sources:
            for name, found in _read(source, seed):
                sized = [
                    (n_characters if mostly_characters(of_text) else n, len(of_text), text)
                    for text in found
                    for of_text in [words(text)]
                ]
                for size, _, text in sized:
                    texts[size].append(text)
                    owners[size].append(len(rows))
                too_short += all(length < size for size, length, _ in sized)
                rows.append(name)
        grams = [made for size in texts if len((made := Grams.of(texts[size], owners[size], size)).hashes_G)]
        if not grams:
            raise InputError(
                f"no benchmark text has {n} words",
                f"{len(rows)} rows",
                "give other files to `against`, or a smaller `ngram`",
            )
        return cls(rows, grams, too_short)

    def find(self, hashes_T: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For each of R texts the benchmark row that it shares an n-gram with, or -1; at which word; and of how many words (R,) each."""
        owner = np.full(len(offsets) - 1, -1, np.int64)
        at, n = np.zeros_like(owner), np.zeros_like(owner)
        for grams in self.grams:
            texts, owners, places = grams.find(hashes_T, offsets)
            new = owner[texts] < 0
            owner[texts[new]], at[texts[new]], n[texts[new]] = owners[new], places[new], grams.n
        return owner, at, n


def _read(source: Source, seed: int) -> Iterator[tuple[str, list[str]]]:
    """Each row's name and its texts. Answers are not parsed: a benchmark is compared whole, whatever its gold answers look like."""
    if source.world or source.reasoning_gym:
        for row in load(source, Prompts, seed).rows:
            yield f"{source.name}: {row['id']}", [row[column] for column in TEXTS if row.get(column)]
        return
    from r1pipe.data.shapes import SHAPES

    for where, raw in raw_rows(source):
        if selected(raw, source):
            for row in SHAPES[source.shape](raw, source, where):
                name = Path(where.rpartition(":")[0]).name if source.path else source.name
                yield f"{name}: {row.get('id', where)}", _texts(row, where)


def _texts(row: dict[str, Any], where: str) -> list[str]:
    """The row's questions and solutions; an answer that is a number has no n-gram."""
    if "messages" not in row and not isinstance(row.get("prompt"), str):
        raise InputError(
            "no column 'prompt' with a text",
            where,
            f"the row has {', '.join(sorted(row))}; `columns: {{prompt: THEIRS, solution: THEIRS}}` renames",
        )
    return [message["content"] for message in row.get("messages", ())] + [
        row[column] for column in TEXTS if isinstance(row.get(column), str)
    ]
