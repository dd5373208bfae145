"""Contamination: ten words in a row that a benchmark has, and no fewer; of Chinese, sixteen characters."""

import json
from itertools import islice

import pytest
from pydantic import ValidationError

from r1pipe.data.decontamination import Benchmarks
from r1pipe.data.mixture import Decontaminate
from r1pipe.data.near_duplicates import NGRAM, shingle_words
from r1pipe.errors import InputError
from r1pipe.text.ngrams import hash_texts

ENGLISH = {
    "id": "e",
    "problem": "A robe takes 2 bolts of blue fiber and half that much white fiber.",
    "solution": "It takes 2/2=1 bolt, so in total it takes 2+1=3.",
}
CHINESE = {"id": "c", "problem": "芳芳买了一本书有99页，看了90页，她还剩多少页没有看？"}


@pytest.fixture
def found(tmp_path):
    def find(texts, *rows, **more):
        path = tmp_path / "exam.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        benchmarks = Benchmarks.load(
            Decontaminate(against={"path": path, "columns": {"prompt": "problem"}}, **more),
            seed=0,
        )
        owner, at, n = benchmarks.find(*hash_texts(texts, NGRAM))
        names = [benchmarks.rows[row] if row >= 0 else None for row in owner]
        return (
            names,
            [" ".join(shingle_words(text)[i : i + k]) for text, i, k in zip(texts, at, n, strict=True)],
            benchmarks,
        )

    return find


def test_ten_shared_words_are_found_and_nine_are_not(found):
    names, shared, _ = found(
        [
            "I say: takes 2 BOLTS of blue fiber and half  that much! And so on.",
            "I say: takes 2 bolts of blue fiber and half that. And so on.",
            "in total, it takes 2 + 1 = 3 takes",
            "bolt so in total it takes 2 1 3",
            "",
        ],
        ENGLISH,
    )
    assert names == ["exam.jsonl: e", None, None, None, None]
    assert shared[0] == "takes 2 bolts of blue fiber and half that much"
    assert found(["so, 1 bolt so in total it takes 2 1 3"], ENGLISH)[0] == [
        "exam.jsonl: e"
    ]  # of the solution, too


def test_chinese_by_sixteen_characters(found):
    texts = [
        "小明说：芳芳买了一本书有99页,看了90页她还是",
        "小明说：芳芳买了一本书有99页,看了90。",
        "An English row that quotes 一本书有99页，看了90页，她还剩多少页 in it",
    ]
    names, shared, _ = found(texts, CHINESE, ENGLISH)
    assert names == ["exam.jsonl: c", None, "exam.jsonl: c"]
    assert shared[0].replace(" ", "") == "芳芳买了一本书有99页看了90页她还"


def test_what_is_too_short_to_match_is_counted(found):
    assert found(["2+2"], ENGLISH, {"id": "s", "problem": "What is 2+2?"})[2].too_short == 1
    with pytest.raises(InputError, match="no benchmark text has 10 words"):
        found(["x"], {"id": "s", "problem": "What is 2+2?"})


def test_another_n(found):
    assert found(["blue fiber and half"], ENGLISH, ngram=4)[0] == ["exam.jsonl: e"]


def test_a_row_without_a_question_is_named(found):
    with pytest.raises(InputError, match="no column 'problem'"):
        found(["x"], {"id": "s", "question": "?"})
    with pytest.raises(InputError, match="no column 'prompt' with a text"):
        found(["x"], {"id": "s", "problem": ["a", "b"]})


def test_a_short_answer_beside_a_long_question_does_not_make_a_row_too_short(found):
    assert found(["x"], {**ENGLISH, "answer": 3}, {**CHINESE, "answer": "9"})[2].too_short == 0


def test_a_benchmark_is_taken_whole(tmp_path):
    with pytest.raises(ValidationError, match="compared whole"):
        Decontaminate(against={"path": tmp_path / "x.jsonl", "count": 5})


def test_the_world_can_be_a_benchmark():
    benchmarks = Benchmarks.load(
        Decontaminate(
            against={"world": "word-problems", "count": 5, "split": "heldout", "languages": ["en"]}
        ),
        seed=0,
    )
    assert len(benchmarks.rows) == 5
    assert benchmarks.rows[0].startswith("word-problems: ")


def test_real_benchmarks(shared_data):
    """Every model solution of GSM8K's test begins with a test problem; the training problems are others."""
    import gzip

    def texts(name, count):
        with gzip.open(shared_data / name, "rt", encoding="utf8") as stream:
            return [json.loads(line)["problem"] for line in islice(stream, count)]

    against = [
        {"path": shared_data / name, "columns": {"prompt": "problem"}}
        for name in ("gsm8k_test.jsonl.gz", "cmath_zh.jsonl.gz")
    ]
    benchmarks = Benchmarks.load(Decontaminate(against=against), seed=0)
    shares = {
        name: (benchmarks.find(*hash_texts(texts(name, 400), NGRAM))[0] >= 0).mean()
        for name in ("gsm8k_model_solutions.jsonl.gz", "gsm8k_train.jsonl.gz")
    }
    assert shares["gsm8k_model_solutions.jsonl.gz"] > 0.99 and shares["gsm8k_train.jsonl.gz"] < 0.02, shares
    chinese = texts("cmath_zh.jsonl.gz", 400)
    owners = benchmarks.find(*hash_texts(chinese, NGRAM))[0]
    assert all(
        owner >= 0 for owner, text in zip(owners, chinese, strict=True) if len(shingle_words(text)) >= 16
    )
