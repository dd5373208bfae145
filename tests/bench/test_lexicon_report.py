"""Word problems: ours alone (no 10-gram of GSM8K), and varied."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from lexicon_report import grams, read_problems, variety

from r1pipe.embedded.world import SPLITS, problems

DATA = Path(__file__).parents[3] / "shared" / "data"


@cache
def prompts(split: str) -> list[str]:
    return [row["prompt"] for row in problems(split, ["word-problems"], 800, 0, ["en"])]


def ours(count: int) -> list[str]:
    return [text for split in SPLITS for text in prompts(split)[:count]]


@pytest.mark.skipif(not (DATA / "gsm8k_train.jsonl.gz").exists(), reason="shared/data is not here")
@pytest.mark.slow
def test_no_ten_words_in_a_row_are_gsm8ks():
    theirs = grams(
        [text for name in ("gsm8k_train", "gsm8k_test") for text in read_problems(DATA / f"{name}.jsonl.gz")]
    )
    assert theirs
    assert not theirs & grams(ours(800))


def test_the_measure_finds_copies():
    text = "Betty is saving money for a new wallet which costs $100 and more"
    assert grams([text]) & grams(["She said: " + text])


@pytest.mark.slow
def test_varied():
    found = variety(ours(600))
    assert (
        found["nouns"] > 950 and found["verbs"] > 330 and found["questions"] > 2000 and found["shapes"] > 2200
    ), found


def test_variety_counts_shapes_not_names():
    found = variety(["Tom buys 3 pens. How many pens has Tom?", "Mia buys 5 caps. How many caps has Mia?"])
    assert found == {"nouns": 2, "verbs": 1, "questions": 1, "shapes": 1}
