"""Answers as strings: the kind of each, and whether two are equal, as far as that can be decided without algebra.

Most answers are plain numbers, choice letters and words, and deciding these takes microseconds. `compare` returns 1.0
or 0.0 where it is sure, and None where only a computer algebra system can decide (r1pipe/rewards/symbolic.py).

Our choices, where a bare pair is ambiguous:
1. Units and currency signs are ignored unless both answers carry one that we know and they differ (5 kg is not 5 g).
2. A percent sign on one side only: `50%` equals both `50` and `0.5`.
3. Numbers are compared exactly, except that six or more decimals on either side allow 1e-6 (of the larger, if that is
   above 1).
4. The answer to a question whose gold answer is a number is itself one number (one_number.py): `12+30` is not `42`.
   Otherwise copying the question would be rewarded, and algebra could be kept busy. 2/4 is as good as 1/2, and `2^8`
   as good as 256 unless its base stands in the question (powers.py).
5. `8,221` may be the number 8221 or the list 8, 221; each is accepted.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from r1pipe.rewards.notation import is_too_large, normalize
from r1pipe.rewards.one_number import Number, read_number
from r1pipe.rewards.powers import read_power
from r1pipe.rewards.texts import prompt_of

# "B", "(B)", "B. the second one": a choice letter, and the text behind it.
_LETTER = re.compile(r"[(\[]?\s*([A-J])\s*[)\]]?\s*(?:$|[.:]\s*(.*)$|(?<=[)\]])\s*(.*)$)", re.S)
# "A or B" names two choices and is an answer to neither; so is "(B) or possibly C". In "B. Vitamin C" C is no choice.
_JOINS_CHOICES = (
    r"(?:(?:\b(?:or|and|nor|maybe|possibly|perhaps|probably|alternatively|either)\b|[,/;&(\[|或和、]|也许|可能)"
    r"(?:\s*\b(?:or|also|else|even|maybe|possibly|perhaps|probably|just|not|option|choice|answer|it|is|could|might|be"
    r"|the)\b)*)"
)
SECOND_LETTER = re.compile(rf"(?:^|{_JOINS_CHOICES})\s*[(\[]?[A-J](?![\w'])")
_ARITHMETIC = re.compile(r"[\d\s.,()\[\]{}$+\-*/]*")
_OPERATOR = re.compile(r"[\d)\]}]\s*[+\-*/]\s*[\d(\[{+-]")
# What tables have in the place of an answer; the last two are NuminaMath's.
_NO_ANSWERS = ("nan", "null", "n/a", "<na>", "notfound", "proof")
# No character that could belong to a formula.
_WORDY = re.compile(r"[^\d\\^_{}=<>+*/|~√]*")
# What a formula may hold beside the names of unknowns.
_NOT_UNKNOWNS = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+|sqrt|pi")


class Answer(NamedTuple):
    """An answer string, understood.

    Attributes:
        kind: number, root (a multiple of a root or of pi), letter, words, arithmetic (not carried out), maths, or
            broken (empty, too long, with braces that do not match, or what stands for no answer: `N/A`).
        text: the normalised string.
        number: of kinds number and root.
    """

    kind: str
    text: str
    number: Number | None = None

    @property
    def value(self) -> int | Fraction | None:
        """Of a number, exact; before its percent sign."""
        return self.number.value if self.number else None


@lru_cache(maxsize=1 << 16)
def parse(text: str) -> Answer:
    """Understand an answer string; everything else here works on the result.

    >>> parse("$1,250").value, parse("\\\\frac{17}{4}").value, parse("(B)").kind, parse("12+30").kind, parse("x^2").kind
    (1250, Fraction(17, 4), 'letter', 'arithmetic', 'maths')
    """
    plain = text.strip()
    # By far the most frequent case: digits only.
    if plain.isdecimal() and plain.isascii() and len(plain) < 1000:
        return Answer("number", plain, Number(int(plain)))
    if len(text) > 2000:
        return Answer("broken", plain[:2000])
    plain = normalize(text)
    if not plain or not _is_balanced(plain) or plain.casefold() in _NO_ANSWERS:
        return Answer("broken", plain[:2000])

    # Letters first: "A" would be words as well, and "B. 7" is the choice B and not the number 7.
    letter = _LETTER.fullmatch(plain)
    if letter and not SECOND_LETTER.search(letter[2] or letter[3] or ""):
        return Answer("letter", letter[1])
    number = read_number(plain)
    if number is not None:
        if number.is_open:
            return Answer("arithmetic", plain)
        return Answer("number" if number.root is None else "root", plain, number)
    is_long_enough = len(plain.strip("()[],;:!?.-")) > 1
    is_foreign_character = len(plain) == 1 and not plain.isascii()
    if (_WORDY.fullmatch(plain) and is_long_enough) or is_foreign_character:
        return Answer("words", words_key(plain))
    with_stars = re.sub(r"\\(?:times|cdot|div)(?![a-z])", "*", plain)
    if _ARITHMETIC.fullmatch(with_stars) and _OPERATOR.search(with_stars):
        return Answer("arithmetic", plain)
    return Answer("maths", plain)


def words_key(text: str) -> str:
    """Words as they are compared: without case and outer punctuation, with single spaces."""
    return " ".join(text.casefold().split()).strip(" .!?:;,'\"()[]")


def _is_balanced(text: str) -> bool:
    if "{" not in text:
        return "}" not in text
    depth = 0
    for brace in _BRACES.findall(text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


_BRACES = re.compile("[{}]")


def compare(
    gold: str,
    answer: str,
    question: Any = None,
) -> float | None:
    """1.0 equal, 0.0 not, None where algebra must decide. The gold answer must not be broken.

    Args:
        gold: the gold answer.
        answer: the one that is judged.
        question: the prompt, as a string or messages, where it is known: an answer must not be copied from it.

    >>> compare("1000", "1,000 apples"), compare("42", "12+30"), compare("B", "(B) 7"), compare("2x", "x+x") is None
    (1.0, 0.0, 1.0, True)
    """
    if answer == gold:
        return 1.0
    # By far the most frequent case.
    if (
        answer.isdecimal()
        and gold.isdecimal()
        and len(answer) + len(gold) < 1000
        and (answer + gold).isascii()
    ):
        return float(int(answer) == int(gold))
    right = parse(gold)
    given = parse(answer)
    if given.kind == "broken":
        return 0.0

    if right.number is not None:
        return _equals_number(right, given, "," in gold, question)
    # Choice 4: no sum or product, unless it is the gold answer itself.
    if right.kind == "arithmetic" and given.kind == "arithmetic" and right.text != given.text:
        return 0.0
    is_settled_by_text = right.kind == "letter" or (right.kind == "words" and given.kind != "maths")
    if is_settled_by_text:
        return float(right.kind == given.kind and right.text == given.text)

    # What is printed alike is equal: most formulas end here, without algebra.
    if _printed_form(right.text) == _printed_form(given.text):
        return 1.0
    given_list = _list_key(given.text)
    if given_list and _list_key(right.text):
        return float(given_list == _list_key(right.text))
    # A range or an estimate is not an answer to compare.
    if _ESTIMATE.search(given.text):
        return 0.0
    # Nor is one that would only keep algebra busy.
    if is_too_large(given.text) and not is_too_large(right.text):
        return 0.0
    return None


_ESTIMATE = re.compile(r"\\(?:sim|approx)(?![a-z])|[~≈]|\.\.|\\[lc]?dots")


_MOST_WORDS = 20
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|[\u4e00-\u9fff]{2}")


def is_prose(gold: str) -> bool:
    """Whether a gold answer is an explanation, which no answer would equal.

    >>> is_prose("12 apples"), is_prose("First we add 3 and 4, " * 5 + "so that the sum is 7.")
    (False, True)
    """
    return len(gold) > 2 * _MOST_WORDS and len(_WORD.findall(gold)) > _MOST_WORDS


def is_constant(text: str) -> bool:
    """Whether a formula names no unknown, so that its value is a number.

    >>> is_constant("1+\\\\sqrt{2}"), is_constant("x+1")
    (True, False)
    """
    return not re.search(r"[A-Za-z]", _NOT_UNKNOWNS.sub("", normalize(text)))


def _equals_number(
    gold: Answer,
    given: Answer,
    may_be_a_list: bool,
    question: Any,
) -> float:
    """Choice 4: what is not one number is not equal to one."""
    assert gold.number is not None
    number = given.number
    if given.kind == "maths":
        number = read_power(given.text, prompt_of(question))
    if number is not None and _equal_numbers(gold.number, number):
        return 1.0
    # Choice 5: a gold answer with a comma may be a list.
    listed = _list_key(gold.text) if may_be_a_list else ""
    return float(bool(listed) and listed == _list_key(given.text))


def _equal_numbers(gold: Number, given: Number) -> bool:
    if gold.unit and given.unit and gold.unit != given.unit:
        return False
    decimals = max(gold.decimals, given.decimals)
    if gold.value is None or given.value is None:
        if gold.root is not None and given.root is not None:
            return gold.root == given.root
        # Choice 3: a decimal that is near enough to a root.
        return decimals >= 6 and _is_near(gold, given)
    if _is_close(gold.value, given.value, decimals):
        return True
    if gold.percent == given.percent:
        return False
    # Choice 2: 50% is 0.5 as well.
    percent, other = (gold, given) if gold.percent else (given, gold)
    assert percent.value is not None and other.value is not None
    return _is_close(Fraction(percent.value) / 100, other.value, other.decimals)


def _is_near(a: Number, b: Number) -> bool:
    try:
        left, right = a.approximate(), b.approximate()
    except OverflowError:
        return False
    return abs(left - right) <= 1e-6 * max(1.0, abs(right))


def _is_close(
    a: int | Fraction,
    b: int | Fraction,
    decimals: int,
) -> bool:
    return a == b or (decimals >= 6 and abs(a - b) <= Fraction(1, 10**6) * max(1, abs(b)))


def _list_key(text: str) -> str:
    """One key for `2, 1`, `1 \\text{ and } 2` and `{1,2}`; "" unless the text is a list of plain numbers."""
    without_commands = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip("{}\\ ")
    parts = re.split(r"\s*(?:,|;|\band\b|\bor\b|和|或)\s*", without_commands)
    values: list[str] = []
    for part in parts:
        if not part.strip():
            continue
        answer = parse(part)
        if answer.kind != "number":
            return ""
        values.append(str(answer.value))
    return ";".join(sorted(values)) if len(values) > 1 else ""


@lru_cache(maxsize=1 << 16)
def _printed_form(text: str) -> str:
    """Without what LaTeX does not print: spaces, braces around one character, sizes of fractions, upright text."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    # Spaces between digits stay: 4 2 is not 42.
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)
