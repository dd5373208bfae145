"""What makes a response readable (v2 B.3.2, B.3.3; the thresholds are not published, so they are ours).

The paper drops repetition, mixed languages, long paragraphs and code blocks in the thinking.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from r1pipe.schema import Model
from r1pipe.text.response import split_response

_UNIT = re.compile(r"[\u3400-\u9fff]|[^\W\d_]+|\d+|[^\s\w]")  # a Chinese character, a word, a number, a sign


class Filters(Model):
    """What a response must look like; null switches a filter off."""

    form: Literal["r1", "zero", "auto"] = Field(
        default="r1", description="r1 = thinking and summary, zero = thinking and <answer>, auto = either"
    )
    min_language: float | None = Field(
        default=0.9, ge=0, le=1, description="share of the thinking's words in the question's language"
    )
    max_repetition: float | None = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of the 6-grams (words, numbers, signs) that occurred before in the response",
    )
    min_thinking: int | None = Field(default=None, ge=0, description="words, numbers and signs of the thinking")
    max_thinking: int | None = Field(default=None, ge=1, description="words, numbers and signs of the thinking")
    max_paragraph: int | None = Field(default=None, ge=1, description="characters of a paragraph in the thinking")
    code_in_thinking: bool = Field(default=True, description="whether code blocks in the thinking are allowed")
    finished: bool = Field(default=True, description="drop what max_tokens cut")


def units(text: str) -> list[str]:
    """Words, numbers and signs; each Chinese character counts as a word."""
    return _UNIT.findall(text)


def length(text: str) -> int:
    """How many units a text has."""
    return len(units(text))


def shape_reason(text: str, filters: Filters, finished: bool = True) -> str:
    """Why a response is not readable, by what its text alone shows; empty where it is."""
    from r1pipe.rewards.format import well_formed
    from r1pipe.rewards.repetition import repeated_share

    if filters.finished and not finished:
        return "cut off"
    parts = split_response(text)
    if not well_formed(text, filters.form) or parts.thinking is None:
        return "malformed"
    size = length(parts.thinking)
    if filters.min_thinking is not None and size < filters.min_thinking:
        return "thinking too short"
    if filters.max_thinking is not None and size > filters.max_thinking:
        return "thinking too long"
    if (
        filters.max_paragraph is not None
        and max(map(len, re.split(r"\n\s*\n", parts.thinking)), default=0) > filters.max_paragraph
    ):
        return "long paragraph"
    if not filters.code_in_thinking and "```" in parts.thinking:
        return "code block in the thinking"
    if filters.max_repetition is not None and repeated_share(text, 6) > filters.max_repetition:
        return "repetition"
    return ""
