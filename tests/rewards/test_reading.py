"""Where an answer is read, and in which spellings: inside of tags and boxes as outside, and never one of several."""

from __future__ import annotations

import pytest

from r1pipe.rewards import symbolic
from r1pipe.rewards.accuracy import accuracy
from r1pipe.rewards.answers import compare, parse
from r1pipe.rewards.notation import is_too_large, to_latex

FORMS = {
    "tags": "<think>so</think><answer>{}</answer>",
    "box": "<think>so</think>\\boxed{{{}}}",
    "summary": "<think>so</think>{}",
}


def verdict(text: str, gold: str, form: str) -> float | None:
    return accuracy([FORMS[form].format(text)], [gold], timeout=10)[0]


SENTENCES = [
    ("The answer is 72.", "72"),
    ("She has $18 left.", "18"),
    ("答案是72。", "72"),
    ("Total: 72", "72"),
    ("The correct option is B.", "B"),
    ("Answer: (C)", "C"),
    ("故选D。", "D"),
    ("The capital of France is Paris.", "Paris"),
    ("So it takes 1 1/2 hours", "3/2"),
    ("It takes 2½ hours.", "5/2"),
    ("There are 70 000 people.", "70000"),
    ("72 apples", "72"),
    ("12 + 60 = 72 apples", "72"),
    ("Tom has 5 and Ann has 67, so the total is 72.", "72"),
    ("小明一共有72个苹果。", "72"),
    ("The answer is **72**.", "72"),
    ("-5 degrees", "-5"),
    ("The answer is $\\frac{1}{2}$.", "1/2"),
    ("The answer is \\(-\\dfrac{1}{2}\\).", "-1/2"),
    ("So it is \\frac{1}{2} of a cup.", "1/2"),
    ("The answer is $1\\frac{3}{4}$ cups.", "7/4"),
    ("So the speed is 3×10^4 m.", "30000"),
    ("The answer is $3 \\times 10^4$.", "30000"),
    ("The answer is $\\sqrt{5}$.", "\\sqrt{5}"),
    ("The sum is $60 + 12 = 72$.", "72"),
]


@pytest.mark.parametrize(("text", "gold"), SENTENCES)
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_read_inside_as_outside(text: str, gold: str, form: str) -> None:
    assert verdict(text, gold, form) == 1.0


SEVERAL = [
    ("41 or 42", "42"),
    ("41, maybe 42", "42"),
    ("41 or possibly 42", "42"),
    ("It is not 42", "42"),
    ("41或42", "42"),
    ("(B) or possibly C", "B"),
    ("(B) or possibly C", "C"),
    ("not B", "B"),
    ("B or C", "B"),
    ("B or C", "C"),
    ("The answer is B or C.", "B"),
    ("The answer is B, possibly also C", "B"),
    ("The answer is not B.", "B"),
    ("maybe B, maybe C", "C"),
    ("(A)/(B)", "A"),
    ("答案是B或C", "B"),
    ("Rome or Paris", "Paris"),
    ("It is $\\frac13$ or $\\frac12$.", "1/2"),
    ("The answer is not $\\frac{1}{2}$.", "1/2"),
    # a part of a number, and a product that was not carried out
    ("The answer is $\\frac{1}{2}$.", "2"),
    ("The answer is $3 \\times 10^4$.", "4"),
    ("The answer is $\\frac{84}{2}$.", "42"),
]


@pytest.mark.parametrize(("text", "gold"), SEVERAL)
@pytest.mark.parametrize("form", FORMS)
def test_several_answers_are_none(text: str, gold: str, form: str) -> None:
    assert verdict(text, gold, form) == 0.0


SEVERAL_INSIDE = [
    "41 42",
    "41\n42",
    "41. 42.",
    "The answer is 41. The answer is 42.",
    "The answer is 41, the answer is 42",
    "It is 41 and it is 42",
    "1 2 3 4 5 42",
    "It could be 41. It could be 42.",
    "between 41 and 42",
    "at least 42",
    "about 42",
    "x = 41, y = 42",
    "42x",
    "42^2",
    "the root of \\sqrt{42}",
]


@pytest.mark.parametrize("text", ["Rome, Paris", "Rome Paris", "London. Paris", "It is Rome, not Paris"])
@pytest.mark.parametrize("form", ["tags", "box"])
def test_inside_closing_words_need_a_sentence(text: str, form: str) -> None:
    assert verdict(text, "Paris", form) == 0.0


@pytest.mark.parametrize("text", SEVERAL_INSIDE)
@pytest.mark.parametrize("form", ["tags", "box"])
def test_inside_only_one_number_is_an_answer(text: str, form: str) -> None:
    """Outside, the last number of a long explanation counts; inside, a policy that lists numbers must not win."""
    assert verdict(text, "42", form) == 0.0


def test_hashes_mark_the_answer_whatever_follows() -> None:
    assert verdict("9 * 8 = 72\n#### 72\nThat is my answer after 2 steps.", "72", "summary") == 1.0
    assert verdict("#### 41\n#### 42", "42", "summary") == 1.0
    assert verdict("#### 41\nOr is it 42?", "42", "summary") == 0.0


EQUAL = [
    # mixed numbers
    ("1 1/4", "5/4"),
    ("5/4", "1 1/4"),
    ("1.25", "1 \\frac{1}{4}"),
    ("2.5", "2½"),
    ("3/2", "1 1/2 hours"),
    ("-5/4", "-1 1/4"),
    ("3/4", "3/4 cup"),
    # Unicode mathematics
    ("\\sqrt{5}", "√5"),
    ("3\\sqrt{13}", "3√13"),
    ("x^2", "x²"),
    ("x^{10}", "x¹⁰"),
    ("\\frac{1}{2}", "½"),
    ("2\\pi", "2π"),
    ("\\infty", "∞"),
    ("x \\leq 3", "x ≤ 3"),
    ("6 \\times 10^{4}", "6×10⁴"),
    ("60000", "6×10⁴"),
    ("-7", "−7"),
    ("(1,2)\\cup(3,4)", "(1,2)∪(3,4)"),
    ("\\emptyset", "∅"),
    ("42", "４２"),
    ("(1,2)", "（１，２）"),
    ("\\sqrt{2x+1}", "√(2x+1)"),
    ("\\sqrt[3]{2}", "∛2"),
    ("a_1", "a₁"),
    ("x \\neq 2", "x≠2"),
    ("x \\in \\mathbb{R}", "x∈ℝ"),
    ("30^\\circ", "30°"),
    ("2\\alpha", "2α"),
    # LaTeX
    ("x \\geq 3", "x \\geslant 3"),
    ("x \\geq 3", "x \\geqslant 3"),
    ("\\frac{1}{3}", "\\dfrac{1}{3}"),
    ("\\frac{x}{3}", "\\tfrac{x}{3}"),
    ("\\frac{x}{3}", "\\cfrac{x}{3}"),
    ("(1, 2)", "\\left(1, 2\\right)"),
    ("(1, 2)", "\\bigl(1, 2\\bigr)"),
    ("\\emptyset", "\\varnothing"),
    ("x < 3", "x \\lt 3"),
    # ordinals, units, names
    ("12", "12^{\\text{th}} \\text{ grade}"),
    ("12", "12^{th}"),
    ("12", "12th grade"),
    ("3", "3rd"),
    ("5", "5\\text{ cm}^2"),
    ("5", "5 km²"),
    ("5", "5 \\text{ cubic feet}"),
    ("5", "$5 left"),
    ("42", "x = 42"),
    ("42", "f(3) = 42"),
    ("42", "\\angle ABC = 42^\\circ"),
    ("42", "12+30=42"),
    ("42", "(42)"),
    ("70000", "70 000"),
    ("70000", "70\\,000"),
    # one number that is a root or a multiple of pi
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
    ("2\\sqrt{3}", "\\sqrt{12}"),
    ("2\\sqrt{3}", "2\\cdot\\sqrt{3}"),
    ("\\sqrt{2}", "2^{1/2}"),
    ("\\frac{\\pi}{4}", "π/4"),
    ("\\frac{\\sqrt{6}}{2}", "\\sqrt{\\frac{3}{2}}"),
    ("5\\sqrt{2}", "5√2 cm"),
    ("1/2", "2/4"),
    ("\\sqrt{2}", "1.41421356"),
    ("320", "3.2 \\times 10^{2}"),
    ("0.00032", "3.2*10^-4"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_spellings_of_one_answer(gold: str, answer: str) -> None:
    assert verdict(answer, gold, "box") == 1.0
    assert verdict(answer, gold, "tags") == 1.0


DIFFERENT = [
    ("1 1/4", "11/4"),
    ("5/4", "1 1/5"),
    ("\\sqrt{5}", "√6"),
    ("x^2", "x³"),
    ("x \\leq 3", "x ≥ 3"),
    ("x \\geq 3", "x > 3"),
    ("12", "13th grade"),
    ("2\\sqrt{3}", "3\\sqrt{2}"),
    ("\\sqrt[3]{2}", "\\sqrt{2}"),
    ("\\pi", "3.14"),
    ("\\pi", "\\pi^2"),
    ("\\frac{\\pi}{4}", "\\frac{\\pi}{3}"),
    ("-\\sqrt{2}", "\\sqrt{2}"),
    ("2", "2\\pi"),
    ("2", "2\\sqrt{2}"),
    ("60000", "6×10⁵"),
    ("42", "41=42"),
    ("42", "a=3, b=42"),
    ("42", "x=41=42"),
    ("70000", "70 00"),
]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_other_answers_stay_others(gold: str, answer: str) -> None:
    assert verdict(answer, gold, "box") == 0.0


# Ways to box the question's own sum or product, whose value is 42.
DISGUISES = r"""
12+30
x=12+30
x = 12 + 30
12+30 apples
12+30=12+30
(12+30)
{12+30}
\frac{12+30}{1}
\frac{42+42}{2}
\frac{84}{2}
84/2
84÷2
6*7
6\times7
6\cdot 7
6 × 7
6(7)
(6)(7)
\text{12+30}
\boxed{12+30}
$12+30$
12 plus 30
12+30.
+12+30
--42
12+30\
12+30\right
\sqrt{1764}
42^{1}
42^1
\frac{6\cdot7}{1}
\sqrt{42^2}
\lfloor 42.5 \rfloor
\max(12,42)
\gcd(42,84)
\log_2 2^{42}
\sum_{i=1}^{1} 42
\binom{42}{1}
7!/5!
7!-4998
12+30+x-x
42x/x
\frac{42x}{x}
\sin(0)+42
e^{\ln 42}
42\cdot 1
42+0
42-0
1\cdot42
0+42
50-8
2(21)
\frac{1}{1/42}
\frac{126}{3}
12+30 \text{ apples}
\text{the sum } 12+30
x=6\times 7
f(x)=12+30
12+30=x
=12+30
6·7
12＋30
１２+３０
12\,+\,30
\displaystyle 12+30
\mathrm{12+30}
{12}+{30}
\sqrt[3]{74088}
42\%\cdot 100
4.2\cdot 10
|12+30|
\left|12+30\right|
\lvert 12+30 \rvert
"""


@pytest.mark.parametrize("text", DISGUISES.split("\n")[1:-1])
def test_a_copied_question_is_no_answer_in_any_disguise(text: str) -> None:
    assert verdict(text, "42", "box") == 0.0
    assert verdict(text, "42", "tags") == 0.0
    assert accuracy([f"\\boxed{{{text}}}"], ["42"], prompt=["What is 12+30?"]) == [0.0]


STALLING = [
    "9^{9^{9}}",
    "9^9^9",
    "10000000!",
    "(10^{10})!",
    "9^{9^{9^{9}}}",
    "\\int_0^1 e^{x^{x^x}} dx",
    "2^{100000000}",
    "\\sqrt{9^{9^{9}}}",
    "x = 9^{9^{9}}",
    "\\frac{9^{9^9}}{1}",
]


@pytest.mark.parametrize("text", STALLING)
def test_stalling_is_wrong_where_the_gold_answer_is_a_number(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gave None, which is never punished, and 1.7 s of CPU time each. Algebra is not asked at all."""
    asked: list[object] = []
    monkeypatch.setattr(symbolic, "equal", lambda pairs, timeout: asked.extend(pairs))
    assert accuracy([f"\\boxed{{{text}}}"] * 3, ["7", "\\frac{1}{2}", "\\sqrt{3}"]) == [0.0] * 3
    assert not asked


def test_the_size_of_an_answer_is_looked_at_before_algebra() -> None:
    for text in STALLING:
        if "int" not in text:
            assert compare("x+1", text) == 0.0, text
    assert compare("2^{2024}", "4^{1012}") is None and compare("x^2-1", "(x-1)(x+1)") is None
    assert is_too_large("(" * 40 + "1" + ")" * 40) and not is_too_large("\\frac{\\sqrt{3}}{2}")


def test_algebra_that_stalls_is_wrong_where_the_gold_answer_names_no_unknown() -> None:
    """With unknowns the algebra may be the verifier's fault: not judged."""
    stalls = "\\int_0^1 e^{x^{x^x}} dx"
    assert accuracy([f"\\boxed{{{stalls}}}"] * 2, ["1+\\sqrt{2}", "x+1"], timeout=1) == [0.0, None]


def test_unicode_is_a_kind_of_latex() -> None:
    assert to_latex("(−∞, 3]∪[4, √2)") == "(-\\infty , 3]\\cup [4, \\sqrt{2})"
    assert to_latex("3·4") == "3 \\cdot 4" and to_latex("列奥纳多·达·芬奇") == "列奥纳多·达·芬奇"
    assert to_latex("Αθήνα") == "Αθήνα" and to_latex("Δ") == "\\Delta "
    assert parse("3√13").kind == "root" and parse("naïve").kind == "words"
