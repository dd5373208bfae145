"""Where an answer stands in a text: in a box, in tags or in the closing words; the same rules inside as outside.

A text that offers several answers gives none: `41 or 42`, `(B) or possibly C`. So does one that denies its last one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from r1pipe.rewards.answers import SECOND_LETTER, parse, words_key
from r1pipe.rewards.texts import ANSWER_TAGS, after_thinking

EXTRACT = ("boxed", "tags", "last")

_BRACES = re.compile(r"[{}]")
_BOX = re.compile(r"\\f?boxed\s*+(\{|(?=\w))")
_SIMPLE_BOX = re.compile(r"\\f?boxed\s*\{([^{}]*)\}")
# What may stand between two boxes that are parts of one answer.
_JOINS = re.compile(r"\s*\$?\s*(?:,|;|and|or|和|或|、|，)?\s*(?:and|or)?\s*\$?\s*", re.S)
# The first alternative is a number by itself, also `70 000`, `2½`, `1 1/4`; the second one may follow a digit, bracket
# or operator directly (12+7=19).
_NUMBERS = re.compile(
    r"(?<![\w.,])[-−+]?[$€£¥₹￥]?\s?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?![\d,/])|\d+)"
    r"(?:\.\d+)?(?:[eE][+-]?\d+)?(?:\s\d+/\d+(?![\d/])|\s?[½⅓⅔¼¾⅕-⅞]|/\d+(?!\d*[/.]\d))?%?"
    r"|(?<=[\d)\]=*/+×÷])[-−]?\d[\d,]*(?:\.\d+)?%?|[-−]?\d+(?:,\d{3})*(?:\.\d+)?%?|[½⅓⅔¼¾⅕-⅞]"
)
_TO_THE_LAST_DIGIT = re.compile(r".*[\d½⅓⅔¼¾⅕-⅞]", re.S)
_TO_TWO_LETTERS = re.compile(r".*?[^\W\d_]{2}", re.S)
_NEAR = 60
# GSM8K's mark of the final answer; what follows the number is not looked at.
_HASHES = "####"

# "The answer is (B)", "故选 B": a letter that the text calls its answer comes before any other letter.
_MARKED_LETTER = re.compile(
    r"(?:answer|option|choice|答案|选项|选择|选|应选|故选)\W{0,6}(?:is|was|:|是|为)?\W{0,8}\(?([A-J])(?![\w'])",
    re.I,
)
# "A dog" is an article, not a choice: a letter before a lower-case word does not count.
_LETTERS = re.compile(r"(?<![A-Za-z0-9_'])([A-J])(?![A-Za-z0-9_'])(?!\s+[a-z])")
_BEHIND_A_LETTER = re.compile(r"[\s)\].*$}]*")
_INLINE_MATH = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")

# What a number may be written as besides digits: a formula, a fraction, a x 10^n.
_FORMULA = re.compile(
    r"\$[^$\n]+\$|\\\(.+?\\\)"
    r"|(?:(?<![\w)\]}])[-−])?(?:\d+\s*)?\\[dt]?frac\s*(?:\{\s*\d+\s*\}|\d)\s*(?:\{\s*\d+\s*\}|\d)"
    r"|(?:(?<![\w)\]}])[-−])?\d+(?:\.\d+)?\s*(?:×|\\times|\\cdot)\s*10\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d+)"
)
_BEFORE_A_LAST_PART = ("{", "^", "frac", "^{-", "^-")

# Before the gold words these deny them or offer them as one of several.
_HEDGES = ("not", "no", "isn't", "or", "and", "nor", "never", "不", "非", "没", "或", "和", "不是", "并非")
_CHINESE_HEDGES = tuple(hedge for hedge in _HEDGES if not hedge.isascii())
# Before a number these deny it, or make it one of several.
_DENIES = re.compile(r"(?:\b(?:not|isn't|never|nor|n't)|不是|并非|不等于)\s*(?:[$€£¥₹￥]\s*)?$", re.I)
_OFFERS = re.compile(
    r"\d%?\W{0,3}(?:\b(?:or|maybe|possibly|perhaps|alternatively)\b|或者?|也许|可能)"
    r"(?:\s*(?:maybe|possibly|perhaps|even|是|许))*\W{0,3}$",
    re.I,
)
# In a box or tags several numbers need a word or sign that says which of them is the answer.
_SAYS = re.compile(
    r"(?:=|:|：|\b(?:is|are|be|was|equals?|has|have|gets?|left|total|makes|leaves|costs?|pays?|so|thus|therefore)|是|为|有"
    r"|等于|得|剩|共)\s*(?:[$€£¥₹￥]\s*)?$",
    re.I,
)
_SAYS_WORDS = re.compile(r"(?:\b(?:is|are|was|were)\b|[:：是为])\s*(?:\b(?:the|a|an)\b)?[\s\"'“]*$", re.I)
_STATES = re.compile(r"(?:\b(?:is|are|be|was)|是|为)\s*(?:[$€£¥₹￥]\s*)?(?:[-−]?\d|½)")
_DOUBTS = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|probably|could|might|either|nor|not|about|approximately|roughly|around|between"
    r"|at least|at most|more than|less than|over|under)\b|n't\b|或|可能|也许|大约|约|左右|至少|至多|不",
    re.I,
)
_SENTENCE_END = re.compile(r"[!?。！？\n]|\.(?!\d)")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|textnormal)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}|[\u4e00-\u9fff]")
# Beside a number these make it a part of a formula.
_OF_A_FORMULA = re.compile(r"\s*(?:[\\^_*/!<>≤≥√]|[A-Za-z](?![A-Za-z])|[+\-−]\s*[\d\\A-Za-z])")
_OPENS_A_FORMULA = ("^", "_", "\\", "/", "*", "{", "(", "[", "<", ">")


def boxed(text: str) -> str | None:
    """The contents of the last \\boxed{...}; neighbouring boxes are one answer of several parts. None without a box.

    >>> boxed(r"so \\boxed{\\frac{1}{2}}."), boxed(r"\\boxed{1} and \\boxed{2}")
    ('\\\\frac{1}{2}', '1, 2')
    """
    if text.count("boxed") == 1:
        # By far the most frequent case: one box without braces inside.
        simple = _SIMPLE_BOX.search(text)
        if simple:
            return simple[1].strip()

    boxes = _boxes(text)
    if not boxes:
        return None
    last_parts = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        _, end, _ = box
        next_start, _, _ = last_parts[0]
        if not _JOINS.fullmatch(text, end, next_start):
            break
        last_parts.insert(0, box)
    contents = [content for _, _, content in last_parts]
    # The same answer in several boxes is one answer.
    return contents[0] if len(set(contents)) == 1 else ", ".join(contents)


def _boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, contents) of every outermost box; `\\boxed 5` without braces holds one character."""
    # Braces are matched in one pass over the text. Matching from each box on would take quadratic time for many boxes.
    closing_brace: dict[int, int] = {}
    open_braces: list[int] = []
    for brace in _BRACES.finditer(text):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif open_braces:
            closing_brace[open_braces.pop()] = brace.start()

    boxes: list[tuple[int, int, str]] = []
    for match in _BOX.finditer(text):
        if match[1] != "{":
            # LaTeX takes the next character as the argument then.
            end = match.end() + 1
            boxes.append((match.start(), end, text[match.end() : end]))
            continue
        closing = closing_brace.get(match.end() - 1)
        # A box inside another one is a part of its contents.
        is_nested = bool(boxes) and match.start() < boxes[-1][1]
        if closing is not None and not is_nested:
            boxes.append((match.start(), closing + 1, text[match.end() : closing].strip()))
    return boxes


def extract(
    text: str,
    kind: str,
    how: Sequence[str] = EXTRACT,
    gold: str = "",
) -> str | None:
    """The final answer of a whole response, or None.

    Args:
        text: the response, thinking included.
        kind: kind of the gold answer (answers.Answer.kind), which is looked for.
        how: which of boxed, tags, last are tried, in this order.
        gold: read for answers in words only: the summary's closing words are cut to the gold's length.

    >>> extract("<think>so 5</think>The answer is 4.", "number"), extract("<think>it is \\\\boxed{4}", "number")
    ('4', None)
    >>> extract("<answer>The answer is 72.</answer>", "number"), extract("<answer>41 or 42</answer>", "number")
    ('72', '41 or 42')
    """
    summary = after_thinking(text)
    for way in how:
        answer = None
        if way == "boxed" and "boxed" in summary:
            answer = boxed(summary)
            if answer is not None and not (answer.isalnum() and answer.isascii()):
                answer = _read_inside(answer, kind, gold)
        elif way == "tags" and "</answer>" in summary:
            tagged = ANSWER_TAGS.findall(summary)
            answer = tagged[-1].strip() if tagged else None
            if answer is not None and not (answer.isalnum() and answer.isascii()):
                answer = _read_inside(answer, kind, gold)
        elif way == "last":
            answer = _read_summary(summary, kind, gold)
        if answer is not None:
            return answer
    return None


# --- inside a box or tags ---------------------------------------------------------------------------------------------


def _read_inside(
    content: str,
    kind: str,
    gold: str,
) -> str:
    """The answer in the contents of a box or of tags: mostly all of it, else what its sentence gives as the answer."""
    given = parse(content)
    is_of_this_kind = given.kind == kind and kind != "words"
    if is_of_this_kind or given.kind in ("broken", "arithmetic") or given.number is not None:
        return content
    prose = re.sub(r"\*\*|`", "", _TEXT_COMMAND.sub(r" \1 ", content).replace("\\$", "$"))
    if not _WORDS.search(prose):
        return content
    reading: str | None = None
    if kind == "letter":
        reading = _read_letter(prose)
    elif kind == "number":
        reading = _read_number_inside(prose)
    elif kind == "words":
        reading = _read_words_inside(prose, words_key(gold))
    else:
        reading = _read_formula_inside(prose)
    return content if reading is None else reading


def _read_words_inside(prose: str, gold: str) -> str | None:
    """The gold words where the sentence says that they are the answer."""
    lines = prose.strip().splitlines()
    line = lines[-1].strip() if lines else ""
    words = words_key(line).rstrip("。！？；，")
    is_said = words.endswith(gold) and bool(_SAYS_WORDS.search(words[: -len(gold)]))
    return _closing_words(line, gold) if is_said else None


def _read_formula_inside(prose: str) -> str | None:
    """The only formula of a sentence; None where there is another, or a doubt."""
    formulas = list(_INLINE_MATH.finditer(prose))
    if len(formulas) != 1 or not _is_one_sentence(prose):
        return None
    (formula,) = formulas
    around = prose[: formula.start()] + prose[formula.end() :]
    return None if _DOUBTS.search(around) else formula[1] or formula[2]


def _read_number_inside(prose: str) -> str | None:
    """The only number of a sentence, or the one that it says is the answer; None where it is not that clear."""
    last = _last_number(prose)
    if last is None:
        return None
    formula = _formula_of(prose, last)
    start, end = formula.span() if formula else last.span()
    before = prose[:start].rstrip()
    if not formula and (_OF_A_FORMULA.match(prose, end) or before.endswith(_OPENS_A_FORMULA)):
        return None
    given = _content(formula) if formula else last[0].strip()
    value = parse(given).value
    is_alone = all(
        parse(number[0]).value == value
        for number in _NUMBERS.finditer(prose)
        if not start <= number.start() < end
    )
    # The cheap questions first: most texts are copied prose of many sentences and numbers.
    if not is_alone and not (
        _is_one_sentence(prose) and _SAYS.search(before) and len(_STATES.findall(prose)) <= 1
    ):
        return None
    return None if _DOUBTS.search(prose) else given


def _formula_of(text: str, number: re.Match[str]) -> re.Match[str] | None:
    """The formula that a number is a part of, where all of it is one number: `$\\frac{1}{2}$`, `3×10^4`."""
    # Most numbers are no part of one, and this question is cheap: \frac{1}{2}, \frac12, 10^4.
    if not text.endswith(_BEFORE_A_LAST_PART, 0, number.start()):
        return None
    start = text.rfind("\n", 0, number.start()) + 1
    end = text.find("\n", number.end())
    line_end = end if end >= 0 else len(text)
    for formula in _FORMULA.finditer(text, start, line_end):
        is_part = formula.start() <= number.start() and number.end() <= formula.end()
        if is_part and parse(_content(formula)).number is not None:
            return formula
    return None


def _content(formula: re.Match[str]) -> str:
    """A formula without the marks around it."""
    text = formula[0]
    if text.startswith("$"):
        return text[1:-1].strip()
    return text[2:-2].strip() if text.startswith("\\(") else text


def _is_one_sentence(prose: str) -> bool:
    return sum(1 for part in _SENTENCE_END.split(prose) if part.strip()) == 1


def _last_number(text: str, start: int = 0) -> re.Match[str] | None:
    """The last match of _NUMBERS from `start` on.

    It holds the last digit; what stands before the two letters in front of that cannot be a part of it.
    """
    digit = _TO_THE_LAST_DIGIT.match(text, start)
    if digit is None:
        return None
    letters = _TO_TWO_LETTERS.match(text, max(start, digit.end() - _NEAR), digit.end())
    last: re.Match[str] | None = None
    for number in _NUMBERS.finditer(text, letters.end() if letters else start):
        last = number
    return last


# --- in the summary ---------------------------------------------------------------------------------------------------


def _read_summary(
    summary: str,
    kind: str,
    gold: str,
) -> str | None:
    """The last part of the summary that is of the gold answer's kind."""
    if kind == "letter":
        return _read_letter(summary)
    if kind in ("number", "arithmetic"):
        return _read_last_number(summary)

    lines = [line.strip() for line in summary.strip().splitlines() if line.strip()]
    if not lines:
        return None
    last_line = lines[-1]
    if kind == "words":
        return _closing_words(last_line, words_key(gold))
    # Maths: the last formula of the last line, else the line itself, which math-verify may be able to read.
    inline = _INLINE_MATH.findall(last_line)
    return "".join(inline[-1]) if inline else last_line


def _read_last_number(summary: str) -> str | None:
    """The number behind the last ####, else the last one that is neither denied nor offered beside another."""
    if _HASHES in summary:
        marked = _NUMBERS.search(summary, summary.rindex(_HASHES) + len(_HASHES))
        if marked:
            return marked[0].strip()
    # Most summaries end in a line with the answer.
    start = summary.rfind("\n") + 1
    last = _last_number(summary, start)
    if last is None and start:
        start = 0
        last = _last_number(summary)
    if last is None:
        return None
    formula = _formula_of(summary, last)
    given = _content(formula) if formula else last[0].strip()
    begins = formula.start() if formula else last.start()
    before = summary[max(start, begins - 40) : begins]
    if not before or before.isspace():
        return given
    if _DENIES.search(before):
        return None
    if _OFFERS.search(before):
        numbers = [number for number in _NUMBERS.finditer(summary, start) if number.start() < begins]
        if numbers and parse(numbers[-1][0]).value != parse(given).value:
            return None
    return given


def _read_letter(text: str) -> str | None:
    """The letter that the text calls its answer, else the last one; None where it offers two or denies it."""
    marked = list(_MARKED_LETTER.finditer(text))
    letters = marked or list(_LETTERS.finditer(text))
    if not letters:
        return None
    found = letters[-1]
    letter = found[1].upper()
    if marked:
        behind = _BEHIND_A_LETTER.match(text, found.end())
        assert behind is not None
        other = SECOND_LETTER.match(text, behind.end())
        # The letter again is no second one.
        return None if other and other[0][-1] != letter else letter
    before = text[max(0, found.start() - _LOOK_BACK) : found.start()]
    if _NOT_THIS_LETTER.search(before):
        return None
    joint = _JOINT.search(before)
    if joint is None:
        return letter
    # Joined to another choice, or by more words than one would read.
    earlier = _LETTER_AT_THE_END.search(before[: joint.start()])
    is_all_joints = joint.start() == 0 and len(before) == _LOOK_BACK
    return None if is_all_joints or (earlier and earlier[1] != letter) else letter


_LOOK_BACK = 60
_NOT_THIS_LETTER = re.compile(r"\b(?:not|never|n't)\W*$|不是\W*$|不选\W*$", re.I)
_LETTER_AT_THE_END = re.compile(r"(?<![A-Za-z0-9_'])([A-J])[\s)\].*$}]*$")
_JOINT = re.compile(
    r"(?:\s*(?:\b(?:or|and|nor|maybe|possibly|perhaps)\b|[,/;&|或和、]|也许|可能))+\s*[(\[]?$", re.I
)


_MARKS = re.compile(r"\*\*|[`$]")


def _closing_words(line: str, gold: str) -> str:
    """The gold words if the line ends in them and neither denies them nor names them among several; else the line."""
    line = words_key(_MARKS.sub("", line)).rstrip("。！？；，")
    if not line.endswith(gold) or line == gold:
        return line
    head = line[: -len(gold)]
    inside_a_word = gold[:1].isascii() and head[-1:].isalnum() and head[-1:].isascii()
    if inside_a_word:
        return line
    before = head.rstrip(" :\"'")
    if before.endswith(_CHINESE_HEDGES) or before.rpartition(" ")[2] in _HEDGES:
        return line
    return gold
