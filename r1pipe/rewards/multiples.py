"""Multiples of a root and of pi, exactly: `\\frac{3\\sqrt{2}}{4}`, `2\\pi`, `5^{1/2}`."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|\\(?P<command>frac|sqrt|pi|cdot|times)(?![A-Za-z])|(?P<name>sqrt|pi)(?![A-Za-z])"
    r"|(?P<sign>[{}\[\]()^*/]))"
)
_MAX_ROOT = 12
_MAX_BITS = 4000


class _Parts:
    """A product that is read: its numbers, roots and powers of pi, above and below the line."""

    def __init__(self) -> None:
        self.numbers = 0
        self.roots = 0
        self.pis = 0
        # the product's sign is kept apart; its value is q^(1/k) * pi^p
        self.q = Fraction(1)
        self.k = 1
        self.p = 0

    def multiply(self, value: Fraction, root: int, power: int) -> None:
        """Multiply by value^(power/root); `power` is 1 or -1."""
        k = math.lcm(self.k, root)
        if k > _MAX_ROOT or value <= 0:
            raise ValueError
        self.q = self.q ** (k // self.k) * value ** (power * k // root)
        self.k = k
        if max(self.q.numerator.bit_length(), self.q.denominator.bit_length()) > _MAX_BITS:
            raise ValueError


class _Reader:
    """Reads a product of at most one number, one root and one pi, over such a product. Raises ValueError otherwise."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        place = 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if not match:
                raise ValueError
            name = match["command"] or match["name"]
            self.tokens.append(f"\\{name}" if name else match["number"] or match["sign"])
            place = match.end()
        self.place = 0
        self.parts = _Parts()

    def read(self) -> _Parts:
        self.product(1)
        if self.next() == "/":
            self.take("/")
            self.in_brackets(-1) if self.next() == "(" else self.factor(-1)
        if self.next():
            raise ValueError
        return self.parts

    def next(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, token: str | None = None) -> str:
        found = self.next()
        if not found or (token is not None and found != token):
            raise ValueError
        self.place += 1
        return found

    def product(self, power: int) -> None:
        """Factors, each of another kind than those before it."""
        before = (self.parts.numbers, self.parts.roots, self.parts.pis)
        self.factor(power)
        while self.next() not in ("", "/", ")", "}", "]"):
            if self.next() in ("*", "\\cdot", "\\times"):
                self.take()
            self.factor(power)
        after = (self.parts.numbers, self.parts.roots, self.parts.pis)
        if any(b - a > 1 for a, b in zip(before, after, strict=True)):
            raise ValueError

    def in_brackets(self, power: int) -> None:
        closing = {"(": ")", "{": "}"}[self.take()]
        self.product(power)
        self.take(closing)

    def factor(self, power: int) -> None:
        token = self.take()
        if token == "\\pi":
            self.parts.pis += 1
            self.parts.p += power
        elif token == "\\sqrt":
            self.root(power)
        elif token == "\\frac":
            # A fraction is one number beside a root: its own numbers are counted together.
            numbers = self.parts.numbers
            self.argument(power)
            self.argument(-power)
            self.parts.numbers = min(self.parts.numbers, numbers + 1)
        elif token[0].isdigit():
            self.number(token, power)
        else:
            raise ValueError

    def argument(self, power: int) -> None:
        """An argument of frac: a product in braces, or one digit."""
        if self.next() == "{":
            self.in_brackets(power)
            return
        digits = self.take()
        if not digits.isdigit():
            raise ValueError
        if len(digits) > 1:
            self.tokens.insert(self.place, digits[1:])
        self.number(digits[0], power)

    def root(self, power: int) -> None:
        """Behind the sign: [3]{5}, {5}, 5, (5), {3/5}, {\\frac{3}{5}}."""
        degree = 2
        if self.next() == "[":
            self.take()
            degree = int(self.take())
            self.take("]")
        if not 2 <= degree <= _MAX_ROOT:
            raise ValueError
        self.parts.roots += 1
        self.parts.multiply(self.radicand(), degree, power)

    def radicand(self) -> Fraction:
        opening = self.next()
        if opening not in ("{", "("):
            digits = self.take()
            if len(digits) > 1 and digits.isdigit():
                # \sqrt25 is the root of 2, and 5.
                raise ValueError
            return Fraction(digits)
        self.take()
        if self.next() == "\\frac":
            self.take()
            self.take("{")
            value = Fraction(self.take())
            self.take("}")
            self.take("{")
            value /= Fraction(self.take())
            self.take("}")
        else:
            value = Fraction(self.take())
            if self.next() == "/":
                self.take()
                value /= Fraction(self.take())
        self.take({"{": "}", "(": ")"}[opening])
        return value

    def number(self, digits: str, power: int) -> None:
        """A number, or a root that is written as a power: 5^{1/2}."""
        value = Fraction(digits)
        if self.next() != "^":
            self.parts.numbers += 1
            self.parts.multiply(value, 1, power)
            return
        self.take()
        exponent = Fraction(self.exponent())
        if exponent.numerator != 1 or exponent.denominator < 2:
            raise ValueError
        self.parts.roots += 1
        self.parts.multiply(value, exponent.denominator, power)

    def exponent(self) -> str:
        start = self.place
        opening = self.take()
        if opening not in ("{", "("):
            raise ValueError
        closing = {"{": "}", "(": ")"}[opening]
        if self.next() == "\\frac":
            texts = self.tokens[start + 2 : start + 8]
            if len(texts) < 6 or texts[0] + texts[2] + texts[3] + texts[5] != "{}{}":
                raise ValueError
            self.place = start + 8
            self.take(closing)
            return f"{texts[1]}/{texts[4]}"
        text = ""
        while self.next() != closing:
            text += self.take()
        self.take(closing)
        return text


def read_multiple(text: str) -> tuple[int, Fraction, int, int] | None:
    """A product of at most one number, one root and one pi, perhaps over another one; None for anything else.

    Returns:
        (sign, q, k, p) for sign * q^(1/k) * pi^p, with the least k.

    >>> read_multiple("\\\\frac{2}{\\\\sqrt{2}}"), read_multiple("\\\\sqrt{2}+1")
    ((1, Fraction(2, 1), 2, 0), None)
    """
    sign = -1 if text.startswith("-") else 1
    try:
        parts = _Reader(text.lstrip("+-")).read()
    except (ValueError, ZeroDivisionError, KeyError):
        return None
    if not parts.roots and not parts.pis:
        # A quotient of products of numbers.
        return None
    return (sign, *_least_root(parts.q, parts.k), parts.p)


def _least_root(q: Fraction, k: int) -> tuple[Fraction, int]:
    """q^(1/k) with the least k."""
    for divisor in (2, 3, 5, 7, 11):
        while k % divisor == 0:
            numerator = _exact_root(q.numerator, divisor)
            denominator = _exact_root(q.denominator, divisor)
            if numerator is None or denominator is None:
                break
            q = Fraction(numerator, denominator)
            k //= divisor
    return q, k


def _exact_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
    else:
        # Newton's iteration on whole numbers, from above.
        root = 1 << -(-value.bit_length() // degree)
        while True:
            nearer = ((degree - 1) * root + value // root ** (degree - 1)) // degree
            if nearer >= root:
                break
            root = nearer
    return root if root**degree == value else None
