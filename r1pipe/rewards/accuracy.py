"""Accuracy: is the final answer right? (v2 section 2.2: a rule, not a model.)

The answer is read behind the thinking, never inside it: the last \\boxed{...}; else the last <answer>...</answer>; else
the last plain number, choice letter or closing words of the summary, whichever kind the gold answer is. Plain answers
are compared in answers.py, the rest by math-verify in processes of its own (symbolic.py), so an expression that hangs
costs only its own verdict.

None, which is not 0, means not judged: the row has no gold answer, the gold answer does not parse, or time ran out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from r1pipe.errors import ConfigError
from r1pipe.rewards import symbolic
from r1pipe.rewards.answers import compare, parse, words_key
from r1pipe.rewards.texts import ANSWER_TAGS, Completion, after_thinking, text_of

EXTRACT = ("boxed", "tags", "last")

_SIMPLE_BOX = re.compile(r"\\f?boxed\s*\{([^{}]*)\}")
# What may stand between two boxes that are parts of one answer.
_JOINS = re.compile(r"\s*\$?\s*(?:,|;|and|or|和|或|、|，)?\s*(?:and|or)?\s*\$?\s*", re.S)
# The first alternative is a number by itself; the second one may follow a digit, bracket or operator directly
# (12+7=19).
_NUMBERS = re.compile(
    r"(?<![\w.,])[-−+]?[$€£¥₹￥]?\s?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?"
    r"(?:/\d+(?!\d*[/.]\d))?%?"
    r"|(?<=[\d)\]=*/+×÷])[-−]?\d[\d,]*(?:\.\d+)?%?|[-−]?\d+(?:,\d{3})*(?:\.\d+)?%?"
)
# "The answer is (B)", "故选 B": a letter that the text calls its answer comes before any other letter.
_MARKED_LETTER = re.compile(
    r"(?:answer|option|choice|答案|选项|选择|选|应选|故选)\W{0,6}(?:is|was|:|是|为)?\W{0,8}\(?([A-J])(?![\w'])",
    re.I,
)
# "A dog" is an article, not a choice: a letter before a lower-case word does not count.
_LETTERS = re.compile(r"(?<![A-Za-z0-9_'])([A-J])(?![A-Za-z0-9_'])(?!\s+[a-z])")
_INLINE_MATH = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")
# Before the gold words these deny them or offer them as one of several.
_HEDGES = ("not", "no", "isn't", "or", "and", "nor", "never", "不", "非", "没", "或", "和", "不是", "并非")
_CHINESE_HEDGES = tuple(hedge for hedge in _HEDGES if not hedge.isascii())


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
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif open_braces:
            closing_brace[open_braces.pop()] = brace.start()

    boxes: list[tuple[int, int, str]] = []
    for match in re.finditer(r"\\f?boxed\s*+(\{|(?=\w))", text):
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
        kind: kind of the gold answer (answers.Answer.kind), which `last` looks for.
        how: which of boxed, tags, last are tried, in this order.
        gold: read for answers in words only: the summary's closing words are cut to the gold's length.

    >>> extract("<think>so 5</think>The answer is 4.", "number"), extract("<think>it is \\\\boxed{4}", "number")
    ('4', None)
    """
    summary = after_thinking(text)
    for way in how:
        answer = None
        if way == "boxed" and "boxed" in summary:
            answer = boxed(summary)
        elif way == "tags" and "</answer>" in summary:
            tagged = ANSWER_TAGS.findall(summary)
            answer = tagged[-1].strip() if tagged else None
        elif way == "last":
            answer = _last(summary, kind, gold)
        if answer is not None:
            return answer
    return None


def _last(
    summary: str,
    kind: str,
    gold: str,
) -> str | None:
    """The last part of the summary that is of the gold answer's kind."""
    if kind == "letter":
        marked = _MARKED_LETTER.findall(summary)
        if marked:
            return marked[-1].upper()
        letters = _LETTERS.findall(summary)
        return letters[-1] if letters else None
    if kind in ("number", "arithmetic"):
        numbers = _NUMBERS.findall(summary)
        return numbers[-1].strip() if numbers else None

    lines = [line.strip() for line in summary.strip().splitlines() if line.strip()]
    if not lines:
        return None
    last_line = lines[-1]
    if kind == "words":
        return _closing_words(last_line, words_key(gold))
    # Maths: the last formula of the last line, else the line itself, which math-verify may be able to read.
    inline = _INLINE_MATH.findall(last_line)
    return "".join(inline[-1]) if inline else last_line


def _closing_words(line: str, gold: str) -> str:
    """The gold words if the line ends in them and neither denies them nor names them among several; else the line."""
    without_marks = re.sub(r"\*\*|[`$]", "", line)
    line = words_key(without_marks).rstrip("。！？；，")
    if not line.endswith(gold) or line == gold:
        return line
    head = line[: -len(gold)]
    inside_a_word = gold[:1].isascii() and head[-1:].isalnum() and head[-1:].isascii()
    if inside_a_word:
        return line
    before = head.rstrip(" :\"'")
    if before.endswith(_CHINESE_HEDGES) or before.split(" ")[-1] in _HEDGES:
        return line
    return gold


def accuracy(
    completions: Sequence[Completion],
    answer: Sequence[Any] | None = None,
    *,
    extract_from: Sequence[str] = EXTRACT,
    timeout: float = 1.0,
    **columns: Any,
) -> list[float | None]:
    """1.0 where the final answer equals the gold answer, 0.0 where not, None where it cannot be judged.

    Args:
        completions: responses, as strings or TRL's message lists.
        answer: gold answers, one for each completion; a list holds several accepted ones; None where the row has none.
        extract_from: where the answer may stand, in order (boxed, tags, last).
        timeout: seconds of CPU time for one symbolic comparison.
        columns: the row's other columns; not read.

    Raises:
        ConfigError: `extract_from` holds something else.

    >>> accuracy(["<think>6*7</think>\\\\boxed{42}", "<answer>41</answer>"], answer=["42", "42"])
    [1.0, 0.0]
    """
    if isinstance(extract_from, str) or not set(extract_from) <= set(EXTRACT):
        raise ConfigError(f"extract_from is {extract_from!r}", fix=f"give a list of {', '.join(EXTRACT)}")
    if answer is None:
        return [None] * len(completions)

    verdicts: list[float | None] = []
    # Pairs (gold, answer) that need algebra, and the responses that wait for each; equal pairs are compared once.
    open_pairs: dict[tuple[str, str], list[int]] = {}
    for i, (completion, golds) in enumerate(zip(completions, answer, strict=True)):
        verdict: float | None = None
        text = text_of(completion)
        for accepted in golds if isinstance(golds, list | tuple) else [golds]:
            gold = _gold_text(accepted)
            kind = parse(gold).kind
            # A gold answer that does not parse says nothing; the row is judged by the others, if there are any.
            if kind == "broken":
                continue
            final = extract(text, kind, extract_from, gold)
            decided = 0.0 if final is None else compare(gold, final)
            if decided is None:
                open_pairs.setdefault((gold, final or ""), []).append(i)
            elif verdict is None or decided > verdict:
                verdict = decided
        verdicts.append(verdict)

    if open_pairs:
        # All at once, so that the processes work side by side.
        symbolic_verdicts = symbolic.equal(list(open_pairs), timeout=timeout)
        for places, verdict in zip(open_pairs.values(), symbolic_verdicts, strict=True):
            for i in places:
                verdicts[i] = _best(verdicts[i], verdict)
    return verdicts


def _gold_text(gold: Any) -> str:
    """A gold answer as a string; None, and NaN (a table's missing value), are no answer: ""."""
    is_nan = isinstance(gold, float) and gold != gold
    return "" if gold is None or is_nan else str(gold)


def _best(decided: float | None, by_algebra: float | None) -> float | None:
    """The better verdict of two accepted answers; an open comparison hides a failure (None) but not a success.

    Args:
        decided: verdict on the answers that came before; None where there is none.
        by_algebra: verdict on one more answer; None where it was not judged.
    """
    if 1.0 in (decided, by_algebra):
        return 1.0
    if decided is None or by_algebra is None:
        return by_algebra
    return max(decided, by_algebra)
