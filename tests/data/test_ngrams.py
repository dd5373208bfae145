"""Words and n-grams: the hashed ones repeat exactly where the words themselves do."""

import random

import numpy as np
import pytest

from r1pipe.data.ngrams import hash_words, mostly_characters, ngrams, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It's 3+5=8, OK?", ["it", "s", "3", "5", "8", "ok"]),
        ("Ｆｕｌｌ width, Straße", ["full", "width", "strasse"]),
        ("芳芳有99页。", ["芳", "芳", "有", "99", "页"]),
        ("かな and 한국어 말", ["か", "な", "and", "한국어", "말"]),
        ("?!", []),
    ],
)
def test_words(text, found):
    assert words(text) == found


def test_a_text_is_chinese_by_most_of_its_words():
    assert mostly_characters(words("他有 x 个")) and not mostly_characters(words("the word 好 is good"))


def test_ngrams_are_those_of_the_words_and_never_cross_texts():
    rng = random.Random(0)
    texts = [[rng.choice("abc") for _ in range(rng.randrange(12))] for _ in range(200)]
    hashes, starts = ngrams(*hash_words(texts), 3)
    plain = [tuple(text[i : i + 3]) for text in texts for i in range(len(text) - 2)]
    assert np.diff(starts).tolist() == [max(len(text) - 2, 0) for text in texts]
    assert len(hashes) == len(plain)
    known: dict = {}
    assert all(known.setdefault(gram, value) == value for gram, value in zip(plain, hashes.tolist(), strict=True))  # equal words, equal hash
    assert len(set(known.values())) == len(known) == 27  # other words or another order, another hash


def test_fewer_words_than_n_in_all_texts_together():
    assert len(ngrams(*hash_words([["a"], []]), 10)[0]) == 0


def test_hashes_are_the_same_in_every_process():
    assert ngrams(*hash_words([["same", "everywhere"]]), 2)[0].tolist() == [6649598968587560814]
