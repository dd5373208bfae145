from __future__ import annotations

import warnings

import pytest

from r1pipe.rewards.language import detect, language, share, thinking_words, word_counts
from tests.rewards.shared import load


def one(thinking: str, **columns: object) -> float | None:
    return language([f"<think>{thinking}</think>42"], **{name: [value] for name, value in columns.items()})[0]  # pyright: ignore


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("First 12+7=19, 再算19-5=14", {"en": 1, "zh": 1}),
        ("Then we add them.", {"en": 4}),
        ("先算加法", {"zh": 2}),
        ("算", {"zh": 1}),
        ("x + y = 2 so n = 3", {"en": 1}),  # single letters are variables
        ("we call f(x) and my_var2 and `the code here` and $x is the sum$ end", {"en": 6}),
        ("She pays $12 and he pays $5 more", {"en": 6}),  # prices are no maths
        ("use \\frac{1}{2} of \\(all words\\) now", {"en": 3}),
        ("```python\nprint the words\n```", {}),
        ("12 + 7 = 19", {}),
        ("Tom有5个苹果", {"en": 1, "zh": 3}),
        ("答案是12<answer>", {"zh": 2}),
        ("私は学生です。我是学生。", {"ja": 3, "zh": 2}),
        ("Привет, мир", {"ru": 2}),
        ("안녕하세요 세계", {"ko": 2}),
        ("", {}),
    ],
)
def test_word_counts(text: str, counts: dict[str, int]) -> None:
    assert word_counts(text) == counts


def test_share_of_the_target_in_the_thinking_alone() -> None:
    assert one("First 12+7=19, 再算19-5=14", language="en") == 0.5
    assert one("First 12+7=19, 再算19-5=14", language="zh") == 0.5
    assert language(["<think>Only English here</think>这是总结"], language=["en"]) == [1.0]
    assert language(["<think>still thinking 还没"], language=["zh"]) == [pytest.approx(1 / 3)]


def test_the_target_is_the_rows_language_else_the_prompts() -> None:
    assert one("we add", prompt="小明有几个苹果？") == 0.0
    assert one("先加", prompt="小明有几个苹果？") == 1.0
    assert one("we add", prompts=[{"role": "user", "content": "How many?"}]) == 1.0
    assert one("we add", language="zh", prompt="How many?") == 0.0
    assert one("we add", language="en-US") == 1.0
    assert language(["<think>先加</think>"], language=["en"], target="zh") == [1.0]


def test_silence_does_not_win() -> None:
    """A response that thinks in formulas only, or not at all, would otherwise hold the reward without a word."""
    silent = ["<think>12+7=19</think>19", "<think></think>It is 19", "It is 19"]
    assert language(silent, language=["en"] * 3, domain=["math"] * 3) == [0.0] * 3
    assert language(silent, language=["en"] * 3) == [0.0] * 3
    assert language(silent, language=["en"] * 3, domain=["general"] * 3) == [1.0] * 3
    assert language(["<think></think>这是"], language=["en"], domain=["general"]) == [0.0]
    assert language(silent, language=["en"] * 3, domain=["math"] * 3, allow_silence=True) == [1.0] * 3
    assert thinking_words(["<think>we add 2 先算加法</think>the words here do not count", "none"]) == [4, 0]


def test_what_script_cannot_tell_is_none_and_said_once() -> None:
    with pytest.warns(UserWarning, match="`sw`"):
        assert one("maneno mengi", language="sw") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one("maneno mengi", language="sw") is None


def test_detect() -> None:
    assert [detect(text) for text in ("What is 2+3?", "2加3等于几？", "2+3")] == ["en", "zh", None]


def test_mgsm_where_script_tells() -> None:
    own = ["zh", "ja", "ru", "th", "bn", "te", "en"]
    rows = load("mgsm")
    for target in own:
        for lang in {row["lang"] for row in rows}:
            texts = [row["problem"] for row in rows if row["lang"] == lang]
            mean = sum(share(text, target) or 0.0 for text in texts) / len(texts)
            if lang == target:
                assert mean >= 0.95, (target, lang, mean)
            elif target != "en" or lang in own:  # es, fr, de and sw share English's script
                assert mean <= 0.2, (target, lang, mean)
