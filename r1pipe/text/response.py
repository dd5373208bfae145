"""The two parts of a response, its thinking and its summary: the only place that takes a response apart."""

from __future__ import annotations

from typing import NamedTuple

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


class Response(NamedTuple):
    """A response taken apart; `thinking` is None if no think block opens."""

    thinking: str | None
    summary: str
    """What follows the thinking; empty while the thinking is not closed."""


def split_response(text: str) -> Response:
    """Split a response at its first think block.

    >>> split_response("<think>2+2=4</think>4")
    Response(thinking='2+2=4', summary='4')
    >>> split_response("4")
    Response(thinking=None, summary='4')
    >>> split_response("<think>2+2")
    Response(thinking='2+2', summary='')
    """
    if THINK_OPEN not in text and THINK_CLOSE not in text:
        return Response(None, text.strip())

    if THINK_OPEN in text:
        head, _, rest = text.partition(THINK_OPEN)
    else:
        # The prompt may end with the opening tag, so that the response begins within the thinking.
        head, rest = "", text
    thinking, closing_tag, after = rest.partition(THINK_CLOSE)
    summary = (head + after).strip() if closing_tag else ""
    return Response(thinking.strip(), summary)


def join_response(thinking: str, summary: str) -> str:
    """The response format of R1 and its students: think tags around the thinking, then the summary."""
    return f"{THINK_OPEN}{thinking}{THINK_CLOSE}{summary}"
