"""The column contracts: what a row of each dataset holds.

A row is a plain dict; these classes say which columns a reader may rely on. A reader leaves extra columns as they are; a stage that
makes chats of prompts keeps the problem's domain, language and level (candidates.as_chat), and no more.
`domain` names what kind of task a row is; evaluation reports one suite for each.
"""

from __future__ import annotations

from typing import Any, NotRequired

from typing_extensions import TypedDict  # pydantic checks these classes, and on 3.11 wants this one

REASONING_DOMAINS = ("math", "word-problems", "code", "logic", "choice")
GENERAL_DOMAIN = "general"
HARMFUL_DOMAIN = "harmful"  # should be refused; suite 'harmless'
LOOKALIKE_DOMAIN = "lookalike"  # sounds harmful and is not; suite 'over-refusal'


class Message(TypedDict):
    role: str  # system, user or assistant
    content: str


class Row(TypedDict):
    id: str  # unique in its dataset; equal ids mean the same problem across datasets
    domain: str
    language: NotRequired[str]  # ISO 639-1 code of the question


class PromptRow(Row):
    prompt: str
    answer: NotRequired[str]  # gold, for the accuracy reward
    tests: NotRequired[
        dict[str, Any]
    ]  # {"kind": "asserts" | "calls" | "check" | "stdio", ...}: r1pipe/rewards/sandbox.py says which columns
    entry_point: NotRequired[str]  # the function that the tests call
    gym: NotRequired[dict[str, Any]]  # what a scorer of reasoning-gym reads: task, question, metadata
    solution: NotRequired[str]  # a worked solution ('reuse')
    level: NotRequired[int]  # reasoning steps needed


class ChatRow(Row):
    messages: list[Message]
    source: NotRequired[str]  # zero-traces, reuse, sampled, written, ...


class PairRow(Row):
    prompt: str
    chosen: str  # a whole response, thinking included
    rejected: str
    margin: NotRequired[float]  # mean verdict of the judge, -2..2


class LabelRow(Row):
    prompt: str
    response: str
    safe: int  # 1 or 0
