"""How the columns of a user's file lie, and how each kind of row is made of them.

| shape | columns read | gives |
| --- | --- | --- |
| rows | ours, after `columns`, `templates` and `values` | any kind; a chat from messages, or from prompt, response and thinking? |
| instruction | instruction, input?, output? | prompts or chats |
| compared | (prompt or instruction, input?), response1, response2, label 1/2/tie | pairs; ties are dropped |
| chosen-rejected | prompt (text or messages), chosen, rejected | pairs, or labels: chosen = safe, rejected = unsafe |
| reference-tests | prompt, solution, entry_point, inputs (argument lists), atol? | prompts whose tests compare with what `solution` returns (EvalPlus) |
| refused | prompt, domain | labels of harmful requests that have no replies: a plain refusal, safe; other rows are dropped |

The labels of `chosen-rejected` are a proxy: that people preferred one reply does not say that the other is unsafe. It holds often
enough in harmlessness comparisons (Anthropic's HH) to train on where there is nothing better, and no guideline is applied.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.data.io import names, rename, short, value_at
from r1pipe.errors import InputError
from r1pipe.text.response import THINK_OPEN, join_response
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN
from r1pipe.text.splits import content_key

if TYPE_CHECKING:
    from r1pipe.data.sources import Source

Raw = dict[str, Any]
TEST_KINDS = {"asserts": ("asserts",), "calls": ("inputs",), "check": ("code",), "stdio": ("inputs", "outputs")}
REFUSALS = {"en": "I'm sorry, but I can't help with that.", "zh": "抱歉，我不能帮助你做这件事。"}
UNREADABLE = "the answer cannot be read"


class Skip(Exception):
    """This row is not used; the text is the reason in dropped.jsonl."""


def as_rows(raw: Raw, source: Source, where: str) -> list[Raw]:
    return [_own(raw, source, where)]


def as_instruction(raw: Raw, source: Source, where: str) -> list[Raw]:
    row = _own(raw, source, where)
    prompt = _instruction(row, where)
    rest = {name: value for name, value in row.items() if name not in ("instruction", "input", "output")}
    return [{**rest, "prompt": prompt, **({"response": row["output"]} if "output" in row else {})}]


def as_compared(raw: Raw, source: Source, where: str) -> list[Raw]:
    row = _own(raw, source, where)
    _texts(row, ("response1", "response2"), where)
    _need(row, ("label",), where)
    label = str(row["label"])
    if label not in ("1", "2"):
        raise Skip("no clear preference")
    chosen, rejected = ("response1", "response2") if label == "1" else ("response2", "response1")
    if row[chosen].strip() == row[rejected].strip():
        raise Skip("the two responses are equal")
    prompt = row["prompt"] if "prompt" in row else _instruction(row, where)
    return [{"id": row.get("id"), "prompt": prompt, "chosen": row[chosen], "rejected": row[rejected], **_tags(row)}]


def as_chosen_rejected(raw: Raw, source: Source, where: str) -> list[Raw]:
    row = _own(raw, source, where)
    _need(row, ("prompt",), where)
    _texts(row, ("chosen", "rejected"), where)
    if row["chosen"].strip() == row["rejected"].strip():
        raise Skip("the two responses are equal")
    return [
        {
            "id": row.get("id"),
            "prompt": row["prompt"],
            "chosen": row["chosen"],
            "rejected": row["rejected"],
            **_tags(row),
        }
    ]


def as_reference_tests(raw: Raw, source: Source, where: str) -> list[Raw]:
    row = _own(raw, source, where)
    _texts(row, ("solution", "entry_point"), where)
    _need(row, ("inputs",), where)
    if not isinstance(row["inputs"], list) or not all(isinstance(given, list) for given in row["inputs"]):
        raise InputError("inputs is no list of argument lists", where, "map it with `columns: {inputs: THEIRS}`")
    inputs, atol = row.pop("inputs"), row.pop("atol", 0)
    if not isinstance(atol, int | float):
        raise InputError(
            f"column 'atol' holds {short(atol)}, and must be a number",
            where,
            "map another with `columns: {atol: THEIRS}`",
        )
    return [{**row, "tests": {"kind": "calls", "inputs": inputs, "reference": row["solution"], "atol": atol}}]


def as_refused(raw: Raw, source: Source, where: str) -> list[Raw]:
    row = _own(raw, source, where)
    _need(row, ("prompt", "domain"), where)
    if row["domain"] != HARMFUL_DOMAIN:
        raise Skip("no response to label")
    return [
        {**row, "response": REFUSALS["zh" if (row.get("language") or source.language) == "zh" else "en"], "safe": 1}
    ]


SHAPES: dict[str, Callable[[Raw, Source, str], list[Raw]]] = {
    "rows": as_rows,
    "instruction": as_instruction,
    "compared": as_compared,
    "chosen-rejected": as_chosen_rejected,
    "reference-tests": as_reference_tests,
    "refused": as_refused,
}


def finish(row: Raw, kind: type[Artifact], source: Source, where: str, fill: dict[str, str]) -> list[Raw]:
    """Rows of `kind`, with the defaults of the source; one row, except that a comparison read as labels gives two."""
    row = dict(row)
    if not isinstance(row.get("messages"), list) or kind is not Chats:
        _need(row, ("prompt",), where, hint="map it: `columns: {prompt: THEIRS}`")
        row["prompt"] = flatten(row["prompt"], where)
    row["domain"] = row.get("domain") or source.domain or (HARMFUL_DOMAIN if kind is Labels else GENERAL_DOMAIN)
    if source.language and "language" not in row:
        row["language"] = source.language
    for column in ("id", "answer"):  # numbers are common here in people's files, and mean their digits
        if isinstance(row.get(column), (int, float)) and not isinstance(row[column], bool):
            row[column] = f"{row[column]:.15g}" if isinstance(row[column], float) else str(row[column])
    if source.answer_after and "answer" in row:
        _texts(row, ("answer",), where)
        row["solution"], mark, answer = row["answer"].rpartition(source.answer_after)
        if not mark:
            raise InputError(
                f"the answer has no {source.answer_after!r}", where, "drop `answer_after`, or correct the row"
            )
        row["solution"], row["answer"] = row["solution"].strip(), answer.strip()
    if not row.get("id"):
        row["id"] = _named(row, kind)
    if kind is Chats:
        return [_chat(row, where, fill)]
    if kind is Pairs:
        _texts(row, ("chosen", "rejected"), where)
        return [{**row, "chosen": whole(row["chosen"]), "rejected": whole(row["rejected"])}]
    if kind is Labels and "chosen" in row:
        _texts(row, ("chosen", "rejected"), where)
        base = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
        return [
            {**base, "id": f"{row['id']}:{side}", "response": whole(row[side]), "safe": safe}
            for side, safe in (("chosen", 1), ("rejected", 0))
        ]
    if kind is Labels and isinstance(row.get("response"), str):
        return [{**row, "response": whole(row["response"])}]
    if kind is Prompts and "tests" in row:
        _check_tests(row["tests"], where)
    return [row]


def _named(row: Raw, kind: type[Artifact]) -> str:
    """An id of the contents: of the prompt, where case and spacing do not count, and but for prompts of all that is said in reply, where they do."""
    prompt = content_key(str(row.get("prompt") or row.get("messages")))
    replies = [str(row[name]) for name in ("messages", "thinking", "response", "chosen", "rejected") if name in row]
    if kind is Prompts or not row.get("prompt") or not replies:
        return prompt
    return f"{prompt}-{hashlib.sha256(chr(0).join(replies).encode()).hexdigest()[:16]}"


def whole(text: str) -> str:
    """A file's reply as a response of ours: with an empty thinking, unless it has one."""
    return text if THINK_OPEN in text else join_response("", text.strip())


def flatten(prompt: Any, where: str) -> str:
    """A prompt that is a list of messages as one text: the turns before the last are quoted with their roles."""
    if isinstance(prompt, str):
        return prompt
    try:
        *before, last = [(message["role"].capitalize(), message["content"].strip()) for message in prompt]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise InputError(
            "the prompt is neither a text nor a list of messages", where, "a message is {role, content}"
        ) from None
    if not before:
        return last[1]
    return "\n\n".join(f"{role}: {content}" for role, content in (*before, last))


def unreadable_gold(rows: list[Raw]) -> list[str | None]:
    """For each row: why its gold answer cannot be used, or None. Rows with tests, or without an answer, have none to read."""
    from r1pipe.rewards import symbolic
    from r1pipe.rewards.answers import parse

    reasons: list[str | None] = [None] * len(rows)
    algebra: list[int] = []
    for number, row in enumerate(rows):
        if (
            "answer" in row
            and "tests" not in row
            and "gym" not in row
            and row["domain"] not in (GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN)
        ):
            kind = parse(row["answer"]).kind
            if kind == "broken":
                reasons[number] = UNREADABLE
            elif kind == "maths":
                algebra.append(number)
    for number, verdict in zip(
        algebra, symbolic.equal([(rows[number]["answer"],) * 2 for number in algebra]), strict=True
    ):
        if verdict is None:
            reasons[number] = UNREADABLE
    return reasons


def _chat(row: Raw, where: str, fill: dict[str, str]) -> Raw:
    if not isinstance(row.get("messages"), list):
        _texts(
            row,
            ("response", *(("thinking",) if "thinking" in row else ())),
            where,
            hint="a chat needs messages, or prompt and response",
        )
        response = join_response(row.pop("thinking"), row.pop("response")) if "thinking" in row else row.pop("response")
        row["messages"] = [{"role": "user", "content": row.pop("prompt")}, {"role": "assistant", "content": response}]
    try:
        messages = [{**message, "content": _fill(message["content"], fill, where)} for message in row["messages"]]
    except (TypeError, KeyError):
        raise InputError(
            "the messages are not all {role, content}, both texts",
            where,
            "a chat needs messages, or prompt and response",
        ) from None
    if messages and messages[-1].get("role") == "assistant":
        messages[-1] = {**messages[-1], "content": whole(messages[-1]["content"])}
    return {**row, "messages": messages, "source": row.get("source", "reuse")}


def _fill(text: str, fill: dict[str, str], where: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in fill:
            raise InputError(f"nothing fills {{{{{match[1]}}}}}", where, f"give `identity: {{{match[1]}: ...}}`")
        return fill[match[1]]

    return re.sub(r"\{\{(\w+)\}\}", value, text) if fill or "{{name}}" in text or "{{author}}" in text else text


def _instruction(row: Raw, where: str) -> str:
    _texts(row, ("instruction", *(("input",) if row.get("input") else ())), where)
    return f"{row['instruction']}\n\n{row['input']}" if row.get("input") else row["instruction"]


def _own(raw: Raw, source: Source, where: str) -> Raw:
    """The row under our names and with our values."""
    row = rename(raw, source.columns, where)
    row.update({ours: _filled(template, raw, where) for ours, template in source.templates.items()})
    for column, mapping in source.values.items():
        if column in row:
            if str(row[column]) not in mapping:
                raise InputError(
                    f"column {column!r} holds {short(row[column])}, which `values` does not map",
                    where,
                    f"it maps {', '.join(mapping)}",
                )
            row[column] = mapping[str(row[column])]
    return row


def _filled(template: str, raw: Raw, where: str) -> str:
    def text(match: re.Match[str]) -> str:
        value = value_at(raw, match[1], where, f" (in the template {template!r})")
        items = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        return (
            "\n".join(f"{chr(ord('A') + number)}) {item}" for number, item in enumerate(items))
            if match[2]
            else "\n".join(items)
        )

    return re.sub(r"\{([\w.-]+)(:A)?\}", text, template)


def _tags(row: Raw) -> Raw:
    return {name: row[name] for name in ("domain", "language", "margin") if name in row}


def _need(row: Raw, columns: tuple[str, ...], where: str, hint: str = "map it with `columns: {OURS: THEIRS}`") -> None:
    missing = [column for column in columns if column not in row]
    if missing:
        raise InputError(f"no column {missing[0]!r}", where, f"the row has {names(row)}; {hint}")


def _texts(row: Raw, columns: tuple[str, ...], where: str, hint: str = "map it with `columns: {OURS: THEIRS}`") -> None:
    _need(row, columns, where, hint)
    for name in columns:
        if not isinstance(row[name], str):
            raise InputError(f"column {name!r} holds {short(row[name])}, and must be a string", where, hint)


def _check_tests(tests: Any, where: str) -> None:
    kind = tests.get("kind") if isinstance(tests, dict) else None
    if kind not in TEST_KINDS:
        raise InputError(f"tests has kind {kind!r}", where, f"it is one of {', '.join(TEST_KINDS)}")
    if missing := [name for name in TEST_KINDS[kind] if not tests.get(name)]:
        raise InputError(
            f"tests of kind {kind!r} have no {missing[0]!r}", where, f"they need {', '.join(TEST_KINDS[kind])}"
        )
    if kind == "calls" and not (tests.get("outputs") or tests.get("reference")):
        raise InputError(
            "tests of kind 'calls' have neither 'outputs' nor 'reference'",
            where,
            "give what each call returns, or a program that says so",
        )
