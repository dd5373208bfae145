"""The shapes of a user's file, and how rows of each kind are made of them.

| shape | columns read | gives |
| --- | --- | --- |
| rows | ours, after `columns`, `templates`, `values`; or a shape of r1pipe/data/foreign.py | any kind |
| trl, alpaca, sharegpt, axolotl, verl, open-r1, openthoughts | as there; another shape is refused | any kind |
| instruction | instruction, input?, output? | prompts or chats |
| compared | (prompt or instruction, input?), response1, response2, label 1/2/tie | pairs; ties are dropped |
| chosen-rejected | prompt (text or messages), chosen, rejected | pairs, or labels: chosen = safe, rejected = unsafe |
| reference-tests | prompt, solution, entry_point, inputs (argument lists), atol? | prompts with tests (EvalPlus) |
| refused | prompt, domain | labels of harmful requests without replies: a plain refusal, safe; other rows are dropped |

The tests of `reference-tests` compare what a program returns with what `solution` returns.

The labels of `chosen-rejected` are a proxy: that people preferred one reply does not mean that the other is unsafe. It
holds often enough in harmlessness comparisons (Anthropic's HH) to train on if there is nothing better. No guideline is
applied.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.data.files import Row
from r1pipe.data.foreign import as_digits, in_our_shape
from r1pipe.data.io import column_names, domain_of, id_of_contents, rename_columns, short, value_at
from r1pipe.data.messages import Note, ignore
from r1pipe.errors import InputError
from r1pipe.text.response import as_response
from r1pipe.text.rows import GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN

if TYPE_CHECKING:
    from r1pipe.data.sources import Source


# Kind of tests -> the keys that it needs.
TEST_KINDS = {
    "asserts": ("asserts",),
    "calls": ("inputs",),
    "check": ("code",),
    "stdio": ("inputs", "outputs"),
}
REFUSALS = {"en": "I'm sorry, but I can't help with that.", "zh": "抱歉，我不能帮助你做这件事。"}

# The reason in dropped.jsonl.
UNREADABLE = "the answer cannot be read"

_MAP_IT = "map it with `columns: {OURS: THEIRS}`"
_CHAT_NEEDS = "a chat needs messages, or prompt and response"

# {column} or {list:A} in a template, and {{name}} in a text to fill.
_COLUMN_SLOT = re.compile(r"\{([\w.-]+)(:A)?\}")
_FILL_SLOT = re.compile(r"\{\{(\w+)\}\}")


class Skip(Exception):
    """The row is not used; the text is the reason in dropped.jsonl."""


# --- shapes: a raw row to rows in our columns -------------------------------------------------------------------------


def as_rows(raw: Row, source: Source, where: str) -> list[Row]:
    return [_in_our_columns(raw, source, where)]


def as_instruction(raw: Row, source: Source, where: str) -> list[Row]:
    row = _in_our_columns(raw, source, where)
    prompt = _instruction(row, where)
    rest = {name: value for name, value in row.items() if name not in ("instruction", "input", "output")}
    shaped = {**rest, "prompt": prompt}
    if "output" in row:
        shaped["response"] = row["output"]
    return [shaped]


def as_compared(raw: Row, source: Source, where: str) -> list[Row]:
    row = _in_our_columns(raw, source, where)
    _need_texts(row, ("response1", "response2"), where)
    _need(row, ("label",), where)
    label = str(row["label"])
    # A tie, or what else a labeller may have written.
    if label not in ("1", "2"):
        raise Skip("no clear preference")
    _skip_equal(row["response1"], row["response2"])
    prompt = row["prompt"] if "prompt" in row else _instruction(row, where)
    if label == "1":
        return [_pair(row, prompt, chosen=row["response1"], rejected=row["response2"])]
    return [_pair(row, prompt, chosen=row["response2"], rejected=row["response1"])]


def as_chosen_rejected(raw: Row, source: Source, where: str) -> list[Row]:
    row = in_our_shape(_in_our_columns(raw, source, where), Pairs, where)
    _need(row, ("prompt",), where)
    _need_texts(row, ("chosen", "rejected"), where)
    _skip_equal(row["chosen"], row["rejected"])
    return [_pair(row, row["prompt"], chosen=row["chosen"], rejected=row["rejected"])]


def as_reference_tests(raw: Row, source: Source, where: str) -> list[Row]:
    row = _in_our_columns(raw, source, where)
    _need_texts(row, ("solution", "entry_point"), where)
    _need(row, ("inputs",), where)
    inputs = row.pop("inputs")
    if not isinstance(inputs, list) or not all(isinstance(arguments, list) for arguments in inputs):
        raise InputError(
            "inputs is not a list of argument lists", where, "map it with `columns: {inputs: THEIRS}`"
        )
    atol = row.pop("atol", 0)
    if not isinstance(atol, int | float):
        raise InputError(
            f"column 'atol' holds {short(atol)}, and must be a number",
            where,
            "map another with `columns: {atol: THEIRS}`",
        )
    return [{**row, "tests": {"kind": "calls", "inputs": inputs, "reference": row["solution"], "atol": atol}}]


def as_refused(raw: Row, source: Source, where: str) -> list[Row]:
    row = _in_our_columns(raw, source, where)
    _need(row, ("prompt", "domain"), where)
    if row["domain"] != HARMFUL_DOMAIN:
        raise Skip("no response to label")
    # The model learns to refuse in the language of the request.
    language = row.get("language") or source.language
    refusal = REFUSALS["zh" if language == "zh" else "en"]
    return [{**row, "response": refusal, "safe": 1}]


def as_named(raw: Row, source: Source, where: str, columns: tuple[str, ...]) -> list[Row]:
    """A row in the shape of another tool, which has one of these columns; `finish` puts it into ours."""
    row = _in_our_columns(raw, source, where)
    if not any(name in row for name in columns):
        raise InputError(
            f"no column {' or '.join(map(repr, columns))}, which the shape {source.shape} has",
            where,
            f"the row has {column_names(row)}; `shape: rows` looks for any known shape",
        )
    return [row]


# Shape of another tool -> columns of which a row has at least one.
NAMED_SHAPES: dict[str, tuple[str, ...]] = {
    "trl": ("messages", "prompt", "chosen"),
    "alpaca": ("instruction",),
    "sharegpt": ("conversations",),
    "axolotl": ("messages", "conversations", "instruction"),
    "verl": ("prompt", "messages"),
    "open-r1": ("problem", "messages"),
    "openthoughts": ("conversations", "problem"),
}

SHAPES: dict[str, Callable[[Row, Source, str], list[Row]]] = {
    **{name: partial(as_named, columns=columns) for name, columns in NAMED_SHAPES.items()},
    "rows": as_rows,
    "instruction": as_instruction,
    "compared": as_compared,
    "chosen-rejected": as_chosen_rejected,
    "reference-tests": as_reference_tests,
    "refused": as_refused,
}


def _in_our_columns(raw: Row, source: Source, where: str) -> Row:
    """The row with our names and our values."""
    row = rename_columns(raw, source.columns, where)
    for ours, template in source.templates.items():
        row[ours] = _fill_template(template, raw, where)
    for column, mapping in source.values.items():
        if column not in row:
            continue
        value = str(row[column])
        if value not in mapping:
            raise InputError(
                f"column {column!r} holds {short(row[column])}, which `values` does not map",
                where,
                f"it maps {', '.join(mapping)}",
            )
        row[column] = mapping[value]
    return row


def _fill_template(template: str, raw: Row, where: str) -> str:
    """The text of a template: {column} is a value, {list} its items as lines, {list:A} as A) ..., B) ..."""

    def text(slot: re.Match[str]) -> str:
        value = value_at(raw, slot[1], where, f" (in the template {template!r})")
        items = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        if slot[2]:
            items = [f"{chr(ord('A') + number)}) {item}" for number, item in enumerate(items)]
        return "\n".join(items)

    return _COLUMN_SLOT.sub(text, template)


def _instruction(row: Row, where: str) -> str:
    """The prompt of an instruction: its text and, if there is one, its input."""
    if not row.get("input"):
        _need_texts(row, ("instruction",), where)
        return row["instruction"]
    _need_texts(row, ("instruction", "input"), where)
    return f"{row['instruction']}\n\n{row['input']}"


def _skip_equal(first: str, second: str) -> None:
    if first.strip() == second.strip():
        raise Skip("the two responses are equal")


def _pair(row: Row, prompt: Any, *, chosen: str, rejected: str) -> Row:
    tags = {name: row[name] for name in ("system", "domain", "language", "margin") if name in row}
    return {"id": row.get("id"), "prompt": prompt, "chosen": chosen, "rejected": rejected, **tags}


# --- the last steps, which are the same for all shapes ----------------------------------------------------------------


def finish(
    row: Row,
    kind: type[Artifact],
    source: Source,
    where: str,
    *,
    fill: dict[str, str],
    note: Note = ignore,
) -> list[Row]:
    """Make rows of `kind` with the defaults of the source.

    Args:
        note: called with every key of a message that is not read.

    Returns:
        one row; two if a comparison is read as labels.
    """
    row = dict(row)
    # People's files often have numbers in these columns; they mean their digits.
    for column in ("id", "answer"):
        if column in row:
            row[column] = as_digits(row[column])
    if source.answer_after and "answer" in row:
        _split_answer(row, source.answer_after, where)
    row = in_our_shape(row, kind, where, note)
    if kind is Chats:
        if not isinstance(row.get("messages"), list):
            _need_texts(row, ("prompt", "response"), where, hint=_CHAT_NEEDS)
    else:
        _need_texts(row, ("prompt",), where, hint="map it: `columns: {prompt: THEIRS}`")

    # A file of one domain states it once, in the config.
    row["domain"] = row.get("domain") or source.domain or domain_of(row, kind)
    if source.language and "language" not in row:
        row["language"] = source.language
    if not row.get("id"):
        row["id"] = id_of_contents(row, kind)

    if kind is Chats:
        messages = [
            {**message, "content": _fill(message["content"], fill, where)} for message in row["messages"]
        ]
        return [{**row, "messages": messages, "source": row.get("source", "reuse")}]
    if kind is Pairs:
        _need_texts(row, ("chosen", "rejected"), where)
        _skip_equal(row["chosen"], row["rejected"])
        return [{**row, "chosen": as_response(row["chosen"]), "rejected": as_response(row["rejected"])}]
    if kind is Labels and "chosen" in row:
        return _two_labels(row, where)
    if kind is Labels and isinstance(row.get("response"), str):
        return [{**row, "response": as_response(row["response"])}]
    if kind is Prompts and "tests" in row:
        _check_tests(row["tests"], where)
    return [row]


def _split_answer(row: Row, mark: str, where: str) -> None:
    """Split the column `answer` at the last mark into solution and answer, in place."""
    _need_texts(row, ("answer",), where)
    solution, separator, answer = row["answer"].rpartition(mark)
    if not separator:
        raise InputError(f"the answer has no {mark!r}", where, "drop `answer_after`, or correct the row")
    row["solution"] = solution.strip()
    row["answer"] = answer.strip()


def _two_labels(row: Row, where: str) -> list[Row]:
    _need_texts(row, ("chosen", "rejected"), where)
    base = {name: value for name, value in row.items() if name not in ("chosen", "rejected")}
    labels = []
    for side, safe in (("chosen", 1), ("rejected", 0)):
        label = {
            **base,
            "id": f"{row['id']}:{side}",
            "response": as_response(row[side]),
            "safe": safe,
        }
        labels.append(label)
    return labels


def _fill(text: str, fill: dict[str, str], where: str) -> str:
    """The text with {{name}} filled in.

    Without anything to fill in, double braces may be part of a text. The two names of the identity rows never are.
    """
    # One character is found much faster than a name.
    if "{" not in text:
        return text
    if not fill and "{{name}}" not in text and "{{author}}" not in text:
        return text

    def value(slot: re.Match[str]) -> str:
        name = slot[1]
        if name not in fill:
            raise InputError(f"nothing fills {{{{{name}}}}}", where, f"give `identity: {{{name}: ...}}`")
        return fill[name]

    return _FILL_SLOT.sub(value, text)


# --- checks -----------------------------------------------------------------------------------------------------------


def unreadable_gold(rows: list[Row], *, formulas: bool = True) -> list[str | None]:
    """For each row: why its gold answer cannot be used, or None.

    Rows with tests, or without an answer, have nothing to read. Of several accepted answers one must be readable.

    Args:
        formulas: also compare formulas with themselves, which takes processes of their own.
    """
    from r1pipe.rewards import symbolic
    from r1pipe.rewards.answers import is_prose, parse

    reasons: list[str | None] = [None] * len(rows)
    # (row, answer) of rows with formulas alone, and the rows that one of these saves.
    to_compare: list[tuple[int, str]] = []
    for number, row in enumerate(rows):
        if not _judged_by_answer(row):
            continue
        golds = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
        kinds = ["broken" if is_prose(gold) else parse(gold).kind for gold in golds]
        if set(kinds) <= {"broken"}:
            reasons[number] = UNREADABLE
        elif set(kinds) <= {"broken", "maths"}:
            to_compare += [(number, gold) for gold, kind in zip(golds, kinds, strict=True) if kind == "maths"]
    if not formulas:
        return reasons

    # A formula can be read if math-verify can compare it with itself. All go together: a few processes share them.
    verdicts = symbolic.equal([(gold, gold) for _, gold in to_compare])
    readable = {
        number for (number, _), verdict in zip(to_compare, verdicts, strict=True) if verdict is not None
    }
    for number, _ in to_compare:
        if number not in readable:
            reasons[number] = UNREADABLE
    return reasons


def _judged_by_answer(row: Row) -> bool:
    """Whether `accuracy` compares responses with the row's gold answer."""
    if "answer" not in row or "tests" in row or "gym" in row:
        return False
    return row["domain"] not in (GENERAL_DOMAIN, HARMFUL_DOMAIN, LOOKALIKE_DOMAIN)


def _need(row: Row, columns: tuple[str, ...], where: str, hint: str = _MAP_IT) -> None:
    for column in columns:
        if column not in row:
            raise InputError(f"no column {column!r}", where, f"the row has {column_names(row)}; {hint}")


def _need_texts(row: Row, columns: tuple[str, ...], where: str, hint: str = _MAP_IT) -> None:
    _need(row, columns, where, hint)
    for name in columns:
        if not isinstance(row[name], str):
            raise InputError(f"column {name!r} holds {short(row[name])}, and must be a string", where, hint)


def _check_tests(tests: Any, where: str) -> None:
    kind = tests.get("kind") if isinstance(tests, dict) else None
    if kind not in TEST_KINDS:
        raise InputError(f"tests has kind {kind!r}", where, f"it is one of {', '.join(TEST_KINDS)}")
    needed = TEST_KINDS[kind]
    for name in needed:
        if not tests.get(name):
            raise InputError(
                f"tests of kind {kind!r} have no {name!r}", where, f"they need {', '.join(needed)}"
            )
    if kind == "calls" and not (tests.get("outputs") or tests.get("reference")):
        raise InputError(
            "tests of kind 'calls' have neither 'outputs' nor 'reference'",
            where,
            "give what each call returns, or a program that computes it",
        )
