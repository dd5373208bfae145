"""Accuracy: is the final answer right? (v2 section 2.2: a rule, no model.)

The answer is read behind the thinking, never inside it: the last \\boxed{...}; else the last <answer>...</answer>; else the
last plain number, choice letter or closing words of the summary, whichever kind the gold answer is. Plain answers are compared
in answers.py, the rest by math-verify in processes of its own (symbolic.py), so a hung expression costs its own verdict only.

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

_ONE_BOX = re.compile(r"\\f?boxed\s*\{([^{}]*)\}")
_JOINS = re.compile(r"\s*\$?\s*(?:,|;|and|or|和|或|、|，)?\s*(?:and|or)?\s*\$?\s*", re.S)
_NUMBERS = re.compile(
    r"(?<![\w.,])[-−+]?[$€£¥₹￥]?\s?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?(?:/\d+(?!\d*[/.]\d))?%?"
    r"|(?<=[\d)\]=*/+×÷])[-−]?\d[\d,]*(?:\.\d+)?%?|[-−]?\d+(?:,\d{3})*(?:\.\d+)?%?"
)
_MARKED_LETTER = re.compile(
    r"(?:answer|option|choice|答案|选项|选择|选|应选|故选)\W{0,6}(?:is|was|:|是|为)?\W{0,8}\(?([A-J])(?![\w'])", re.I
)
_LETTERS = re.compile(r"(?<![A-Za-z0-9_'])([A-J])(?![A-Za-z0-9_'])(?!\s+[a-z])")
_HEDGES = ("not", "no", "isn't", "or", "and", "nor", "never", "不", "非", "没", "或", "和", "不是", "并非")


def boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...}; neighbouring boxes are one answer of several parts. None where there is none.

    >>> boxed(r"so \\boxed{\\frac{1}{2}}."), boxed(r"\\boxed{1} and \\boxed{2}")
    ('\\\\frac{1}{2}', '1, 2')
    """
    if text.count("boxed") == 1 and (only := _ONE_BOX.search(text)):  # by far the most frequent
        return only[1].strip()
    closing: dict[int, int] = {}  # place of a brace -> place of the one that closes it
    opened: list[int] = []
    for brace in re.finditer(r"[{}]", text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            closing[opened.pop()] = brace.start()
    found: list[tuple[int, int, str]] = []
    for match in re.finditer(r"\\f?boxed\s*+(\{|(?=\w))", text):
        if match[1] != "{":
            end = match.end() + 1
            found.append((match.start(), end, text[match.end() : end]))
            continue
        end = closing.get(match.end() - 1)
        if end is not None and not (found and match.start() < found[-1][1]):
            found.append((match.start(), end + 1, text[match.end() : end].strip()))
    if not found:
        return None
    parts = [found[-1]]
    for box in reversed(found[:-1]):
        if not _JOINS.fullmatch(text, box[1], parts[0][0]):
            break
        parts.insert(0, box)
    contents = [content for _, _, content in parts]
    return contents[0] if len(set(contents)) == 1 else ", ".join(contents)


def extract(text: str, kind: str, how: Sequence[str] = EXTRACT, gold: str = "") -> str | None:
    """The final answer of a whole response, or None.

    Args:
        text: the response, thinking included.
        kind: of the gold answer (answers.Answer.kind): what `last` looks for.
        how: which of boxed, tags, last are tried, in this order.
        gold: only for answers in words: the summary's closing words are cut to the gold's length.

    >>> extract("<think>so 5</think>The answer is 4.", "number"), extract("<think>it is \\\\boxed{4}", "number")
    ('4', None)
    """
    summary = after_thinking(text)
    for way in how:
        if way == "boxed" and "boxed" in summary:
            found = boxed(summary)
        elif way == "tags" and "</answer>" in summary:
            inside = ANSWER_TAGS.findall(summary)
            found = inside[-1].strip() if inside else None
        elif way == "last":
            found = _last(summary, kind, gold)
        else:
            found = None
        if found is not None:
            return found
    return None


def _last(summary: str, kind: str, gold: str) -> str | None:
    if kind == "letter":
        marked = _MARKED_LETTER.findall(summary)
        free = _LETTERS.findall(summary)
        return marked[-1].upper() if marked else free[-1] if free else None
    if kind in ("number", "arithmetic"):
        found = _NUMBERS.findall(summary)
        return found[-1].strip() if found else None
    lines = [line.strip() for line in summary.strip().splitlines() if line.strip()]
    if not lines:
        return None
    if kind == "words":
        return _closing_words(lines[-1], words_key(gold))
    inline = re.findall(r"\$([^$]+)\$|\\\((.+?)\\\)", lines[-1])
    return "".join(inline[-1]) if inline else lines[-1]


def _closing_words(line: str, gold: str) -> str:
    """The line, cut to the gold words if it ends in them and they are neither denied nor one of several."""
    line = words_key(re.sub(r"\*\*|[`$]", "", line)).rstrip("。！？；，")
    if not line.endswith(gold) or line == gold:
        return line
    head = line[: -len(gold)]
    if gold[:1].isascii() and (head[-1:].isalnum() and head[-1:].isascii()):
        return line
    before = head.rstrip(" :\"'")
    if before.endswith(tuple(hedge for hedge in _HEDGES if not hedge.isascii())) or before.split(" ")[-1] in _HEDGES:
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
        answer: gold answers, one a completion; a list holds several accepted ones; None where the row has none.
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
    hard: dict[tuple[str, str], list[int]] = {}
    for i, (completion, golds) in enumerate(zip(completions, answer, strict=True)):
        verdict: float | None = None
        text = text_of(completion)
        for gold in golds if isinstance(golds, list | tuple) else [golds]:
            gold = (
                "" if gold is None or (isinstance(gold, float) and gold != gold) else str(gold)
            )  # NaN is a table's missing answer
            right = parse(gold)
            if right.kind == "broken":
                continue
            found = extract(text, right.kind, extract_from, gold)
            decided = 0.0 if found is None else compare(gold, found)
            if decided is None:
                hard.setdefault((gold, found or ""), []).append(i)
            elif verdict is None or decided > verdict:
                verdict = decided
        verdicts.append(verdict)
    if hard:
        for (_, places), verdict in zip(hard.items(), symbolic.equal(list(hard), timeout=timeout), strict=True):
            for i in places:
                known = verdicts[i]
                # Of several accepted answers the best verdict counts; one that was not judged hides only a failure.
                verdicts[i] = (
                    1.0
                    if 1.0 in (verdict, known)
                    else verdict
                    if verdict is None or known is None
                    else max(known, verdict)
                )
    return verdicts
