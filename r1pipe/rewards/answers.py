"""Answers as strings: what kind each is, and whether two are equal, as far as this can be told without algebra.

Most answers are plain numbers, choice letters and words, and deciding these takes microseconds. `compare` says 1.0 or 0.0
where it is sure, None where only a computer algebra system can tell (r1pipe/rewards/symbolic.py).

Our choices, where a bare pair is ambiguous:
1. Units and currency signs are ignored unless both answers carry one that we know and they differ (5 kg is not 5 g).
2. A percent sign on one side only: `50%` equals both `50` and `0.5`.
3. Numbers are compared exactly, except that six or more decimals on either side allow 1e-6 (of the larger, if that is above 1).
4. An uncarried-out sum, product or whole quotient is not the answer to a numeric question: `12+30` is not `42`. Otherwise
   copying the question would be rewarded. Fractions, roots and powers are forms of a number and count.
5. `8,221` may be the number 8221 or the list 8, 221; each is accepted.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_TABLE = str.maketrans(
    {
        0x2212: "-",
        0x2010: "-",
        0x2011: "-",
        0x2012: "-",
        0x2013: "-",
        0xFE63: "-",
        0x2009: " ",
        0x202F: " ",
        0x00A0: " ",
        0x3000: " ",
        0x2007: " ",
    }
    | dict.fromkeys(
        (0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF), ""
    )  # no glyphs: direction, zero width
    | {0x3001: ",", 0x3002: ".", 0x2044: "/", 0x2032: "'", 0xFFE5: "¥", 0xFFE1: "£"}
    | {0xFF01 + i: chr(0x21 + i) for i in range(94)}  # full-width forms of ASCII
)
_WRAPPERS = [
    re.compile(pattern, re.S)
    for pattern in (
        r"\$\$(.*)\$\$|\$([^$]*)\$|\\\((.*)\\\)|\\\[(.*)\\\]",
        r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|boldsymbol|mbox|operatorname|boxed|fbox|textnormal)\s*\{([^{}]*)\}",
        r"\*\*(.*)\*\*|\*([^*]*)\*|`([^`]*)`|\"([^\"]*)\"|“([^”]*)”|'([^']*)'|「(.*)」|『(.*)』|\{([^{},]*)\}",
    )
]
_SPACING = re.compile(r"\\[,;:! ]|\\quad|\\qquad|~|\\left(?![a-z])|\\right(?![a-z])")
_DEGREES = re.compile(r"\s*\^?\s*\{?\s*(?:\\circ|°|\\degree)\s*\}?")
_UNIT_TEXT = re.compile(r"(?<=[\d}%])(?:\\ |\s)*\\(?:text|mathrm|rm|mbox)\s*\{\s*([^{}\d]*)\s*\}")

_CURRENCY = r"(?:US)?\$|€|£|¥|₹|₽|\bUSD|\bRMB|\bRs\.?"
_NUMBER = re.compile(
    rf"""(?P<var>[A-Za-z]\w{{0,12}}\s*=\s*)?(?P<c1>{_CURRENCY})?\s*(?P<sign>[+-]?)\s*(?P<c2>{_CURRENCY})?\s*
    (?:(?P<whole>\d{{1,3}}(?:[,\ ]\d{{3}})+(?![\d,])|\d+)(?P<frac>\.\d*)?|(?P<bare>\.\d+))(?:[eE](?P<exp>[+-]?\d{{1,3}}))?\s*(?P<percent>%|percent\b)?
    (?P<unit>(?:(?<=[\d\s.%])[^\W\d_]+\.?(?:(?:\s+|/|\s*/\s*|-)[^\W\d_]+\.?){{0,3}}(?:\^?[23])?|[€£¥₹₽])?)\s*[.!]?""",
    re.X,
)
_FRACTION = re.compile(
    r"(?:[A-Za-z]\w{0,12}\s*=\s*)?(?P<sign>[+-]?)\s*(?:(?P<whole>\d+)\s*(?=\\))?\s*"
    r"(?:\\[dtc]?frac\s*(?:\{\s*(?P<n1>[+-]?\d+)\s*\}|(?P<n2>\d))\s*(?:\{\s*(?P<d1>[+-]?\d+)\s*\}|(?P<d2>\d))|(?P<n3>\d+)\s*/\s*(?P<d3>\d+))\s*(?P<percent>%)?\.?"
)
_LETTER = re.compile(r"[(\[]?\s*([A-J])\s*[)\]]?\s*(?:$|[.:]\s*(.*)$|(?<=[)\]])\s*(.*)$)", re.S)
_SECOND_LETTER = re.compile(r"(?:^|\bor\b|\band\b|[,/;&(\[|或和])\s*[(\[]?[A-J]\b")
_ARITHMETIC = re.compile(r"[\d\s.,()\[\]{}$+\-*/×÷·]*|")
_OPERATOR = re.compile(r"[\d)\]}]\s*[+\-*/×÷·]\s*[\d(\[{+-]")
_WORDY = re.compile(r"[^\d\\^_{}=<>+*/|~≤≥≠√π∞∈∪∩]*")
# Words behind a number that make it another number or two; single letters could be variables.
_NOT_UNITS = frozenset(
    re.findall(
        r"\w+",
        "or and to plus minus times over pi e sqrt not x y z n k a b c d i squared cubed factorial mod divided about than",
    )
)
# Units that stand right behind the digits (5kg); other letters there are variables (12r).
_ATTACHED = frozenset(
    re.findall(r"\w+", "m s g h l cm mm km kg mg ml hr hrs min mins sec ft in lb lbs oz mph kph am pm rd th st nd k")
)
_ALIASES = {
    "m": "m meter metre meters metres 米", "cm": "cm centimeter centimeters centimetre centimetres 厘米", "mm": "mm millimeter millimeters 毫米",
    "km": "km kilometer kilometers kilometre kilometres 千米 公里", "g": "g gram grams 克", "kg": "kg kilogram kilograms 千克 公斤",
    "mg": "mg milligram milligrams", "s": "s sec secs second seconds 秒", "min": "min mins minute minutes 分钟", "h": "h hr hrs hour hours 小时",
    "day": "day days 天", "week": "week weeks 周", "l": "l liter liters litre litres 升", "ml": "ml milliliter milliliters 毫升",
    "dollar": "$ us$ usd dollar dollars 美元", "cent": "cent cents 美分", "yuan": "¥ rmb yuan 元", "euro": "€ euro euros", "pound": "£",
}  # fmt: skip
_UNITS = {alias: name for name, aliases in _ALIASES.items() for alias in aliases.split()}


class Answer(NamedTuple):
    """An answer string and what it is."""

    kind: str  # number, letter, words, arithmetic, maths, or broken (nothing there, or braces that do not match)
    text: str  # normalised
    value: int | Fraction | None = None
    percent: bool = False
    unit: str = ""
    decimals: int = 0


def normalize(text: str) -> str:
    """Unicode variants to ASCII, wrappers and spacing commands off; what is left means the same.

    >>> normalize("$\\\\text{(B)}$"), normalize("−１，０００。")
    ('(B)', '-1,000')
    """
    if not text.isascii():
        text = "".join(
            c if c.isascii() or unicodedata.category(c) != "Nd" else str(unicodedata.digit(c))
            for c in text.translate(_TABLE)
        )
    text = text.strip().replace("{,}", ",")
    if "\\" in text or "~" in text:
        text = (
            _SPACING.sub(lambda m: " " if m[0] in ("\\ ", "~", "\\quad", "\\qquad") else "", text)
            .replace("\\$", "$ ")
            .replace("\\%", "%")
        )
        text = _UNIT_TEXT.sub(r" \1", text).strip()
    text = _DEGREES.sub("", text)
    before = None
    while before != text:
        before = text
        for wrapper in _WRAPPERS:
            if match := wrapper.fullmatch(text):
                text = next(group for group in match.groups() if group is not None).strip()
        text = text.rstrip(" .") if text.endswith((".", " ")) and not text.endswith((".m.", "..")) else text
    return text


def _number(text: str) -> Answer | None:
    match = _NUMBER.fullmatch(text)
    if not match:
        return None
    whole, decimals, exponent = match["whole"] or "0", (match["frac"] or match["bare"] or ".")[1:], match["exp"]
    unit = match["unit"]
    if unit:
        words = unit.lower().rstrip(".^23").replace("/", " ").replace("-", " ").split()
        attached = not text[: match.start("unit")].endswith((" ", "%")) and unit[:1].isascii()
        short = attached or (len(words[0]) == 1 and words[0].isascii())
        if any(word in _NOT_UNITS for word in words) or (short and words[0] not in _ATTACHED):
            return None
    digits = whole.replace(",", "").replace(" ", "")
    value: int | Fraction = (
        int(digits)
        if not decimals.strip("0")
        else Fraction(f"{digits}.{decimals}")
        if len(decimals) < 400
        else Fraction(0)
    )
    if exponent:
        value *= Fraction(10) ** int(exponent)
    currency = (match["c1"] or match["c2"] or "").lower()
    known = _UNITS.get((unit or currency).lower().rstrip("."), "")
    return Answer(
        "number", text, -value if match["sign"] == "-" else value, bool(match["percent"]), known, len(decimals)
    )


def _fraction(text: str) -> Answer | None:
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    top, bottom = int(match["n1"] or match["n2"] or match["n3"]), int(match["d1"] or match["d2"] or match["d3"])
    if not bottom:
        return None
    value = Fraction(top, bottom) + int(match["whole"] or 0)
    # An exact quotient is a division that was not carried out (choice 4).
    kind = "arithmetic" if value.denominator == 1 and bottom != 1 and not match["whole"] else "number"
    return Answer(kind, text, -value if match["sign"] == "-" else value, bool(match["percent"]))


@lru_cache(maxsize=1 << 16)
def parse(text: str) -> Answer:
    """The one place where an answer string is understood.

    >>> parse("$1,250").value, parse("\\\\frac{17}{4}").value, parse("(B)").kind, parse("12+30").kind, parse("x^2").kind
    (1250, Fraction(17, 4), 'letter', 'arithmetic', 'maths')
    """
    plain = text.strip()
    if plain.isdecimal() and plain.isascii() and len(plain) < 1000:  # by far the most frequent
        return Answer("number", plain, int(plain))
    if len(text) > 2000 or not (plain := normalize(text)) or not _balanced(plain):
        return Answer("broken", plain[:2000])
    if (found := _LETTER.fullmatch(plain)) and not _SECOND_LETTER.search(found[2] or found[3] or ""):
        return Answer("letter", found[1])
    if len(plain) < 1000 and (found := _number(plain) or _fraction(plain)):
        return found
    if _WORDY.fullmatch(plain) and len(plain.strip("()[],;:!?.-")) > 1 or (len(plain) == 1 and not plain.isascii()):
        return Answer("words", words_key(plain))
    spelled = re.sub(r"\\(?:times|cdot|div)(?![a-z])", "*", plain)
    if _ARITHMETIC.fullmatch(spelled) and _OPERATOR.search(spelled):
        return Answer("arithmetic", plain)
    return Answer("maths", plain)


def words_key(text: str) -> str:
    """Words as they are compared: no case, no outer punctuation, single spaces."""
    return " ".join(text.casefold().split()).strip(" .!?:;,'\"()[]")


def _balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0


def _equal_numbers(gold: Answer, found: Answer) -> bool:
    assert gold.value is not None and found.value is not None
    if gold.unit and found.unit and gold.unit != found.unit:
        return False
    if _close(gold.value, found.value, max(gold.decimals, found.decimals)):
        return True
    if gold.percent == found.percent:
        return False
    percent, other = (gold, found) if gold.percent else (found, gold)
    assert percent.value is not None and other.value is not None
    return _close(Fraction(percent.value) / 100, other.value, other.decimals)


def _close(a: int | Fraction, b: int | Fraction, decimals: int) -> bool:
    return a == b or (decimals >= 6 and abs(a - b) <= Fraction(1, 10**6) * max(1, abs(b)))


def _listed(text: str) -> str:
    """`2, 1` and `1 \\text{ and } 2` and `{1,2}` as one key, if every part is a plain number."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).strip("{}\\ ")
    parts = [parse(part) for part in re.split(r"\s*(?:,|;|\band\b|\bor\b|和|或)\s*", text) if part.strip()]
    return (
        ";".join(sorted(str(part.value) for part in parts))
        if len(parts) > 1 and all(part.kind == "number" for part in parts)
        else ""
    )


@lru_cache(maxsize=1 << 16)
def _tight(text: str) -> str:
    """Without what LaTeX does not print: spaces, braces around one character, the size of a fraction, text's upright shape."""
    text = re.sub(r"\\[dtc]frac", r"\\frac", re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text))
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text))  # 4 2 is not 42


def compare(gold: str, found: str) -> float | None:
    """1.0 equal, 0.0 not, None where algebra must decide. `parse(gold)` must not be broken.

    >>> compare("1000", "1,000 apples"), compare("42", "12+30"), compare("B", "(B) 7"), compare("2x", "x+x") is None
    (1.0, 0.0, 1.0, True)
    """
    if found == gold:
        return 1.0
    right, given = parse(gold), parse(found)
    if given.kind == "broken":
        return 0.0
    if right.kind == "number" and given.kind == "number":
        if _equal_numbers(right, given):
            return 1.0
        return float("," in gold and bool(listed := _listed(right.text)) and listed == _listed(given.text))
    if right.kind in ("number", "arithmetic") and given.kind == "arithmetic" and right.text != given.text:
        return 0.0
    if (
        right.kind == "letter"
        or (right.kind == "words" and given.kind != "maths")
        or (right.kind == "number" and given.kind in ("words", "letter"))
    ):
        return float(right.kind == given.kind and right.text == given.text)
    if _tight(right.text) == _tight(given.text):
        return 1.0
    listed = _listed(given.text)
    if listed and (right.kind == "number" or _listed(right.text)):
        return float(listed == _listed(right.text))
    if re.search(
        r"\\(?:sim|approx)(?![a-z])|[~≈]|\.\.|\\[lc]?dots", given.text
    ):  # a range or an estimate is no answer to compare
        return 0.0
    return None
