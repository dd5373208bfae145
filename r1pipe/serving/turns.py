"""A chat template taken apart into what stands around each turn, for programs with a template language of their own.

What a template does with the thinking of a reply is not taken over: here a reply stands as it was written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from r1pipe.text.chat_format import QUESTION, Render, chat_format
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN

_SYSTEM = "System-7f3a"
_SECOND = "Second-7f3a"


@dataclass(frozen=True)
class Turns:
    """The texts between the words of a conversation.

    Attributes:
        start: what a conversation without a system turn begins with.
        system_opens, system_closes: around the words of a system turn; None where the template shows none.
        user_opens, user_closes: around a question.
        reply_opens, reply_closes: around a reply.
        prefill: the beginning of a reply that the prompt has already written.
    """

    start: str
    system_opens: str | None
    system_closes: str
    user_opens: str
    user_closes: str
    reply_opens: str
    reply_closes: str
    prefill: str

    def jinja(self) -> str:
        """A chat template of jinja2 with these texts."""
        system = ""
        if self.system_opens is not None:
            system = (
                "{% if messages[0].role == 'system' %}"
                + _put(self.system_opens)
                + "{{ messages[0].content }}"
                + _put(self.system_closes)
                + "{% else %}"
                + _put(self.start)
                + "{% endif %}"
            )
        return (
            (system or _put(self.start))
            + "{% for message in messages %}{% if message.role == 'user' %}"
            + _put(self.user_opens)
            + "{{ message.content }}"
            + _put(self.user_closes)
            + "{% elif message.role == 'assistant' %}"
            + _put(self.reply_opens)
            + "{{ message.content }}"
            + _put(self.reply_closes)
            + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
            + _put(self.reply_opens + self.prefill)
            + "{% endif %}"
        )

    def ollama(self) -> str:
        """A template of Ollama, which is one of Go, with these texts.

        Ollama looks for the text in front of .Thinking and behind it, and shows what a reply has between the two as
        its thinking.
        """
        system = _put(self.start)
        if self.system_opens is not None:
            system = (
                "{{ if .System }}"
                + _put(self.system_opens)
                + "{{ .System }}"
                + _put(self.system_closes)
                + "{{ else }}"
                + _put(self.start)
                + "{{ end }}"
            )
        return (
            system
            + '{{ range .Messages }}{{ if eq .Role "user" }}'
            + _put(self.user_opens)
            + "{{ .Content }}"
            + _put(self.user_closes)
            + '{{ else if eq .Role "assistant" }}'
            + _put(self.reply_opens)
            + "{{ if .Thinking }}"
            + THINK_OPEN
            + "{{ .Thinking }}"
            + THINK_CLOSE
            + "{{ end }}{{ .Content }}"
            + _put(self.reply_closes)
            + "{{ end }}{{ end }}"
            + _put(self.reply_opens + self.prefill)
        )


def take_apart(render: Render) -> Turns | None:
    """The parts of a template; None where it does not put one turn behind the other."""
    question = {"role": "user", "content": QUESTION}
    second = {"role": "user", "content": _SECOND}
    form = chat_format(render)
    asked = render([question], False)
    before, _, user_closes = asked.partition(QUESTION)
    # The second question follows the first, so what stands between them opens a question.
    opened = render([question, second], False)[len(asked) :].partition(_SECOND)[0]
    shown = form.prompt.removesuffix(form.prefill)
    if not (before.endswith(opened) and shown.startswith(asked)):
        return None

    system_opens: str | None = None
    system_closes = ""
    told = _with_system(render, question)
    if _SYSTEM in told:
        system_opens, _, rest = told.partition(_SYSTEM)
        system_closes = rest.partition(QUESTION)[0].removesuffix(opened)
    turns = Turns(
        before.removesuffix(opened),
        system_opens,
        system_closes,
        opened,
        user_closes,
        shown[len(asked) :],
        form.closing,
        form.prefill,
    )
    return turns


def _with_system(render: Render, question: dict[str, str]) -> str:
    from r1pipe.errors import InputError

    try:
        return render([{"role": "system", "content": _SYSTEM}, question], False)
    except InputError:
        # The template refuses system turns.
        return ""


def _put(text: str) -> str:
    """An expression of jinja2 and of Go that gives this text, whatever it contains."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
