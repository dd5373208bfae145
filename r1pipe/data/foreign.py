"""Rows in the shapes of other tools, recognised by their columns and put into ours.

| tool | columns |
| --- | --- |
| TRL | messages; prompt and completion (texts or messages); prompt?, chosen, rejected (texts or messages) |
| LLaMA-Factory, alpaca, Dolly | instruction, input? or context?, output or response, system?, history? |
| LLaMA-Factory, sharegpt | conversations (from, value), system?; chosen and rejected as one message each |
| axolotl | messages or conversations, with role and content or from and value |
| verl | prompt as messages, reward_model.ground_truth, ability; prompt and response |
| open-r1 | problem, solution, answer?, messages? |
| OpenThoughts | system, conversations; problem, deepseek_reasoning, deepseek_solution |

A message's speaker is told by its role, never by its place. Thinking that stands beside a reply (`reasoning_content`,
`thinking`, `reasoning`) becomes the reply's thinking; that of earlier turns is left out, as it is when R1 is used.
A row that is ours already stays the same object.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.data.foreign_prompts import (
    gold_beside,
    plain_gold,
    refuse_pictures,
    with_choices,
    with_level_and_domain,
)
from r1pipe.data.messages import (
    OUR_ROLES,
    ROW_THINKING,
    Message,
    Note,
    dialogue,
    ignore,
    question_of,
    read_messages,
    reply_with_thinking,
    thinking_of_row,
)
from r1pipe.errors import InputError
from r1pipe.text.response import as_response, split_response

Row = dict[str, Any]

_TURNS = ("messages", "conversations", "conversation")
_QUESTIONS = ("problem", "question", "query")
_REPLIES = ("response", "completion", "output", "deepseek_solution")
_SIDES = ("chosen", "rejected")
_SOLUTIONS = ("solution", "ground_truth_solution")


def in_our_shape(row: Row, kind: type[Artifact], where: str, note: Note = ignore) -> Row:
    """A row of `kind` in our columns, without its id, domain and language where it lacks them.

    Args:
        row: without columns that are null; not changed.
        note: called with every key of a message that is not read.

    Raises:
        InputError: messages or texts of the row cannot be read.
    """
    if kind is Chats:
        return _chat(row, where, note)
    if kind is Prompts:
        return _prompt(row, where, note)
    if kind is Pairs or (kind is Labels and "chosen" in row):
        return _pair(row, where, note)
    if kind is Labels:
        return _label(row, where, note)
    return row


# --- chats ------------------------------------------------------------------------------------------------------------


def _chat(row: Row, where: str, note: Note) -> Row:
    turns = row.get("messages")
    if isinstance(row.get("prompt"), list):
        turns = turns or [*row["prompt"], *_as_turns(_reply_of(row), "assistant")]
    if not isinstance(turns, list) and not (_text(row, "prompt") and _text(row, "response")):
        turns = _turns(row)
    if not isinstance(turns, list):
        return _chat_of_columns(row, where)

    beside = thinking_of_row(row, where)
    if turns is row.get("messages") and _are_ours(turns) and not _text(row, "system") and not beside:
        reply = turns[-1]["content"]
        whole = as_response(reply)
        if turns[-1]["role"] != "assistant" or whole is reply:
            return row
        return {**row, "messages": [*turns[:-1], {**turns[-1], "content": whole}]}

    messages = read_messages(turns, where, note)
    if messages and messages[-1]["role"] == "user":
        # The reply may stand in a column of its own.
        reply = _reply_of(row) or (row.get("answer") if beside else None)
        if isinstance(reply, str):
            messages.append({"role": "assistant", "content": as_response(reply)})
    if beside and messages and messages[-1]["role"] == "assistant":
        own, summary = split_response(messages[-1]["content"])
        if not own:
            messages[-1]["content"] = reply_with_thinking(summary, beside, where)
    rest = _without(row, (*_TURNS, "system", "prompt", *_REPLIES, *ROW_THINKING))
    return {**rest, "messages": _with_system(row, messages)}


def _chat_of_columns(row: Row, where: str) -> Row:
    """A chat that stands in columns: a question, a reply, and perhaps thinking, a system text and earlier turns."""
    question = _question(row)
    reply = _reply_of(row)
    if question is None or not isinstance(reply, str):
        return row
    messages: list[Message] = []
    for turn in row.get("history") or ():
        if (
            not isinstance(turn, Sequence)
            or len(turn) != 2
            or not all(isinstance(text, str) for text in turn)
        ):
            raise InputError("the history is not a list of pairs of texts", where, "[[question, reply], ...]")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    messages.append({"role": "user", "content": question})
    messages.append(
        {"role": "assistant", "content": reply_with_thinking(reply, thinking_of_row(row, where), where)}
    )
    used = (
        "prompt",
        "instruction",
        "input",
        "context",
        "history",
        "system",
        *_QUESTIONS,
        *_REPLIES,
        *ROW_THINKING,
    )
    return {**_without(row, used), "messages": _with_system(row, messages)}


def _are_ours(turns: Sequence[Any]) -> bool:
    for turn in turns:
        if type(turn) is not dict or len(turn) != 2:
            return False
        if turn.get("role") not in OUR_ROLES or type(turn.get("content")) is not str:
            return False
    return bool(turns)


def _with_system(row: Row, messages: list[Message]) -> list[Message]:
    """The messages behind the row's own system text, unless they have one."""
    system = _text(row, "system")
    if not system or messages[:1] and messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


# --- prompts, pairs, labels -------------------------------------------------------------------------------------------


def _prompt(row: Row, where: str, note: Note) -> Row:
    refuse_pictures(row, where)
    shaped = with_level_and_domain(_with_prompt(row, where, note))
    gold = shaped.get("answer")
    if gold is None:
        gold = _foreign_gold(shaped)
        tests = _tests_in(gold)
        if tests is not None:
            return {"domain": "code", **shaped, **tests}
        if gold is not None:
            shaped = {**shaped, "answer": gold}
    elif isinstance(gold, list):
        gold = [as_digits(item) for item in gold if item is not None]
        shaped = _without(shaped, ("answer",))
        if gold:
            # One accepted answer is no list.
            shaped["answer"] = gold if len(gold) > 1 else gold[0]
    elif isinstance(gold, int | float):
        shaped = {**shaped, "answer": as_digits(gold)}
    shaped = with_choices(shaped, where)
    if "answer" in shaped:
        shaped = plain_gold(shaped)
    if "domain" not in shaped and isinstance(shaped.get("ability"), str) and shaped["ability"].strip():
        shaped = {**shaped, "domain": shaped["ability"].strip().lower()}
    return shaped


def _tests_in(gold: Any) -> Row | None:
    """The columns of code rows, where a ground truth is JSON of inputs and outputs (PRIME, TACO in verl)."""
    if not isinstance(gold, str) or '"inputs"' not in gold or '"outputs"' not in gold:
        return None
    try:
        cases = json.loads(gold)
    except ValueError:
        return None
    if not isinstance(cases, dict) or not cases.get("inputs") or not cases.get("outputs"):
        return None
    pairs = {"inputs": cases["inputs"], "outputs": cases["outputs"]}
    if cases.get("fn_name"):
        return {"tests": {"kind": "calls", **pairs}, "entry_point": cases["fn_name"]}
    return {"tests": {"kind": "stdio", **pairs}}


def _foreign_gold(row: Row) -> Any:
    """The gold answer of a row without `answer`: verl's ground truth, or the box of a worked solution."""
    if row.get("tests") or row.get("gym"):
        return None
    beside = gold_beside(row)
    if beside is not None:
        return as_digits(beside)
    for name in _SOLUTIONS:
        if "\\boxed" in _text(row, name):
            from r1pipe.rewards.reading import boxed

            return boxed(row[name])
    return None


def _with_prompt(row: Row, where: str, note: Note) -> Row:
    """The row with the text of its question as `prompt`, and its system text as `system`."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return row
    if prompt is not None and not (isinstance(prompt, list) and prompt):
        raise InputError(
            "the prompt is neither a text nor a list of messages", where, "a message is {role, content}"
        )
    turns = prompt
    if turns is None:
        turns = _turns(row)
        question = _question(row)
        if question is not None:
            return {**_without(row, ("instruction", "input", "context", *_QUESTIONS)), "prompt": question}
    if turns is None:
        return row
    messages = _with_system(row, read_messages(turns, where, note))
    if prompt is None:
        # Of a whole conversation, what precedes the last reply is the prompt.
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
    system, text = question_of(messages, where)
    shaped = {**_without(row, (*_TURNS, "system")), "prompt": text}
    return {**shaped, "system": system} if system else shaped


def _pair(row: Row, where: str, note: Note) -> Row:
    if "prompt" not in row and _question(row) is None:
        row = {**row, **{name: dialogue(row[name]) for name in _SIDES if isinstance(row.get(name), str)}}
    sides = {name: row[name] for name in _SIDES if isinstance(row.get(name), list | Mapping)}
    if not sides:
        return _with_prompt(row, where, note)
    read = {name: read_messages(_as_turns(side, "assistant"), where, note) for name, side in sides.items()}
    shaped = {**row, **{name: _last_reply(turns, name, where) for name, turns in read.items()}}
    whole = read.get("chosen") or read["rejected"]
    if "prompt" not in row and len(whole) > 1 and _question(row) is None:
        # Both sides are whole conversations, which begin alike.
        beginnings = {str(turns[:-1]) for turns in read.values()}
        if len(beginnings) > 1:
            raise InputError("chosen and rejected begin differently", where, "both answer one prompt")
        shaped["prompt"] = whole[:-1]
    return _with_prompt(shaped, where, note)


def _last_reply(messages: Sequence[Message], name: str, where: str) -> str:
    if not messages or messages[-1]["role"] != "assistant":
        raise InputError(f"{name} does not end with a message of the assistant", where, "it is a reply")
    return messages[-1]["content"]


def _label(row: Row, where: str, note: Note) -> Row:
    shaped = _with_prompt(row, where, note)
    reply = _reply_of(shaped)
    if isinstance(reply, list | Mapping):
        messages = read_messages(_as_turns(reply, "assistant"), where, note)
        shaped = {**_without(shaped, _REPLIES), "response": _last_reply(messages, "the response", where)}
    elif isinstance(reply, str) and "response" not in shaped:
        shaped = {**_without(shaped, _REPLIES), "response": reply}
    if isinstance(shaped.get("safe"), bool):
        shaped = {**shaped, "safe": int(shaped["safe"])}
    return shaped


def as_digits(value: Any) -> Any:
    """A number as text; anything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value) if isinstance(value, int) else value


# --- helpers ----------------------------------------------------------------------------------------------------------


def _question(row: Row) -> str | None:
    """The question of a row in columns: prompt, instruction with its input, or what others call it."""
    if isinstance(row.get("prompt"), str):
        return row["prompt"]
    asked = _text(row, "instruction")
    more = _text(row, "input") if asked else ""
    if not asked:
        asked = next((row[name] for name in _QUESTIONS if isinstance(row.get(name), str)), "")
    if not asked:
        return None
    # The passage that the question is about: Dolly, SQuAD.
    parts = (asked, more, _text(row, "context"))
    return "\n\n".join(part for part in parts if part)


def _turns(row: Row) -> list[Any] | None:
    return next((row[name] for name in _TURNS if isinstance(row.get(name), list)), None)


def _reply_of(row: Row) -> Any:
    return next((row[name] for name in _REPLIES if name in row), None)


def _as_turns(reply: Any, role: str) -> list[Any]:
    """A reply as messages: it may be a text, one message or several."""
    if isinstance(reply, list):
        return reply
    return [reply] if isinstance(reply, Mapping) else [{"role": role, "content": reply}]


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) and value.strip() else ""


def _without(row: Row, names: Iterable[str]) -> Row:
    left_out = set(names)
    return {name: value for name, value in row.items() if name not in left_out}
