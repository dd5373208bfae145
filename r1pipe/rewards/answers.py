"""Answers as strings: the kind of each, and whether two are equal, as far as that can be decided without algebra.

Most answers are plain numbers, choice letters and words, and deciding these takes microseconds. `compare` returns 1.0
or 0.0 where it is sure, and None where only a computer algebra system can decide (r1pipe/rewards/symbolic.py).

Our choices, where a bare pair is ambiguous:
1. Units and currency signs are ignored unless both answers carry one that we know and they differ (5 kg is not 5 g).
2. A percent sign on one side only: `50%` equals both `50` and `0.5`.
3. Numbers are compared exactly, except that six or more decimals on either side allow 1e-6 (of the larger, if that is
   above 1).
4. A sum, product or whole quotient that was not carried out is not the answer to a numeric question: `12+30` is not
   `42`. Otherwise copying the question would be rewarded. Fractions, roots and powers are forms of a number and count.
5. `8,221` may be the number 8221 or the list 8, 221; each is accepted.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

# Unicode variants of ASCII characters.
_DASHES = dict.fromkeys((0x2212, 0x2010, 0x2011, 0x2012, 0x2013, 0xFE63), "-")
_SPACES = dict.fromkeys((0x2009, 0x202F, 0x00A0, 0x3000, 0x2007), " ")
# Zero width and marks of direction: they print nothing.
_INVISIBLE = dict.fromkeys(
    (0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF), ""
)
_SIGNS = {
    0x3001: ",",
    0x3002: ".",
    0x2044: "/",
    0x2032: "'",
    0xFFE5: "¥",
    0xFFE1: "£",
}
_FULL_WIDTH = {0xFF01 + i: chr(0x21 + i) for i in range(94)}
_TABLE = str.maketrans(_DASHES | _SPACES | _INVISIBLE | _SIGNS | _FULL_WIDTH)

# What may be wrapped around an answer without changing it: formula marks, LaTeX text commands, bold face and quotes.
_WRAPPERS = [
    re.compile(r"\$\$(.*)\$\$|\$([^$]*)\$|\\\((.*)\\\)|\\\[(.*)\\\]", re.S),
    re.compile(
        r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|boldsymbol|mbox|operatorname|boxed|fbox|textnormal)\s*"
        r"\{([^{}]*)\}",
        re.S,
    ),
    re.compile(
        r"\*\*(.*)\*\*|\*([^*]*)\*|`([^`]*)`|\"([^\"]*)\"|“([^”]*)”|'([^']*)'|「(.*)」|『(.*)』|\{([^{},]*)\}",
        re.S,
    ),
]
_SPACING = re.compile(r"\\[,;:! ]|\\quad|\\qquad|~|\\left(?![a-z])|\\right(?![a-z])")
_DEGREES = re.compile(r"\s*\^?\s*\{?\s*(?:\\circ|°|\\degree)\s*\}?")
_UNIT_TEXT = re.compile(r"(?<=[\d}%])(?:\\ |\s)*\\(?:text|mathrm|rm|mbox)\s*\{\s*([^{}\d]*)\s*\}")

_CURRENCY = r"(?:US)?\$|€|£|¥|₹|₽|\bUSD|\bRMB|\bRs\.?"
# `x = -$1,234.5e3 % of it`: variable, currency and sign, digits, exponent, percent sign, unit of up to four words.
_NUMBER = re.compile(
    rf"""
    (?P<var>[A-Za-z]\w{{0,12}}\s*=\s*)?
    (?P<c1>{_CURRENCY})?\s*(?P<sign>[+-]?)\s*(?P<c2>{_CURRENCY})?\s*
    (?:(?P<whole>\d{{1,3}}(?:[,\ ]\d{{3}})+(?![\d,])|\d+)(?P<frac>\.\d*)?|(?P<bare>\.\d+))
    (?:[eE](?P<exp>[+-]?\d{{1,3}}))?\s*
    (?P<percent>%|percent\b)?
    (?P<unit>(?:(?<=[\d\s.%])[^\W\d_]+\.?(?:(?:\s+|/|\s*/\s*|-)[^\W\d_]+\.?){{0,3}}(?:\^?[23])?|[€£¥₹₽])?)
    \s*[.!]?
    """,
    re.X,
)
_FRACTION = re.compile(
    r"(?:[A-Za-z]\w{0,12}\s*=\s*)?(?P<sign>[+-]?)\s*(?:(?P<whole>\d+)\s*(?=\\))?\s*"
    r"(?:\\[dtc]?frac\s*(?:\{\s*(?P<n1>[+-]?\d+)\s*\}|(?P<n2>\d))\s*(?:\{\s*(?P<d1>[+-]?\d+)\s*\}|(?P<d2>\d))"
    r"|(?P<n3>\d+)\s*/\s*(?P<d3>\d+))"
    r"\s*(?P<percent>%)?\.?"
)
# "B", "(B)", "B. the second one": a choice letter, and the text behind it.
_LETTER = re.compile(r"[(\[]?\s*([A-J])\s*[)\]]?\s*(?:$|[.:]\s*(.*)$|(?<=[)\]])\s*(.*)$)", re.S)
# "A or B" names two choices and is an answer to neither.
_SECOND_LETTER = re.compile(r"(?:^|\bor\b|\band\b|[,/;&(\[|或和])\s*[(\[]?[A-J]\b")
_ARITHMETIC = re.compile(r"[\d\s.,()\[\]{}$+\-*/×÷·]*|")
_OPERATOR = re.compile(r"[\d)\]}]\s*[+\-*/×÷·]\s*[\d(\[{+-]")
# No character that could belong to a formula.
_WORDY = re.compile(r"[^\d\\^_{}=<>+*/|~≤≥≠√π∞∈∪∩]*")
# Words behind a number that make it another number or two; single letters could be variables.
_NOT_UNITS = """or and to plus minus times over pi e sqrt not x y z n k a b c d i squared cubed factorial mod divided
about than"""
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


class Answer(NamedTuple):
    """An answer string, understood.

    Attributes:
        kind: number, letter, words, arithmetic, maths, or broken (empty, too long, or with braces that do not match).
        text: the normalised string.
        value: of a number, exact.
        percent: whether a percent sign follows the number; `value` is the number before it.
        unit: our name of the number's unit or currency; "" where there is none that we know.
        decimals: number of digits behind the decimal point.
    """

    kind: str
    text: str
    value: int | Fraction | None = None
    percent: bool = False
    unit: str = ""
    decimals: int = 0


def normalize(text: str) -> str:
    """Unicode variants as ASCII, without wrappers and spacing commands; the result means the same.

    >>> normalize("$\\\\text{(B)}$"), normalize("−１，０００。")
    ('(B)', '-1,000')
    """
    if not text.isascii():
        text = "".join(_ascii_digit(char) for char in text.translate(_TABLE))
    # 1{,}000 is LaTeX for a comma without a space behind it.
    text = text.strip().replace("{,}", ",")
    if "\\" in text or "~" in text:
        text = _SPACING.sub(_printed_space, text)
        text = text.replace("\\$", "$ ").replace("\\%", "%")
        text = _UNIT_TEXT.sub(r" \1", text).strip()
    text = _DEGREES.sub("", text)

    # Wrappers may be nested, and taking one off may show another.
    before = None
    while before != text:
        before = text
        for wrapper in _WRAPPERS:
            match = wrapper.fullmatch(text)
            if match:
                text = next(group for group in match.groups() if group is not None).strip()
        # The full stop of a sentence goes; that of "a.m." and of "..." stays.
        if text.endswith((".", " ")) and not text.endswith((".m.", "..")):
            text = text.rstrip(" .")
    return text


def _ascii_digit(char: str) -> str:
    """A digit of any script as an ASCII digit; other characters unchanged."""
    if char.isascii() or unicodedata.category(char) != "Nd":
        return char
    return str(unicodedata.digit(char))


def _printed_space(spacing: re.Match[str]) -> str:
    return " " if spacing[0] in ("\\ ", "~", "\\quad", "\\qquad") else ""


def _number(text: str) -> Answer | None:
    """The text as a plain number with an optional currency sign, percent sign or unit; None if it is something else."""
    match = _NUMBER.fullmatch(text)
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
    if match["exp"]:
        value *= Fraction(10) ** int(match["exp"])
    if match["sign"] == "-":
        value = -value

    # A unit comes before a currency sign: what "$5 million" counts is not dollars.
    currency = (match["c1"] or match["c2"] or "").lower()
    unit_name = _UNITS.get((unit or currency).lower().rstrip("."), "")
    return Answer(
        "number",
        text,
        value,
        bool(match["percent"]),
        unit_name,
        len(decimals),
    )


def _is_unit(
    text: str,
    unit: str,
    start: int,
) -> bool:
    """Whether the words behind a number are a unit: `5 apples`, `5kg` and `5 km/h`, but not `5 or 6`, `5 x` or `5r`."""
    words = unit.lower().rstrip(".^23").replace("/", " ").replace("-", " ").split()
    if any(word in _NOT_UNIT_WORDS for word in words):
        return False
    is_attached = not text[:start].endswith((" ", "%")) and unit[:1].isascii()
    is_letter = len(words[0]) == 1 and words[0].isascii()
    return words[0] in _ATTACHED_UNIT_WORDS if is_attached or is_letter else True


def _fraction(text: str) -> Answer | None:
    """The text as a fraction or mixed number; None if it is something else."""
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    numerator = int(match["n1"] or match["n2"] or match["n3"])
    denominator = int(match["d1"] or match["d2"] or match["d3"])
    if not denominator:
        return None
    value = Fraction(numerator, denominator) + int(match["whole"] or 0)
    # A whole quotient is a division that was not carried out (choice 4).
    is_division = value.denominator == 1 and denominator != 1 and not match["whole"]
    kind = "arithmetic" if is_division else "number"
    return Answer(kind, text, -value if match["sign"] == "-" else value, bool(match["percent"]))


@lru_cache(maxsize=1 << 16)
def parse(text: str) -> Answer:
    """Understand an answer string; everything else here works on the result.

    >>> parse("$1,250").value, parse("\\\\frac{17}{4}").value, parse("(B)").kind, parse("12+30").kind, parse("x^2").kind
    (1250, Fraction(17, 4), 'letter', 'arithmetic', 'maths')
    """
    plain = text.strip()
    # By far the most frequent case: digits only.
    if plain.isdecimal() and plain.isascii() and len(plain) < 1000:
        return Answer("number", plain, int(plain))
    if len(text) > 2000:
        return Answer("broken", plain[:2000])
    plain = normalize(text)
    if not plain or not _is_balanced(plain):
        return Answer("broken", plain[:2000])

    # Letters first: "A" would be words as well, and "B. 7" is the choice B and not the number 7.
    letter = _LETTER.fullmatch(plain)
    if letter and not _SECOND_LETTER.search(letter[2] or letter[3] or ""):
        return Answer("letter", letter[1])
    # Numbers of 1000 characters and more are left to algebra.
    if len(plain) < 1000:
        number = _number(plain) or _fraction(plain)
        if number:
            return number
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
    depth = 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0


def compare(gold: str, answer: str) -> float | None:
    """1.0 equal, 0.0 not, None where algebra must decide. The gold answer must not be broken.

    >>> compare("1000", "1,000 apples"), compare("42", "12+30"), compare("B", "(B) 7"), compare("2x", "x+x") is None
    (1.0, 0.0, 1.0, True)
    """
    if answer == gold:
        return 1.0
    right = parse(gold)
    given = parse(answer)
    if given.kind == "broken":
        return 0.0

    if right.kind == "number" and given.kind == "number":
        if _equal_numbers(right, given):
            return 1.0
        # Choice 5: a gold answer with a comma may be a list.
        listed = _list_key(right.text) if "," in gold else ""
        return float(bool(listed) and listed == _list_key(given.text))
    # Choice 4: no sum or product, unless it is the gold answer itself.
    if right.kind in ("number", "arithmetic") and given.kind == "arithmetic" and right.text != given.text:
        return 0.0
    is_settled_by_text = (
        right.kind == "letter"
        or (right.kind == "words" and given.kind != "maths")
        or (right.kind == "number" and given.kind in ("words", "letter"))
    )
    if is_settled_by_text:
        return float(right.kind == given.kind and right.text == given.text)

    # What is printed alike is equal: most formulas end here, without algebra.
    if _printed_form(right.text) == _printed_form(given.text):
        return 1.0
    given_list = _list_key(given.text)
    if given_list and (right.kind == "number" or _list_key(right.text)):
        return float(given_list == _list_key(right.text))
    # A range or an estimate is not an answer to compare.
    if re.search(r"\\(?:sim|approx)(?![a-z])|[~≈]|\.\.|\\[lc]?dots", given.text):
        return 0.0
    return None


def _equal_numbers(gold: Answer, given: Answer) -> bool:
    assert gold.value is not None and given.value is not None
    if gold.unit and given.unit and gold.unit != given.unit:
        return False
    if _is_close(gold.value, given.value, max(gold.decimals, given.decimals)):
        return True
    if gold.percent == given.percent:
        return False
    # Choice 2: 50% is 0.5 as well.
    percent, other = (gold, given) if gold.percent else (given, gold)
    assert percent.value is not None and other.value is not None
    return _is_close(Fraction(percent.value) / 100, other.value, other.decimals)


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
    answers = [parse(part) for part in parts if part.strip()]
    if len(answers) < 2 or any(answer.kind != "number" for answer in answers):
        return ""
    return ";".join(sorted(str(answer.value) for answer in answers))


@lru_cache(maxsize=1 << 16)
def _printed_form(text: str) -> str:
    """Without what LaTeX does not print: spaces, braces around one character, sizes of fractions, upright text."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    # Spaces between digits stay: 4 2 is not 42.
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    return re.sub(r"\{(\w)\}", r"\1", text)
