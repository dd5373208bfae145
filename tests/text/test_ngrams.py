"""Words and n-grams: the hashed ones repeat exactly where the words themselves do."""

import random

import numpy as np
import pytest

from r1pipe.text.ngrams import hash_texts, mostly_characters, ngrams, words


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
    assert mostly_characters(words("他有 x 个"))
    assert not mostly_characters(words("the word 好 is good"))


def test_ngrams_are_those_of_the_words_and_never_cross_texts():
    rng = random.Random(0)
    texts = [[rng.choice("abc") for _ in range(rng.randrange(12))] for _ in range(200)]
    hashes, starts = ngrams(*hash_texts([" ".join(text) for text in texts]), 3)
    plain = [tuple(text[i : i + 3]) for text in texts for i in range(len(text) - 2)]
    assert np.diff(starts).tolist() == [max(len(text) - 2, 0) for text in texts]
    assert len(hashes) == len(plain)
    known: dict = {}
    assert all(
        known.setdefault(gram, value) == value for gram, value in zip(plain, hashes.tolist(), strict=True)
    )  # equal words, equal hash
    assert len(set(known.values())) == len(known) == 27  # other words or another order, another hash


def test_fewer_words_than_n_in_all_texts_together():
    assert len(ngrams(*hash_texts(["a", ""]), 10)[0]) == 0


def test_hashes_are_the_same_in_every_process():
    assert ngrams(*hash_texts(["same everywhere"]), 2)[0].tolist() == [17876836205901063248]


def test_hashed_words_are_the_words():
    rng = random.Random(1)
    alphabet = "aB3_ é Ａ\u0301ß看か가９.,\n\t-\U0001f600İǅ\u200d²"
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(30))) for _ in range(3000)]
    texts += ["", "\ud800", "x" * 10_000, "a\u0301", "ﬁne"]
    hashes, offsets = hash_texts(texts)
    found = [words(text) for text in texts]
    assert np.diff(offsets).tolist() == [len(text) for text in found]
    plain = [word for text in found for word in text]
    known: dict = {}
    assert all(
        known.setdefault(word, value) == value for word, value in zip(plain, hashes.tolist(), strict=True)
    )
    assert len(set(known.values())) == len(known) > 1500


def test_short_texts_are_filled_up():
    hashes, offsets = hash_texts(["one two three", "", "!?", "!?", "...", "two three one zero"], 4)
    assert np.diff(offsets).tolist() == [4] * 6
    rows = hashes.reshape(6, 4).tolist()
    assert rows[2] == rows[3] != rows[4]
    assert rows[1] != rows[2]
    assert rows[0][3] == rows[1][3]
    assert rows[0][:3] == [rows[5][2], *rows[5][:2]]


def test_many_english_words_share_no_hash():
    names = [f"{a}{b}{c}" for a in "abcdefghij" for b in range(100) for c in "klmnopqrstuvwxyz"] + [
        f"{n}" for n in range(200_000)
    ]
    assert len(set(hash_texts([" ".join(names)])[0].tolist())) == len(names)


def test_long_texts_are_hashed_in_pieces(monkeypatch):
    texts = ["one two  three, four", "看了 九十页 and more", "", "unbroken" * 9]
    whole = [found.tolist() for found in hash_texts(texts, 3)]
    for size in (1, 4, 7):
        monkeypatch.setattr("r1pipe.text.ngrams._PIECE", size)
        assert [found.tolist() for found in hash_texts(texts, 3)] == whole
