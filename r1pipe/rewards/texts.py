"""The text of a completion, which may be a string or TRL's messages, and the part of it that holds the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from r1pipe.text.response import THINK_CLOSE, THINK_OPEN

ANSWER_TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.S)

# A string, or TRL's chat form: messages, the last of which is the response.
Completion = str | Sequence[dict[str, Any]]


def text_of(completion: Completion) -> str:
    """The response as one string.

    >>> text_of([{"role": "assistant", "content": "4"}])
    '4'
    """
    if isinstance(completion, str):
        return completion
    return _content_text(completion[-1].get("content")) if completion else ""


def _content_text(content: Any) -> str:
    """The text of a message's content, which may be a list of parts: {"type": "text", "text": "..."}."""
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""


def prompt_of(prompt: Any) -> str:
    """The question as one string: the prompt itself, or the last user message of a conversation."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    messages = [message for message in prompt if message.get("role") == "user"] or list(prompt)
    return _content_text(messages[-1].get("content")) if messages else ""


def after_thinking(text: str) -> str:
    """The text behind the last closed think block: the whole text if there is no think tag, "" while thinking is open.

    Stricter than `split_response(text).summary`, which keeps what precedes the block: an answer given before the
    thinking, or inside a second think block, does not count as an answer.

    >>> after_thinking("<think>1</think>2<think>3</think>4")
    '4'
    """
    closing_tag = text.rfind(THINK_CLOSE)
    if closing_tag < 0:
        return "" if THINK_OPEN in text else text
    rest = text[closing_tag + len(THINK_CLOSE) :]
    return rest.partition(THINK_OPEN)[0] if THINK_OPEN in rest else rest
