"""The column contracts: what a row of each kind of dataset holds.

A row is a plain dict; these classes say which columns a reader may rely on. A reader leaves extra columns as they are.
A stage that makes chats of prompts keeps the prompt's domain, language and level (candidates.as_chat), nothing else.
`domain` names the kind of task; evaluation reports one suite for each domain.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import (
    TypedDict,
)  # pydantic checks these classes and needs this TypedDict before Python 3.12

REASONING_DOMAINS = ("math", "word-problems", "code", "logic", "choice")
GENERAL_DOMAIN = "general"

# Requests that should be refused; their suite is 'harmless'.
HARMFUL_DOMAIN = "harmful"

# Requests that sound harmful and are not; their suite is 'over-refusal'.
LOOKALIKE_DOMAIN = "lookalike"


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    """system, user or assistant"""

    content: str


class Row(TypedDict):
    """The columns that every row has."""

    id: str
    """Unique in its dataset; equal ids in two datasets mean the same problem."""

    domain: str

    language: NotRequired[str]
    """ISO 639-1 code of the question."""


class PromptRow(Row):
    """A problem or request."""

    prompt: str

    system: NotRequired[str]
    """What the template's system turn says; a template from a file has it before the question."""

    answer: NotRequired[str | list[str]]
    """The gold answer, or several accepted ones, for the accuracy reward."""

    tests: NotRequired[dict[str, Any]]
    """{"kind": "asserts" | "calls" | "check" | "stdio", ...}; r1pipe/rewards/sandbox.py lists the keys of each kind."""

    entry_point: NotRequired[str]
    """The function that the tests call."""

    gym: NotRequired[dict[str, Any]]
    """What a scorer of reasoning-gym reads: task, question, metadata."""

    solution: NotRequired[str]
    """A worked solution, which `reuse` turns into a response."""

    level: NotRequired[int]
    """The number of reasoning steps that the problem needs."""


class ChatRow(Row):
    """A conversation that ends with the assistant's message."""

    messages: list[Message]

    source: NotRequired[str]
    """zero-traces, reuse, sampled, written, ..."""


class PairRow(Row):
    """Two responses to a prompt, of which one is preferred. Both are whole: thinking and summary."""

    prompt: str
    chosen: str
    rejected: str

    system: NotRequired[str]
    """As PromptRow.system."""

    margin: NotRequired[float]
    """The judge's mean verdict, -2 to 2."""


class LabelRow(Row):
    """A response that is labelled as safe or unsafe."""

    prompt: str
    response: str

    system: NotRequired[str]
    """As PromptRow.system."""

    safe: int
    """1 or 0"""
