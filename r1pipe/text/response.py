"""The two parts of a response, its thinking and its summary: the only place that takes a response apart."""

from __future__ import annotations

import re
from typing import NamedTuple

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"

# How other models mark their thinking, each as the tags around the thinking and those around what follows; the latter
# may be missing. (OpenThoughts and Sky-T1; reflection models; Magistral; Seed-OSS; Kimi.)
_FOREIGN_TAGS = (
    ("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<thought>", "</thought>", "<output>", "</output>"),
    ("<thinking>", "</thinking>", "<output>", "</output>"),
    ("<reasoning>", "</reasoning>", "", ""),
    ("[THINK]", "[/THINK]", "", ""),
    ("<seed:think>", "</seed:think>", "", ""),
    ("◁think▷", "◁/think▷", "", ""),
)
# A text without any of these characters at its beginning has no foreign tag there.
_FIRST_OF_A_TAG = frozenset(tags[0][0] for tags in _FOREIGN_TAGS)


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


def as_response(text: str) -> str:
    """A reply that people or other models wrote, in the format of a response.

    Thinking in the tags of other models is put into ours, a reply that begins within its thinking gets the opening tag,
    and one without thinking gets an empty think block. Anything else stays as it is, tags in the middle included.

    >>> as_response("<|begin_of_thought|>2+2=4<|end_of_thought|> <|begin_of_solution|>4<|end_of_solution|>")
    '<think>2+2=4</think>4'
    >>> as_response("2+2=4</think>4")
    '<think>2+2=4</think>4'
    >>> as_response("4")
    '<think></think>4'
    """
    if THINK_OPEN in text:
        return text
    if THINK_CLOSE in text:
        return THINK_OPEN + text
    start = text.lstrip()
    if start[:1] in _FIRST_OF_A_TAG:
        for tags in _FOREIGN_TAGS:
            if start[: len(tags[0])].lower() == tags[0].lower():
                return _with_our_tags(start, *tags)
    return join_response("", text.strip())


def _with_our_tags(text: str, opens: str, closes: str, solution_opens: str, solution_closes: str) -> str:
    """A text that begins with a foreign tag, with ours; the thinking stays open where it is not closed."""
    parts = re.split(re.escape(closes), text[len(opens) :], maxsplit=1, flags=re.I)
    if len(parts) == 1:
        return THINK_OPEN + parts[0].strip()
    thinking, summary = (part.strip() for part in parts)
    if solution_opens and summary.lower().startswith(solution_opens.lower()):
        summary = summary[len(solution_opens) :].strip()
        if summary.lower().endswith(solution_closes.lower()):
            summary = summary[: -len(solution_closes)].strip()
    return join_response(thinking, summary)
