"""The language reward: words by script, Latin script by sentence, and the target of each row."""

from __future__ import annotations

import warnings

import pytest

from r1pipe.rewards import latin
from r1pipe.rewards.language import detect, language, thinking_words, word_counts
from tests.bench import language_table as table
from tests.public_rows import load


def share_of(thinking: str, **columns: object) -> float | None:
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
    assert share_of("First 12+7=19, 再算19-5=14", language="en") == 0.5
    assert share_of("First 12+7=19, 再算19-5=14", language="zh") == 0.5
    assert language(["<think>Only English here</think>这是总结"], language=["en"]) == [1.0]
    assert language(["<think>still thinking 还没"], language=["zh"]) == [pytest.approx(1 / 3)]


def test_the_target_is_the_rows_language_else_the_prompts() -> None:
    assert share_of("we add", prompt="小明有几个苹果？") == 0.0
    assert share_of("先加", prompt="小明有几个苹果？") == 1.0
    assert share_of("we add", prompts=[{"role": "user", "content": "How many?"}]) == 1.0
    assert share_of("we add", language="zh", prompt="How many?") == 0.0
    assert share_of("we add", language="en-US") == 1.0
    assert language(["<think>先加</think>"], language=["en"], target="zh") == [1.0]


def test_silence_does_not_win() -> None:
    """A response that thinks in formulas only, or not at all, would otherwise hold the reward without a word."""
    silent = ["<think>12+7=19</think>19", "<think></think>It is 19", "It is 19"]
    assert language(silent, language=["en"] * 3, domain=["math"] * 3) == [0.0] * 3
    assert language(silent, language=["en"] * 3) == [0.0] * 3
    assert language(silent, language=["en"] * 3, domain=["general"] * 3) == [1.0] * 3
    assert language(["<think></think>我是 Pip"], language=["zh"], domain=["general"]) == [1.0], (
        "else canned thinking would win over a foreign name"
    )
    assert language(silent, language=["en"] * 3, domain=["math"] * 3, allow_silence=True) == [1.0] * 3
    assert thinking_words(["<think>we add 2 先算加法</think>the words here do not count", "none"]) == [4, 0]


def test_an_unknown_language_is_none_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="`qq`"):
        assert share_of("maneno mengi", language="qq") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert share_of("maneno mengi", language="qq") is None


def test_detect() -> None:
    asked = [
        "What is 2+3?",
        "2加3等于几？",
        "2+3",
        "Wie viele Äpfel sind es?",
        "¿Cuántas manzanas hay en total?",
        "Combien de pommes y a-t-il ?",
        "Juma ana maembe mangapi kwa jumla?",
    ]
    assert [detect(text) for text in asked] == ["en", "zh", None, "de", "es", "fr", "sw"]


THINKING = {
    "en": "First I add the apples in both baskets. Then I take away those which were eaten, and that leaves nine.",
    "es": "Primero sumo las manzanas de las dos cestas. Luego resto las que se comieron y quedan nueve.",
    "fr": (
        "D'abord j'additionne les pommes des deux paniers. "
        "Puis je retire celles qui ont été mangées et il en reste neuf."
    ),
    "de": "Zuerst addiere ich die Äpfel aus beiden Körben. Dann ziehe ich die gegessenen ab und es bleiben neun.",
    "sw": (
        "Kwanza ninajumlisha maembe yaliyo katika vikapu vyote viwili. "
        "Kisha ninaondoa yale yaliyoliwa na yanabaki tisa."
    ),
    "it": "Prima sommo le mele dei due cesti. Poi tolgo quelle che sono state mangiate e ne restano nove.",
    "pl": "Najpierw dodaję jabłka z obu koszyków. Potem odejmuję te, które zostały zjedzone, i zostaje dziewięć.",
}


@pytest.mark.parametrize("target", THINKING)
def test_languages_in_latin_script_are_kept_apart(target: str) -> None:
    rewards = language([f"<think>{text}</think>9" for text in THINKING.values()], target=target)
    assert rewards == [float(own == target) for own in THINKING]


def test_doubt_counts_for_the_target_and_names_for_any_language() -> None:
    for target in ("en", "es", "sw"):
        assert share_of("Karl, Luis, Tara, Lena, Ivan, Lucy: Karl 12, Luis 9.", language=target) == 1.0
        assert share_of("kg + cm", language=target) == 1.0
    assert share_of("Karl, Luis, Tara 先算加法", language="zh") == pytest.approx(2 / 5)


def test_a_mixture_is_judged_sentence_by_sentence() -> None:
    text = f"{THINKING['en']} {THINKING['es']}"
    words = [sum(word_counts(THINKING[language]).values()) for language in ("en", "es")]
    assert share_of(text, language="en") == words[0] / sum(words)
    assert share_of(text, language="es") == words[1] / sum(words)
    assert share_of(text, language="fr") == 0.0
    assert share_of("We add. Luego restamos. So it is nine, which was asked. Bien.", language="en") == 1.0, (
        "short sentences are judged with their neighbours"
    )


def test_mgsm_every_language_against_every_other() -> None:
    load("mgsm")
    some = {own: texts[::3] for own, texts in table.problems().items()}  # language_table.py takes all
    for (own, target), mean in table.matrix(some).items():
        if own == target:
            assert mean >= 0.95, (own, target, mean)
        elif (own, target) not in table.ALIKE:
            assert mean <= 0.2, (own, target, mean)


@pytest.mark.parametrize("by", ["sentences", "words"])
def test_mgsm_mixtures(by: str) -> None:
    load("mgsm")
    errors = table.mixtures(table.problems(), by, 3)
    assert len(errors) == {"sentences": 110, "words": 88}[by]
    assert {pair: worst for pair, found in errors.items() if (worst := max(found)) > 0.1} == {}


def test_the_identifier_forgets_and_learns_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latin, "_MAX_WORDS", 8)
    for _ in range(3):
        assert [latin.count(THINKING[own], own) for own in ("es", "de")] == [{"es": 16}, {"de": 18}]


@pytest.mark.parametrize(
    ("thinking", "wanted"),
    [
        ("在直角三角形ABC中，∠C=90°", 1.0),
        ("连接 AB，作 CD ⊥ AB 于点 D，四边形ABCD是正方形。", 1.0),
        ("因为sin A = 3/5，所以cos A = 4/5，log 2 约为0.3。", 1.0),
        ("边长为 5 cm，面积是 25 cm，重3kg。", 1.0),
        ("求函数的 max 和 min 。", 1.0),
        ("先 add 再算。", 2 / 3),
        ("先 ADD THE TWO 再算。", 2 / 5),
        ("先算 SECOND 再算。", 2 / 3),
        ("THE ONE TWO", 0.0),
        ("we log in and sin again", 0.0),
    ],
)
def test_names_of_points_and_functions_are_no_words(thinking: str, wanted: float) -> None:
    """They counted as English words in Chinese geometry: 0.60 for a sentence without a foreign word."""
    assert share_of(thinking, language="zh") == pytest.approx(wanted)


def test_names_of_points_are_no_words_in_any_other_script() -> None:
    assert share_of("В треугольнике ABC угол C прямой", language="ru") == 1.0
    assert share_of("三角形ABCにおいて、角Cは直角です。", language="ja") == 1.0
