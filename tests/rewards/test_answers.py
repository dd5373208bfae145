"""Answers as strings: which pairs are equal, different, or left to algebra."""

from __future__ import annotations

import pytest

from r1pipe.rewards.answers import compare, parse

EQUAL = [
    ("42", "42"),
    ("42", "42.0"),
    ("042", "42"),
    ("1000", "1,000"),
    ("1000", "1 000"),
    ("1234567", "1{,}234{,}567"),
    ("-5", "−5"),
    ("-5", "–5"),
    ("5", "$5"),
    ("5", "\\$5"),
    ("5", "5 dollars"),
    ("5", "5元"),
    ("1250", "¥1,250"),
    ("50", "50%"),
    ("0.5", "50%"),
    ("50%", "50\\%"),
    ("0.75", "\\frac{3}{4}"),
    ("3/4", "\\dfrac34"),
    ("1\\frac{1}{2}", "1.5"),
    ("8", "8 \\text{ minutes}"),
    ("8", "x = 8"),
    ("5", "５"),
    ("12", "১২"),
    ("90", "90^\\circ"),
    ("1e3", "1000"),
    (".5", "0.5"),
    ("B", "(B)"),
    ("B", "\\text{(B)}"),
    ("B", "B. a cat"),
    ("yes", "Yes."),
    ("是", "是。"),
    ("Tom", "**Tom**"),
    ("8,221", "8221"),
    ("8,221", "221, 8"),
    ("1,2,3", "3, 2 and 1"),
    ("0.333333", "0.33333333"),
    ("New York", "new  york"),
    ("256", "2^8"),
    ("256", "N = 2^{8}"),
    ("-8", "-2^3"),
    ("540", "\\sqrt{324^2 + (-432)^2}"),
    ("\\sqrt{13}", "\\sqrt{2^2+3^2}"),
]
DIFFERENT = [
    ("42", "4"),
    ("42", "-42"),
    ("42", "420"),
    ("42", "12+30"),
    ("42", "6*7"),
    ("42", "6\\times 7"),
    ("3", "6/2"),
    ("42", "42 or 43"),
    ("42", "forty-two"),
    ("42", ""),
    ("50", "0.5"),
    ("5 kg", "5 g"),
    ("84", "84.66666666666667"),
    ("B", "C"),
    ("B", "AB"),
    ("A", "(A) or (B)"),
    ("A", "a cat"),
    ("yes", "no"),
    ("yes", "yes or no"),
    ("67", "67\\sim75"),
    ("8,221", "8, 222"),
    ("1", "\\text{one}"),
    ("42", "{42"),
    ("0.33", "0.333"),
    ("2", "2n"),
    ("2", "2 pi"),
    ("12", "12r"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_without_algebra(gold: str, answer: str) -> None:
    assert compare(gold, answer) == 1.0


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_without_algebra(gold: str, answer: str) -> None:
    assert compare(gold, answer) == 0.0


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("2x", "x+x"),
        ("\\sqrt{51}+1", "51^{1/2}+1"),
        ("(0,9)\\cup(9,36)", "x \\in (0,9)"),
        ("2^8", "256"),
        ("2n", "2"),
    ],
)
def test_algebra_is_left_to_others(gold: str, answer: str) -> None:
    assert compare(gold, answer) is None


@pytest.mark.parametrize("gold", ["", "  ", "\\frac{1}{", "}{", "x" * 3000])
def test_broken_gold_is_not_parsed(gold: str) -> None:
    assert parse(gold).kind == "broken"


def test_the_copied_question_is_not_an_answer_but_forms_of_a_number_are() -> None:
    """Equality by algebra alone would reward a policy that boxes the question's own sum."""
    assert compare("14", "3+4+7") == compare("14", "(3+4)+7") == compare("12", "3 \\cdot 4") == 0.0
    assert compare("14", "3+4+7=14") != 0.0
    assert compare("3+4", "3+4") == 1.0


@pytest.mark.parametrize(
    ("gold", "answer", "question"),
    [
        ("36", "6^2", "What is 6 times 6?"),
        ("1,000,000", "1000^2", "What is 1,000 times 1,000?"),
        ("5", "\\sqrt{3^2+4^2}", "The legs are 3 and 4. How long is the hypotenuse?"),
        ("256", "2^8", [{"role": "user", "content": "Compute $2^8$."}]),
    ],
)
def test_a_power_is_no_answer_where_its_base_stands_in_the_question(
    gold: str, answer: str, question: object
) -> None:
    assert compare(gold, answer) == compare(gold, answer, "How many are there?") == 1.0
    assert compare(gold, answer, question) == 0.0


def test_powers_that_were_not_carried_out_are_no_answers() -> None:
    for answer in (
        "42^1",
        "1^2",
        "\\sqrt{42^2}",
        "42^{1}",
        "2^{99999}",
        "2^3*2",
        "2^3+34",
        "2^{2^3}",
        "6^2^1",
    ):
        assert compare("42", answer) == 0.0, answer
    assert compare("2^8", "256") is None, "a gold answer that is a power is algebra's"
