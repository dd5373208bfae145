"""What a chat template does to a reply: where it ends, whether its thinking survives, what is written before it begins.

All of it is found by rendering one question and one reply, so it holds for templates that nobody has seen. Whoever has
something that renders can ask: a tokenizer of transformers in a stage, jinja2 alone while a run is planned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from r1pipe.text.response import THINK_CLOSE, THINK_OPEN, join_response

# Words that no template contains.
QUESTION = "Question-7f3a"
THINKING = "Thinking-7f3a"
SUMMARY = "Summary-7f3a"
REPLY = join_response(THINKING, SUMMARY)

# Of a number that a chat template computes (our choice): products of such numbers take microseconds.
MOST_BITS = 100_000
_WIDE = re.compile(r"\d{6}")

_OPENED = re.compile(rf"{THINK_OPEN}\s*(?:{THINK_CLOSE}\s*)?\Z")

Render = Callable[[list[dict[str, str]], bool], str]
"""(messages, add_generation_prompt) -> text"""


@dataclass(frozen=True)
class ChatFormat:
    """What a template does.

    Attributes:
        prompt: the question with the generation prompt.
        turn: the question and the reply.
        prefill: the beginning of the reply that the generation prompt has already written: `<think>` and white space,
            or a whole empty think block; empty where the reply begins at its beginning.
        closing: what follows a reply.
        keeps_thinking: the last reply is rendered with all that it says.
    """

    prompt: str
    turn: str
    prefill: str
    closing: str
    keeps_thinking: bool

    @property
    def unprompted(self) -> str:
        """What stands in front of a reply, and the generation prompt does not write."""
        shown = self.prompt.removesuffix(self.prefill)
        if not self.turn.startswith(shown):
            return ""
        rest = self.turn[len(shown) :]
        begins = [place for place in (rest.find(THINK_OPEN), rest.find(SUMMARY)) if place >= 0]
        return rest[: min(begins)] if begins else ""

    def closing_token(self, tokens: Collection[str]) -> str:
        """The one of these tokens that closes a reply; empty where ordinary text does, or nothing."""
        closing = self.closing.lstrip()
        return max((token for token in tokens if token and closing.startswith(token)), key=len, default="")


def chat_format(render: Render) -> ChatFormat:
    """Find out what a template does. What `render` raises is passed on."""
    question = {"role": "user", "content": QUESTION}
    prompt = render([question], True)
    turn = render([question, {"role": "assistant", "content": REPLY}], False)
    return ChatFormat(
        prompt=prompt,
        turn=turn,
        prefill=prefill_of(prompt),
        closing=turn.rpartition(SUMMARY)[2] if SUMMARY in turn else "",
        keeps_thinking=says(turn, REPLY),
    )


def prefill_of(prompt: str) -> str:
    r"""The beginning of the reply with which a prompt ends.

    >>> prefill_of("User: 1+1 Assistant: <think>\n"), prefill_of("Think between <think> and </think>. 1+1")
    ('<think>\n', '')
    """
    opened = _OPENED.search(prompt)
    return opened.group() if opened else ""


def says(rendered: str, reply: str) -> bool:
    r"""Whether a text contains a reply, whatever the white space between its words.

    >>> says("<think>\na\n</think>\n\nb", "<think>a</think>b"), says("b", "<think>a</think>b")
    (True, False)
    """
    return reply in rendered or "".join(reply.split()) in "".join(rendered.split())


def without_prefill(reply: str, prefill: str) -> str:
    r"""The rest of a reply whose beginning the prompt has already written.

    A reply without thinking, after a prompt that opens it, closes it first.

    >>> without_prefill("<think>a</think>b", "<think>\n"), without_prefill("b", "<think>\n")
    ('a</think>b', '</think>b')
    """
    if not prefill:
        return reply
    if reply.startswith(prefill):
        return reply[len(prefill) :]
    stripped = reply.lstrip()
    if THINK_CLOSE in prefill:
        empty = re.match(rf"{THINK_OPEN}\s*{THINK_CLOSE}\s*", stripped)
        return stripped[empty.end() :] if empty else reply
    if stripped.startswith(THINK_OPEN):
        return stripped[len(THINK_OPEN) :].lstrip()
    return reply if THINK_CLOSE in reply else THINK_CLOSE + reply


def message_renderer(template: str, tokens: dict[str, str], now: datetime) -> Render:
    """A template as transformers renders it, without transformers.

    Args:
        template: of jinja2.
        tokens: bos_token, eos_token and their kin, by name.
        now: the time that a template may ask for.

    Raises:
        jinja2.TemplateError: the template is not one.
    """
    compiled = _compiled(template)

    def render(messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return compiled.render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            strftime_now=now.strftime,
            **tokens,
        )

    return render


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    import json

    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks a reply for transformers, and changes no text."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class Bounded(ImmutableSandboxedEnvironment):
        """A product of large numbers, or a field of a billion spaces, is one step, which no signal interrupts."""

        intercepted_binops = frozenset(("*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if isinstance(left, int) and isinstance(right, int):
                sizes = (left.bit_length(), right.bit_length())
                bits = sizes[0] * abs(right) if operator == "**" else sum(sizes)
                if bits > MOST_BITS:
                    raise TemplateError(f"a number of more than {MOST_BITS} bits")
            if operator == "%" and isinstance(left, str) and _WIDE.search(left):
                raise TemplateError("a field of more than 99,999 characters")
            return super().call_binop(context, operator, left, right)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)
