"""What counts as one number: the only kind of answer to a question whose gold answer is a number.

An integer, decimal, fraction, mixed number, percent, a x 10^n, or a multiple of a root or of pi, with a name, an
equation or a unit around it. Sums, products and functions of numbers are not: they are what a question asks for, and a
policy would learn to copy it. Nor are a whole quotient (`84/2`) and the root of a square (`\\sqrt{16}`). For powers see
powers.py.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import NamedTuple

from r1pipe.rewards.multiples import read_multiple

_CURRENCY = r"(?:US)?\$|€|£|¥|₹|₽|\bUSD|\bRMB|\bRs\.?"
_UNIT = r"(?:[^\W\d_]+\.?(?:(?:\s+|/|\s*/\s*|-)[^\W\d_]+\.?){0,3}(?:\^?[23]|\^\{[23]\})?|[€£¥₹₽])"
# `-$1,234.5e3 % of it`: currency and sign, digits, exponent, percent sign, unit of up to four words.
_DECIMAL = re.compile(
    rf"""
    (?P<c1>{_CURRENCY})?\s*(?P<sign>[+-]?)\s*(?P<c2>{_CURRENCY})?\s*
    (?:(?P<whole>\d{{1,3}}(?:[,\ ]\d{{3}})+(?![\d,])|\d+)(?P<frac>\.\d*)?|(?P<bare>\.\d+))
    (?:[eE](?P<exp>[+-]?\d{{1,3}}))?
    (?:\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*(?:\^|\*\*)\s*(?:\{{\s*(?P<power1>[+-]?\d{{1,3}})\s*\}}|(?P<power2>[+-]?\d{{1,3}})))?
    \s*(?P<percent>%|percent\b)?
    (?P<unit>(?:(?<=[\d\s.%}}]){_UNIT})?)
    \s*[.!]?
    """,
    re.X,
)
# 3/4, 1 3/4, 1\frac{3}{4}, \frac34, -\frac{3}{4} \text{ cup}
_FRACTION = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?P<whole>\d+)(?:\s*(?=\\)|\s+(?=\d+\s*/)))?\s*"
    r"(?:\\frac\s*(?:\{\s*(?P<n1>[+-]?\d+)\s*\}|(?P<n2>\d))\s*(?:\{\s*(?P<d1>[+-]?\d+)\s*\}|(?P<d2>\d))"
    r"|(?P<n3>\d+)\s*/\s*(?P<d3>\d+))"
    rf"\s*(?P<percent>%)?(?P<unit>(?:\s*{_UNIT})?)\s*\.?"
)
# Words behind a number that make it another number or two; single letters could be variables.
_NOT_UNITS = """or and to plus minus times over pi e sqrt not x y z n k a b c d i squared cubed factorial mod divided
about than but maybe perhaps possibly probably either nor"""
# Units that may follow the digits directly (5kg); other letters there are variables (12r).
_ATTACHED_UNITS = (
    "m s g h l cm mm km kg mg ml hr hrs min mins sec ft in lb lbs oz mph kph am pm rd th st nd k"
)
# Our name of a unit -> its spellings.
_ALIASES = {
    "m": "m meter metre meters metres 米",
    "cm": "cm centimeter centimeters centimetre centimetres 厘米",
    "mm": "mm millimeter millimeters 毫米",
    "km": "km kilometer kilometers kilometre kilometres 千米 公里",
    "g": "g gram grams 克",
    "kg": "kg kilogram kilograms 千克 公斤",
    "mg": "mg milligram milligrams",
    "s": "s sec secs second seconds 秒",
    "min": "min mins minute minutes 分钟",
    "h": "h hr hrs hour hours 小时",
    "day": "day days 天",
    "week": "week weeks 周",
    "l": "l liter liters litre litres 升",
    "ml": "ml milliliter milliliters 毫升",
    "dollar": "$ us$ usd dollar dollars 美元",
    "cent": "cent cents 美分",
    "yuan": "¥ rmb yuan 元",
    "euro": "€ euro euros",
    "pound": "£",
}
_NOT_UNIT_WORDS = frozenset(_NOT_UNITS.split())
_ATTACHED_UNIT_WORDS = frozenset(_ATTACHED_UNITS.split())
_UNITS = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}
_EQUALS = re.compile(r"(?<![<>=!:])=(?!=)")
# What may stand before an equals sign: a name (`x`, `f(3)`, `\\angle ABC`, words) or a sum that was carried out. Any
# other formula makes an equation, which is an answer of another kind.
_ONE_SIDE = re.compile(r"(?!.*\([^()]*[A-Za-z])\s*(?:[^\W\d]|\\[A-Za-z])[^,;<>+\-*/^|]*|[^,;<>A-Za-z|]*")
_BRACKETS = {"(": ")", "[": "]"}
_DIGIT = re.compile(r"\d")


class Number(NamedTuple):
    """One number.

    Attributes:
        value: exact; None for an irrational one.
        root: of a multiple of a root or of pi: (sign, q, k, p) for sign * q^(1/k) * pi^p, with the least k.
        percent: whether a percent sign follows it; `value` is the number before it.
        unit: our name of its unit or currency; "" where there is none that we know.
        decimals: number of digits behind the decimal point.
        is_open: it was not carried out: a whole quotient, the root of a square.
    """

    value: int | Fraction | None = None
    root: tuple[int, Fraction, int, int] | None = None
    percent: bool = False
    unit: str = ""
    decimals: int = 0
    is_open: bool = False

    def approximate(self) -> float:
        """Raises: OverflowError."""
        if self.root is None:
            assert self.value is not None
            return float(self.value)
        sign, q, k, p = self.root
        return sign * float(q) ** (1 / k) * math.pi**p


def read_number(text: str) -> Number | None:
    """The text, as `notation.normalize` returns it, as one number; None if it is something else.

    Of an equation the last side counts, if no other side is another number.

    >>> read_number("x = 42").value, read_number("1 1/4 hours").value, read_number("12+30=42").value
    (42, Fraction(5, 4), 42)
    >>> read_number("12+30"), read_number("41=42"), read_number("84/2").is_open
    (None, None, True)
    """
    if len(text) >= 1000:
        return None
    sides = _EQUALS.split(text) if "=" in text else [text]
    number = _without_name(sides[-1].strip())
    if number is None or len(sides) == 1:
        return number
    for side in sides[:-1]:
        if not side.strip() or not _ONE_SIDE.fullmatch(side):
            return None
        other = _without_name(side.strip())
        if other is not None and (other.value, other.root) != (number.value, number.root):
            return None
    return number


def _without_name(text: str) -> Number | None:
    """The number, in brackets or not."""
    # (2,251) is a point.
    while text[:1] in _BRACKETS and text.endswith(_BRACKETS[text[:1]]) and "," not in text:
        text = text[1:-1].strip()
    # Nearly all texts that hold no number end here.
    if not _DIGIT.search(text) and "\\pi" not in text and text != "pi":
        return None
    return _decimal(text) or _fraction(text) or _multiple_of_a_root(text)


def _decimal(text: str) -> Number | None:
    match = _DECIMAL.fullmatch(text)
    if not match:
        return None
    unit = match["unit"]
    if unit and not _is_unit(text, unit, match.start("unit")):
        return None

    digits = (match["whole"] or "0").replace(",", "").replace(" ", "")
    decimals = (match["frac"] or match["bare"] or ".")[1:]
    value: int | Fraction
    if not decimals.strip("0"):
        value = int(digits)
    elif len(decimals) < 400:
        value = Fraction(f"{digits}.{decimals}")
    else:
        # Garbage, whose value nobody needs.
        value = Fraction(0)
    for exponent in (match["exp"], match["power1"] or match["power2"]):
        if exponent:
            value *= Fraction(10) ** int(exponent)
    if match["sign"] == "-":
        value = -value

    # A unit comes before a currency sign: what "$5 million" counts is not dollars.
    currency = match["c1"] or match["c2"] or ""
    return Number(
        value,
        percent=bool(match["percent"]),
        unit=_unit_name(unit or currency),
        decimals=len(decimals),
    )


def _unit_name(unit: str) -> str:
    return _UNITS.get(unit.lower().strip().rstrip("."), "")


def _is_unit(
    text: str,
    unit: str,
    start: int,
) -> bool:
    """Whether the words behind a number are a unit: `5 apples`, `5kg` and `5 km/h`, but not `5 or 6`, `5 x` or `5r`."""
    words = (
        re.sub(r"\^?\{?[23]\}?$", "", unit.lower().strip().rstrip("."))
        .replace("/", " ")
        .replace("-", " ")
        .split()
    )
    if any(word in _NOT_UNIT_WORDS for word in words):
        return False
    is_attached = not text[:start].endswith((" ", "%")) and unit[:1].isascii() and not unit[:1].isspace()
    is_letter = len(words[0]) == 1 and words[0].isascii()
    return words[0] in _ATTACHED_UNIT_WORDS if is_attached or is_letter else True


def _fraction(text: str) -> Number | None:
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    unit = match["unit"]
    if unit and not _is_unit(text, unit, match.start("unit")):
        return None
    numerator = int(match["n1"] or match["n2"] or match["n3"])
    denominator = int(match["d1"] or match["d2"] or match["d3"])
    if not denominator:
        return None
    value = Fraction(numerator, denominator)
    if match["whole"]:
        value += int(match["whole"])
    is_division = value.denominator == 1 and denominator != 1 and not match["whole"]
    return Number(
        -value if match["sign"] == "-" else value,
        percent=bool(match["percent"]),
        unit=_unit_name(unit),
        is_open=is_division,
    )


# --- multiples of a root and of pi ------------------------------------------------------------------------------------

_ROOT_UNIT = re.compile(rf"(?P<number>.*[\d)}}i])\s+(?P<unit>{_UNIT})")


def _multiple_of_a_root(text: str) -> Number | None:
    if "sqrt" not in text and "pi" not in text and "^" not in text and "frac" not in text:
        return None
    unit = ""
    with_unit = _ROOT_UNIT.fullmatch(text)
    if with_unit and _is_unit(text, with_unit["unit"], with_unit.start("unit")):
        text = with_unit["number"]
        unit = _unit_name(with_unit["unit"])
    multiple = read_multiple(text)
    if multiple is None:
        return None
    sign, q, k, p = multiple
    if k == 1 and p == 0:
        return Number(sign * q, unit=unit, is_open=True)
    return Number(root=multiple, unit=unit)
