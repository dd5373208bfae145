"""One spelling of what can be written in several ways: Unicode mathematics, LaTeX synonyms, wrappers of an answer."""

from __future__ import annotations

import re
import unicodedata

# Unicode variants of ASCII characters.
_DASHES = dict.fromkeys((0x2212, 0x2010, 0x2011, 0x2012, 0x2013, 0xFE63), "-")
_SPACES = dict.fromkeys((0x2009, 0x202F, 0x00A0, 0x3000, 0x2007), " ")
# Zero width and marks of direction: they print nothing.
INVISIBLE = dict.fromkeys(
    (0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF), ""
)
_SIGNS = {
    0x3001: ",",
    0x3002: ".",
    0x2044: "/",
    0x2215: "/",
    0x2032: "'",
    0xFFE5: "¥",
    0xFFE1: "£",
}
_FULL_WIDTH = {0xFF01 + i: chr(0x21 + i) for i in range(94)}
# Mathematical signs, as LaTeX.
_MATHS = {
    "×": r"\times ",
    "÷": r"\div ",
    "±": r"\pm ",
    "≤": r"\leq ",
    "⩽": r"\leq ",
    "≥": r"\geq ",
    "⩾": r"\geq ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "∞": r"\infty ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∅": r"\emptyset ",
    "∈": r"\in ",
    "∉": r"\notin ",
    "→": r"\to ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "⊥": r"\perp ",
    "∫": r"\int ",
    "∑": r"\sum ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℚ": r"\mathbb{Q}",
    "ℕ": r"\mathbb{N}",
    "ℂ": r"\mathbb{C}",
    "𝜋": r"\pi ",
}
_FRACTIONS = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"


class _Table(dict[int, str]):
    """For str.translate: what is listed, a digit of any script as an ASCII digit, other characters unchanged."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        is_digit = code > 127 and unicodedata.category(char) == "Nd"
        self[code] = str(unicodedata.digit(char)) if is_digit else char
        return self[code]


def _latex_fraction(char: str) -> str:
    numerator, denominator = unicodedata.normalize("NFKC", char).split("\u2044")
    return f"\\frac{{{numerator}}}{{{denominator}}}"


_TABLE = _Table(
    _DASHES
    | _SPACES
    | INVISIBLE
    | _SIGNS
    | _FULL_WIDTH
    | {ord(sign): latex for sign, latex in _MATHS.items()}
    | {ord(char): _latex_fraction(char) for char in _FRACTIONS}
)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n", strict=True))
_SUPERSCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_SUBSCRIPT_RUN = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOT = re.compile(r"([√∛∜])\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[A-Za-z]))?")
_DEGREE_OF_ROOT = {"√": "", "∛": "[3]", "∜": "[4]"}
# A Greek letter by itself is a name; several are a word.
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "θ": "theta", "λ": "lambda", "μ": "mu",
    "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ω": "omega", "Δ": "Delta", "Ω": "Omega",
}  # fmt: skip
_GREEK_LETTER = re.compile(f"(?<![\u0370-\u03ff])[{''.join(_GREEK)}](?![\u0370-\u03ff])")
# A dot between two factors; the one in 列奥纳多·达·芬奇 is not.
_DOT = re.compile(r"(?<=[\x21-\x7e])\s*[·⋅∙]\s*(?=[\x21-\x7e])")
# What one character alone does not decide.
_MATHEMATICAL = re.compile(
    f"[·⋅∙{''.join(_DEGREE_OF_ROOT)}{''.join(_SUPERSCRIPTS)}{''.join(_SUBSCRIPTS)}{''.join(_GREEK)}]"
)

# LaTeX commands with the same meaning -> the one that is kept.
_SYNONYMS = {
    "dfrac": "frac",
    "tfrac": "frac",
    "cfrac": "frac",
    "le": "leq",
    "leqslant": "leq",
    "leslant": "leq",
    "ge": "geq",
    "geqslant": "geq",
    "geslant": "geq",
    "ne": "neq",
    "varnothing": "emptyset",
    "infin": "infty",
    "lbrace": "{",
    "rbrace": "}",
    "displaystyle": "",
    "textstyle": "",
    "limits": "",
}
_SYNONYM = re.compile(rf"\\({'|'.join(sorted(_SYNONYMS, key=len, reverse=True))})(?![A-Za-z])")
_SIZES = re.compile(r"\\(?:[bB]igg?[lrm]?)(?![A-Za-z])")
# Between two words of LaTeX, signs of relation that are words there.
_RELATIONS = (("\\lt", "<"), ("\\gt", ">"))

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
_OPENS_A_WRAPPER = tuple("$\\*`\"“'「『{")
_SPACING = re.compile(r"\\[,;:! ]|\\quad|\\qquad|~|\\left(?![a-z])|\\right(?![a-z])")
_DEGREES = re.compile(r"\s*\^?\s*\{?\s*(?:\\circ|°|\\degree)\s*\}?")
_UNIT_TEXT = re.compile(r"(?:(?<=[\d}%])|(?<=/))(?:\\ |\s)*\\(?:text|mathrm|rm|mbox)\s*\{\s*([^{}\d]*)\s*\}")
# 12^{\text{th}}, 12^{th}, 12^\text{th}
_ORDINAL = re.compile(
    r"(?<=\d)\s*\^\s*\{?\s*(?:\\(?:text|mathrm|rm|mbox)\s*\{?)?\s*(st|nd|rd|th)\s*\}?\s*\}?"
)
_ORDINAL_TEXT = re.compile(r"(?<=\d)(st|nd|rd|th)(?:\\ |\s)*\\(?:text|mathrm|rm|mbox)\s*\{\s*([^{}\d]*)\s*\}")


def to_latex(text: str) -> str:
    """Unicode as ASCII and LaTeX, and one command for each meaning; the result means the same.

    >>> to_latex("3√13"), to_latex("x² ≥ 2½"), to_latex("１０π"), to_latex("\\\\dfrac12")
    ('3\\\\sqrt{13}', 'x^{2} \\\\geq  2\\\\frac{1}{2}', '10\\\\pi ', '\\\\frac12')
    """
    if not text.isascii():
        text = _from_unicode(text)
    if "\\" in text:
        text = _SYNONYM.sub(_kept_command, text)
        text = _SIZES.sub("", text)
        for command, sign in _RELATIONS:
            if command in text:
                text = re.sub(rf"\{command}(?![A-Za-z])", sign, text)
    return text


def _from_unicode(text: str) -> str:
    if not _MATHEMATICAL.search(text):
        return text.translate(_TABLE)
    text = _DOT.sub(r" \\cdot ", text)
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{{{''.join(map(_SUPERSCRIPTS.__getitem__, run[0]))}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: f"_{{{''.join(map(_SUBSCRIPTS.__getitem__, run[0]))}}}", text)
    text = text.translate(_TABLE)
    text = _GREEK_LETTER.sub(lambda letter: f"\\{_GREEK[letter[0]]} ", text)
    # From the innermost on: √(2√3).
    before = None
    while before != text and any(sign in text for sign in _DEGREE_OF_ROOT):
        before = text
        text = _ROOT.sub(_root, text)
    return text


def _root(root: re.Match[str]) -> str:
    sign, in_parentheses, in_braces, bare = root.groups()
    content = in_parentheses or in_braces or bare
    return f"\\sqrt{_DEGREE_OF_ROOT[sign]}{{{content}}}" if content else root[0]


def _kept_command(command: re.Match[str]) -> str:
    kept = _SYNONYMS[command[1]]
    return f"\\{kept}" if kept else ""


def normalize(text: str) -> str:
    """`to_latex`, without wrappers and spacing commands; the result means the same.

    >>> normalize("$\\\\text{(B)}$"), normalize("−１，０００。")
    ('(B)', '-1,000')
    """
    # 1{,}000 is LaTeX for a comma without a space behind it.
    text = to_latex(text).strip().replace("{,}", ",")
    if "\\" in text or "~" in text:
        text = _SPACING.sub(_printed_space, text)
        text = text.replace("\\$", "$ ").replace("\\%", "%")
        text = _UNIT_TEXT.sub(r" \1", text).replace("/ \\", "/\\").strip()
        text = _UNIT_TEXT.sub(r" \1", text)
    if "^" in text:
        text = _ORDINAL_TEXT.sub(r"\1 \2", _ORDINAL.sub(r"\1", text)).strip()
    if "°" in text or "circ" in text or "degree" in text:
        text = _DEGREES.sub("", text)

    # Wrappers may be nested, and taking one off may show another.
    before = None
    while before != text:
        before = text
        for wrapper in _WRAPPERS if text[:1] in _OPENS_A_WRAPPER else ():
            match = wrapper.fullmatch(text)
            if match:
                text = next(group for group in match.groups() if group is not None).strip()
        # The full stop of a sentence goes; that of "a.m." and of "..." stays.
        if text.endswith((".", " ")) and not text.endswith((".m.", "..")):
            text = text.rstrip(" .")
    return text


def _printed_space(spacing: re.Match[str]) -> str:
    return " " if spacing[0] in ("\\ ", "~", "\\quad", "\\qquad") else ""


# --- bounds -----------------------------------------------------------------------------------------------------------

# Beyond these an answer is not given to algebra, which would compute for as long as it may.
_MAX_DIGITS = 1000
_MAX_EXPONENT = 10_000
_MAX_FACTORIAL = 1000
_MAX_POWER_OF_A_SUM = 200
_MAX_DEPTH = 30
_FACTORIAL = re.compile(r"\^[^A-Za-z]*[)}\]]\s*!|(\d+)[\s)}\]]*!|![\s)}\]]*!")
_POWER = re.compile(
    r"([\d)}\]A-Za-z])\s*(?:\^|\*\*)\s*(?:\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}|\(([^()]*)\)|(\d+))"
)
_TOWER = re.compile(r"\d\s*(?:\^|\*\*)\s*\d+\s*(?:\^|\*\*)")


def is_too_large(text: str) -> bool:
    """Whether computing an answer (of at most 2,000 characters, as `normalize` returns it) could take for ever.

    >>> is_too_large("9^{9^{9}}"), is_too_large("10000000!"), is_too_large("2^{100}")
    (True, True, False)
    """
    if len(text) > _MAX_DIGITS and re.search(rf"\d{{{_MAX_DIGITS + 1}}}", text):
        return True
    if _depth(text) > _MAX_DEPTH:
        return True
    for factorial in _FACTORIAL.finditer(text) if "!" in text else ():
        if factorial[1] is None or len(factorial[1]) > 4 or int(factorial[1]) > _MAX_FACTORIAL:
            return True
    if "^" not in text and "**" not in text:
        return False
    if _TOWER.search(text):
        return True
    for power in _POWER.finditer(text):
        base, *exponents = power.groups()
        exponent = next(part for part in exponents if part is not None)
        limit = _MAX_POWER_OF_A_SUM if base == ")" else _MAX_EXPONENT
        if not base.isalpha() and _is_above(exponent, limit):
            return True
    return False


def _is_above(exponent: str, limit: int) -> bool:
    """Whether an exponent is a large number, or one that holds another power or a factorial of numbers."""
    plain = exponent.strip().lstrip("+-")
    if plain.isascii() and plain.isdigit():
        return len(plain) > 6 or int(plain) > limit
    has_letters = bool(re.search(r"(?<!\\)\b[A-Za-z]", plain))
    return ("^" in plain or "**" in plain or "!" in plain) and not has_letters


def _depth(text: str) -> int:
    deepest = depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "({[" else -1
        deepest = max(deepest, depth)
    return deepest


_BRACKETS = re.compile(r"[(){}\[\]]")
