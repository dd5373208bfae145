"""What is thinking and what is said: the one place that takes a response apart."""

from __future__ import annotations

from typing import NamedTuple

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


class Response(NamedTuple):
    """A response taken apart; `thinking` is None where no think block opens."""

    thinking: str | None
    summary: str  # what follows the thinking; empty while the thinking is not closed


def split_response(text: str) -> Response:
    """Split at the first think block.

    >>> split_response("<think>2+2=4</think>4")
    Response(thinking='2+2=4', summary='4')
    >>> split_response("4")
    Response(thinking=None, summary='4')
    >>> split_response("<think>2+2")
    Response(thinking='2+2', summary='')
    """
    if THINK_OPEN not in text and THINK_CLOSE not in text:
        return Response(None, text.strip())
    head, _, rest = text.partition(THINK_OPEN) if THINK_OPEN in text else ("", "", text)
    thinking, closed, summary = rest.partition(THINK_CLOSE)
    return Response(thinking.strip(), (head + summary).strip() if closed else "")


def join_response(thinking: str, summary: str) -> str:
    """The response format of R1 and its students: think tags around the thinking, then the summary."""
    return f"{THINK_OPEN}{thinking}{THINK_CLOSE}{summary}"
