"""Counts of what makes the rows of a dataset doubtful. Beyond a share of the rows it is refused."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

from r1pipe.data.messages import Note
from r1pipe.errors import InputError
from r1pipe.schema import RowLimits
from r1pipe.text.response import THINK_CLOSE, split_response

# Reasons in dropped.jsonl.
EMPTY_REPLY = "empty reply"
UNCLOSED = "the thinking has no end"
EQUAL_PROMPT = "equal prompt"
EQUAL_ROW = "equal row"
EQUAL_SIDES = "equal responses"

_EMPTY_THINKING = "empty thinking"
_UNKNOWN_KEYS = "unknown keys"
_CONTROL_TOKENS = "control tokens"

# What chat templates write around turns. In a row it means that the text was rendered already.
# Each begins with one of these characters.
_FIRST_OF_A_TOKEN = "<["
_RENDERED = re.compile(
    r"<\|(?:im_start|im_end|eot_id|eom_id|start_header_id|end_header_id|begin_of_text|end_of_text|endoftext|channel"
    r"|message|user|assistant|system|end)\|>|<｜(?:User|Assistant|begin▁of▁sentence|end▁of▁sentence)｜>"
    r"|<start_of_turn>|<end_of_turn>|\[INST\]|\[/INST\]|<<SYS>>"
)
_TEXT_COLUMNS = ("prompt", "response", "chosen", "rejected")

# As shapes.id_of_contents makes them.
_MADE_ID = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?")

# Where rows of a problem stand, for a message.
_SHOWN = 3


def is_made_of_contents(name: str) -> bool:
    """Whether an id is a hash of its row's contents, so that rows with it are equal."""
    return _MADE_ID.fullmatch(name) is not None


class Tally:
    """Counts problems of rows while they are read.

    Attributes:
        rows: how many rows were looked at.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._counts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self._keys: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    def count(self, problem: str, where: str) -> None:
        """Count a row with a problem."""
        self._counts[problem] += 1
        places = self._places.setdefault(problem, [])
        if len(places) < _SHOWN:
            places.append(where)

    def note_of(self, where: str) -> Note:
        """Count a row; return what to call with the keys of its messages that are not read."""
        self.rows += 1
        noted: set[str] = set()

        def note(key: str) -> None:
            self._keys[key] += 1
            if not noted:
                self.count(_UNKNOWN_KEYS, where)
            noted.add(key)

        return note

    def look_at_chat(self, row: Mapping[str, Any], where: str) -> str:
        """Count what is missing in a chat's reply.

        Returns:
            why the row cannot be learned from; empty if it can.
        """
        response = row["messages"][-1]["content"]
        thinking, summary = split_response(response)
        reason = ""
        if not summary:
            reason = EMPTY_REPLY if thinking is None or THINK_CLOSE in response else UNCLOSED
            self.count(reason, where)
        if not thinking:
            self.count(_EMPTY_THINKING, where)
        return reason

    def look_at_texts(self, row: Mapping[str, Any], where: str) -> None:
        """Count a row of whose texts one holds control tokens of a chat template."""
        texts = [row[name] for name in _TEXT_COLUMNS if isinstance(row.get(name), str)]
        # A dataset of no special type may hold anything under any name.
        messages = row.get("messages")
        for message in messages if isinstance(messages, list) and "chosen" not in row else ():
            if isinstance(message, dict) and isinstance(message.get("content"), str):
                texts.append(message["content"])
        for text in texts:
            token = _control_token(text)
            if token:
                self._tokens[token] += 1
                self.count(_CONTROL_TOKENS, where)
                return

    def report(self, limits: RowLimits, name: str, field: str) -> None:
        """Refuse what is above a limit, and warn of what was left out.

        Args:
            name: of the dataset.
            field: where the limits stand in the config, with {name of the limit}.

        Raises:
            InputError: a share is too large; the error names the first rows.
        """
        if self._counts[_CONTROL_TOKENS] > limits.max_control_tokens * self.rows:
            tokens = ", ".join(token for token, _ in self._tokens.most_common(5))
            self._refuse(
                f"{self._counts[_CONTROL_TOKENS]} of {self.rows} rows hold control tokens of a chat template "
                f"({tokens}), which would be written twice",
                limits.max_control_tokens,
                _CONTROL_TOKENS,
                "give texts without the template around them, or `messages`; if they are meant, "
                f"raise `{field.format('max_control_tokens')}`",
            )
        empty = self._counts[EMPTY_REPLY] + self._counts[UNCLOSED]
        if empty > limits.max_empty_replies * self.rows:
            which = EMPTY_REPLY if self._counts[EMPTY_REPLY] else UNCLOSED
            self._refuse(
                f"{empty} of {self.rows} rows have an empty reply or thinking without an end",
                limits.max_empty_replies,
                which,
                "leave these rows out, or name the column that holds the reply; "
                f"or raise `{field.format('max_empty_replies')}`",
            )
        if self._counts[_UNKNOWN_KEYS] > limits.max_unknown_keys * self.rows:
            keys = ", ".join(key for key, _ in self._keys.most_common(5))
            self._refuse(
                f"{self._counts[_UNKNOWN_KEYS]} of {self.rows} rows have keys in messages that nothing reads ({keys})",
                limits.max_unknown_keys,
                _UNKNOWN_KEYS,
                "if a key holds thinking, call it `reasoning_content`, else remove it; "
                f"or raise `{field.format('max_unknown_keys')}`",
            )
        if self._counts[_EMPTY_THINKING] > limits.max_empty_thinking * self.rows:
            self._refuse(
                f"{self._counts[_EMPTY_THINKING]} of {self.rows} replies have no thinking",
                limits.max_empty_thinking,
                _EMPTY_THINKING,
                "put it into <think></think> or beside the content as `reasoning_content`; if the model should learn "
                f"to answer at once, raise `{field.format('max_empty_thinking')}`",
            )
        for problem in (EMPTY_REPLY, UNCLOSED, EQUAL_PROMPT, EQUAL_ROW, EQUAL_SIDES):
            if self._counts[problem]:
                warnings.warn(
                    f"{name}: {self._counts[problem]} rows left out ({problem}), e.g. {self._places[problem][0]}",
                    stacklevel=3,
                )

    def _refuse(self, what: str, limit: float, problem: str, fix: str) -> None:
        raise InputError(f"{what}; {limit:.0%} may", "; ".join(self._places[problem]), fix)


def _control_token(text: str) -> str:
    """A token of a chat template in this text; empty if there is none."""
    # One character is found thirty times as fast as two, and in traces of 27 KB these are rare.
    for first in _FIRST_OF_A_TOKEN:
        place = text.find(first)
        while place >= 0:
            found = _RENDERED.match(text, place)
            if found:
                return found[0]
            place = text.find(first, place + 1)
    return ""
