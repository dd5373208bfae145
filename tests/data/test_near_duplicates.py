"""Near-duplicates: the first stays, the threshold is exact, and what only looks alike stays."""

import random

import numpy as np
import pytest

from r1pipe.data.near_duplicates import NGRAM, band_rows, bands, near_duplicates
from r1pipe.text.ngrams import hash_texts

RNG = random.Random(0)
VOCABULARY = [f"w{number}" for number in range(5000)]


def removed(texts, threshold=0.75, candidates=None):
    keys = bands(*hash_texts(texts, NGRAM), threshold)
    return near_duplicates(
        keys,
        np.ones(len(texts), bool) if candidates is None else np.array(candidates),
        texts.__getitem__,
        threshold=threshold,
        progress=lambda done, total: None,
    )


def text(size=150):
    return RNG.choices(VOCABULARY, k=size)


def with_end(words, changed):
    """Its last words exchanged: of G 5-grams `changed` are others, so J = (G - changed) / (G + changed)."""
    return words[:-changed] + text(changed)


def test_the_first_stays_and_says_what_it_was_compared_with():
    one, two = text(), text()
    found = removed([" ".join(words) for words in (one, two, with_end(one, 5), with_end(two, 5), one)])
    assert {row: of for row, (of, _) in found.items()} == {2: 0, 3: 1, 4: 0}
    assert found[2][1] == pytest.approx(141 / 151)
    assert found[4][1] == 1.0


def test_nothing_below_the_threshold_is_removed_and_nearly_all_above():
    originals = [text() for _ in range(150)]
    for changed, expected in ((30, 0), (22, 0), (19, 0.9), (12, 0.99)):  # J = 0.66, 0.738, 0.770, 0.848
        found = removed(
            [" ".join(words) for words in originals]
            + [" ".join(with_end(words, changed)) for words in originals]
        )
        assert len(found) >= expected * 150 and (expected or not found), changed


def test_a_row_that_was_removed_takes_no_other_with_it():
    one = text(300)
    two, three = with_end(one, 40), text(40) + one[40:]  # each near one (0.76), not each other (0.57)
    assert set(removed([" ".join(words) for words in (two, one, three)])) == {
        1
    }  # three's only near row is gone


def test_rows_that_are_not_candidates_neither_stay_nor_remove():
    one = " ".join(text())
    assert removed([one, one, one], candidates=[False, True, True]) == {2: (1, 1.0)}


def test_chinese_is_compared_by_characters():
    one = "".join(chr(RNG.randrange(0x4E00, 0x5000)) for _ in range(120))
    assert list(removed([one, one[:-4] + "完全不同", one[::-1]])) == [1]


def test_short_texts_are_compared_whole():
    assert list(removed(["Hello!", "hello", "Hi", "😀", "🎉", "😀", ""])) == [1, 5]


def test_crowded_buckets_stay_cheap(monkeypatch):
    import r1pipe.data.near_duplicates as dedup

    checks = []
    monkeypatch.setattr(dedup, "jaccard", lambda one, other: checks.append(1) or 0.0)
    same = " ".join(text())
    assert not removed([same] * 300)
    assert len(checks) <= 300 * 64


def recall(threshold, rows):
    """The share of the pairs at the threshold that agree in a band of this size."""
    return 1 - (1 - threshold**rows) ** (128 // rows)


def test_the_bands_follow_the_threshold():
    for threshold in (0.5, 0.75, 0.9):
        rows = band_rows(threshold)
        assert recall(threshold, rows) >= 0.9
        assert recall(threshold, rows + 1) < 0.9
