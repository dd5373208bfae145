"""Messages of a conversation, in any of the shapes that tools have for them, as {role, content}."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1pipe.errors import InputError
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN, as_response, join_response, split_response

Message = dict[str, str]

# What others call our roles.
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "ai"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}
OUR_ROLES = frozenset(("system", "user", "assistant", "tool"))

# Where thinking may stand, beside a message's content or a row's reply.
THINKING = ("reasoning_content", "thinking", "reasoning")

# The same beside a whole row's reply.
ROW_THINKING = (*THINKING, "deepseek_reasoning")

_THINKING_COLUMNS = frozenset(ROW_THINKING)

# What such a column holds where it switches thinking on or off, or says how much: no thinking itself.
_SWITCH_WORDS = (
    "on off true false yes no none null auto low medium high minimal enabled disabled enable disable"
)
_SWITCHES = frozenset(_SWITCH_WORDS.split())

# Parts of a message's content that are thinking.
_THINKING_PARTS = ("thinking", "reasoning")

# What a message may have beside its thinking; other keys may hold what would be lost.
_READ_KEYS = frozenset(("role", "from", "content", "value", *THINKING))

_SPEAKERS = re.compile(r"(?:^|\n\n)(Human|Assistant):")

Note = Callable[[str], None]
"""Takes the name of a message's key that is not read."""


def ignore(_: str) -> None:
    """The caller does not count unknown keys."""


def dialogue(text: str) -> Any:
    """The messages of a dialogue that is one text, as Anthropic's HH has it; the text itself if it is none.

    >>> dialogue("\\n\\nHuman: hi\\n\\nAssistant: hello")
    [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'hello'}]
    """
    before, *rest = _SPEAKERS.split(text)
    if before.strip() or not rest:
        return text
    speakers = ("user" if name == "Human" else "assistant" for name in rest[::2])
    return [{"role": role, "content": said.strip()} for role, said in zip(speakers, rest[1::2], strict=True)]


def read_messages(turns: Sequence[Any], where: str, note: Note = ignore) -> list[Message]:
    """Messages of any of the shapes as {role, content}; the last one, where the assistant's, as a response.

    Raises:
        InputError: a turn is not a message, has an unknown role, or holds anything but text.
    """
    messages = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise InputError(
                "the messages are not all {role, content}, both texts", where, "a chat needs messages"
            )
        role = _role(turn, where)
        content, thought = _content(turn, where)
        for key, value in turn.items():
            # Thinking that is no text would be lost as well.
            is_lost = key not in _READ_KEYS or (key in THINKING and not _is_thinking(value))
            if is_lost and value not in (None, [], {}, ""):
                note(key)
        if number == len(turns) - 1 and role == "assistant":
            content = reply_with_thinking(content, thinking_beside(turn, where) or thought, where)
        messages.append({"role": role, "content": content})
    return messages


def _role(turn: Mapping[str, Any], where: str) -> str:
    stated = turn.get("role", turn.get("from"))
    role = ROLES.get(stated.lower()) if isinstance(stated, str) else None
    if role is None:
        raise InputError(
            f"a message has the role {stated!r}",
            where,
            f"roles are {', '.join(sorted(OUR_ROLES))}, or what others call them ({', '.join(ROLES)})",
        )
    return role


def _content(turn: Mapping[str, Any], where: str) -> tuple[str, str]:
    """The text of a message and the thinking within it.

    The content may be a list of parts: {"type": "text", "text": "..."}, {"type": "thinking", "thinking": "..."}.
    """
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        thoughts = [_thought(part) for part in content if part.get("type") in _THINKING_PARTS]
        texts = [part.get("text") for part in content if part.get("type", "text") == "text"]
        is_read = len(texts) + len(thoughts) == len(content)
        if is_read and all(isinstance(text, str) for text in (*texts, *thoughts)):
            return "".join(texts), "\n\n".join(thoughts)
    if content is None and any(_is_thinking(turn.get(name)) for name in THINKING):
        return "", ""
    if not isinstance(content, str):
        calls = "it calls tools, which is not trained" if turn.get("tool_calls") else "messages hold texts"
        raise InputError(f"a message holds {_short(content)}", where, f"leave the row out: {calls}")
    return content, ""


def _thought(part: Mapping[str, Any]) -> Any:
    """The text of a part that is thinking (Anthropic's and Mistral's); anything else if it has none."""
    thought = part.get("thinking", part.get("reasoning", part.get("text")))
    if isinstance(thought, list) and all(isinstance(inner, Mapping) for inner in thought):
        thought = [inner.get("text") for inner in thought]
    return _joined(thought)


def _joined(value: Any) -> Any:
    """A list of texts as one text; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return "\n\n".join(value)
    return value


def _is_thinking(value: Any) -> bool:
    text = _joined(value)
    return isinstance(text, str) and bool(text.strip())


def thinking_of_row(row: Mapping[str, Any], where: str) -> str:
    """The thinking in a column of a row, which may be a switch for it instead (`reasoning: "on"`).

    Raises:
        InputError: two columns hold different thinking.
    """
    if _THINKING_COLUMNS.isdisjoint(row):
        return ""
    found = {name: row[name] for name in ROW_THINKING if name in row}
    thoughts = {name: value for name, value in found.items() if str(value).strip().lower() not in _SWITCHES}
    return thinking_beside(thoughts, where)


def thinking_beside(holder: Mapping[str, Any], where: str) -> str:
    """The thinking that stands beside a reply; empty if there is none.

    Raises:
        InputError: two columns hold different thinking.
    """
    # Most rows have none of these columns, and this is asked of each.
    if _THINKING_COLUMNS.isdisjoint(holder):
        return ""
    found = {name: _joined(holder[name]) for name in ROW_THINKING if _is_thinking(holder.get(name))}
    if len({text.strip() for text in found.values()}) > 1:
        raise InputError(f"thinking stands in {' and '.join(found)}, and differs", where, "leave one of them")
    return next(iter(found.values()), "")


def reply_with_thinking(reply: str, thinking: str, where: str) -> str:
    """A reply as a response, with the thinking that stands beside it.

    Raises:
        InputError: the reply has another thinking of its own.
    """
    response = as_response(reply)
    if THINK_OPEN in thinking or THINK_CLOSE in thinking:
        thinking = split_response(thinking).thinking or ""
    thinking = thinking.strip()
    if not thinking:
        return response
    own, summary = split_response(response)
    if own and own != thinking:
        raise InputError(
            "the reply has thinking of its own beside another one", where, "leave one of the two"
        )
    return join_response(thinking, summary)


def question_of(messages: Sequence[Message], where: str) -> tuple[str, str]:
    """The system text and the question of a prompt that is a list of messages.

    A single turn is its text; of several, every turn stands with its role.
    """
    system = "\n\n".join(turn["content"].strip() for turn in messages if turn["role"] == "system")
    turns = [turn for turn in messages if turn["role"] != "system"]
    if not turns:
        raise InputError("the prompt has no turn of the user", where, "a message is {role, content}")
    if len(turns) == 1:
        return system, turns[0]["content"].strip()
    return system, "\n\n".join(f"{turn['role'].capitalize()}: {turn['content'].strip()}" for turn in turns)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
