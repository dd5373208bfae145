"""Filters of responses that are hard to read (v2 B.3.2, B.3.3).

The paper drops repetition, mixed languages, long paragraphs and code blocks in the thinking. It does not publish the
thresholds, so they are our choice.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from r1pipe.schema import Model
from r1pipe.text.response import split_response

# A Chinese character, a word, a number or a sign.
_UNIT = re.compile(r"[\u3400-\u9fff]|[^\W\d_]+|\d+|[^\s\w]")
_BETWEEN_PARAGRAPHS = re.compile(r"\n\s*\n")


class Filters(Model):
    """What a response must look like; null switches a filter off."""

    form: Literal["r1", "zero", "auto"] = "r1"
    """r1 = thinking and summary, zero = thinking and <answer>, auto = either"""

    min_language: float | None = Field(default=0.9, ge=0, le=1)
    """share of the thinking's words in the question's language"""

    max_repetition: float | None = Field(default=0.2, ge=0, le=1)
    """share of the 6-grams (words, numbers, signs) that occurred before in the response"""

    min_thinking: int | None = Field(default=None, ge=0)
    """words, numbers and signs of the thinking"""

    max_thinking: int | None = Field(default=None, ge=1)
    """words, numbers and signs of the thinking"""

    max_paragraph: int | None = Field(default=None, ge=1)
    """characters of a paragraph in the thinking"""

    code_in_thinking: bool = True
    """whether code blocks in the thinking are allowed"""

    finished: bool = True
    """drop what max_tokens cut"""


def units(text: str) -> list[str]:
    """Words, numbers and signs; each Chinese character counts as a word."""
    return _UNIT.findall(text)


def length(text: str) -> int:
    """The number of units of a text."""
    return len(units(text))


def shape_reason(text: str, filters: Filters, finished: bool = True) -> str:
    """Why a response is dropped, as far as its text alone decides; empty if it is kept.

    The language filter also needs the question: candidates.screen applies it.
    """
    from r1pipe.rewards.format import well_formed
    from r1pipe.rewards.repetition import repeated_share

    # A cut response is often malformed too; "cut off" says what to change (max_tokens).
    if filters.finished and not finished:
        return "cut off"
    thinking = split_response(text).thinking
    if thinking is None or not well_formed(text, filters.form):
        return "malformed"

    size = length(thinking)
    if filters.min_thinking is not None and size < filters.min_thinking:
        return "thinking too short"
    if filters.max_thinking is not None and size > filters.max_thinking:
        return "thinking too long"
    if filters.max_paragraph is not None:
        longest = max(map(len, _BETWEEN_PARAGRAPHS.split(thinking)), default=0)
        if longest > filters.max_paragraph:
            return "long paragraph"
    if not filters.code_in_thinking and "```" in thinking:
        return "code block in the thinking"
    if filters.max_repetition is not None and repeated_share(text, 6) > filters.max_repetition:
        return "repetition"
    return ""
