"""What every reward does first: take the response's text out of TRL's completion, and the right part out of the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from r1pipe.text.response import THINK_CLOSE, THINK_OPEN

ANSWER_TAGS = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.S)
Completion = str | Sequence[dict[str, Any]]  # a string, or TRL's chat form: messages of which the last is the response


def text_of(completion: Completion) -> str:
    """The response as one string.

    >>> text_of([{"role": "assistant", "content": "4"}])
    '4'
    """
    if isinstance(completion, str):
        return completion
    return _plain(completion[-1].get("content")) if completion else ""


def _plain(content: Any) -> str:
    """A message's content, which may be a list of parts: {"type": "text", "text": "..."}."""
    return "".join(part.get("text") or "" for part in content) if isinstance(content, list) else content or ""


def prompt_of(prompt: Any) -> str:
    """The question as one string: the prompt itself, or the last user message of a conversation."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    users = [message for message in prompt if message.get("role") == "user"] or list(prompt)
    return _plain(users[-1].get("content")) if users else ""


def after_thinking(text: str) -> str:
    """What stands behind the last closed think block; the whole text where nobody thinks, nothing while thinking is open.

    Stricter than `split_response(text).summary`, which keeps what precedes the block: an answer given before the thinking, or
    inside a second think block, is not an answer.

    >>> after_thinking("<think>1</think>2<think>3</think>4")
    '4'
    """
    if THINK_OPEN not in text and THINK_CLOSE not in text:
        return text
    _, closed, rest = text.rpartition(THINK_CLOSE)
    return rest.partition(THINK_OPEN)[0] if closed else ""
