"""Powers of whole numbers (`2^8`) and roots of sums of squares (`\\sqrt{6^2+8^2}`), where the gold answer is a number.

Many answers are written so, and no sum or product of a question can be copied in this shape. What a question asks
could be (the square of 6, a length), so none of the bases may stand in the question.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from r1pipe.rewards.one_number import Number

_NAME = re.compile(r"(?:[^\W\d]|\\[A-Za-z])[^,;<>+\-*/^|=]*=(?!=)\s*")
_POWER = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<base>\d{1,9})\s*(?:\^|\*\*)\s*(?:\{\s*(?P<e1>\d{1,4})\s*\}|(?P<e2>\d{1,4}))"
)
_SQUARE = r"\s*(?:\(\s*-?\s*\d{1,9}\s*\)|\d{1,9})\s*(?:\^|\*\*)\s*(?:\{\s*2\s*\}|2)\s*"
_LENGTH = re.compile(
    rf"\\?sqrt\s*(?:\{{(?P<s1>{_SQUARE}(?:\+{_SQUARE})+)\}}|\((?P<s2>{_SQUARE}(?:\+{_SQUARE})+)\))"
)
_BASES = re.compile(r"(\d+)\s*\)?\s*(?:\^|\*\*)")
_MAX_BITS = 4000


def read_power(text: str, question: str = "") -> Number | None:
    """The text, as `notation.normalize` returns it, as a number; None if it is something else, or copied.

    >>> read_power("2^8").value, read_power("\\\\sqrt{6^2+(-8)^2}").value, read_power("6^2", "What is 6 times 6?")
    (256, 10, None)
    """
    if "^" not in text and "**" not in text:
        return None
    name = _NAME.match(text)
    formula = text[name.end() :] if name else text
    number = _power(formula) or _length(formula)
    if number is None:
        return None
    asked = {int(digits) for digits in re.findall(r"\d{1,9}", question.replace(",", ""))}
    is_copied = any(int(base) in asked for base in _BASES.findall(formula))
    return None if is_copied else number


def _power(text: str) -> Number | None:
    power = _POWER.fullmatch(text)
    if power is None:
        return None
    base = int(power["base"])
    exponent = int(power["e1"] or power["e2"])
    # 42^1 is 42 that was not carried out.
    if base < 2 or exponent < 2 or base.bit_length() * exponent > _MAX_BITS:
        return None
    value = base**exponent
    return Number(-value if power["sign"] == "-" else value)


def _length(text: str) -> Number | None:
    """The length of a vector of whole numbers."""
    length = _LENGTH.fullmatch(text)
    if length is None:
        return None
    squares = sum(int(base) ** 2 for base in _BASES.findall(length["s1"] or length["s2"]))
    root = math.isqrt(squares)
    if root * root == squares:
        return Number(root)
    return Number(root=(1, Fraction(squares), 2, 0))
