"""`r1pipe chat`: a conversation with one checkpoint, or with two side by side, in the terminal."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r1pipe.errors import R1PipeError
from r1pipe.serving.chat_screen import Screen
from r1pipe.serving.lineage import Asking, asking_of, check_language_model, find_checkpoint
from r1pipe.text.rendering import read_template
from r1pipe.text.response import split_response

if TYPE_CHECKING:
    from r1pipe.serving.chat_model import ChatModel, Drawing, Turn

# Anything else that begins with a slash, such as a path, is a question.
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(\S.*))?")
HELP = """\
/model NAME    go on with another checkpoint
/compare NAME  ask a second checkpoint as well; without NAME, the first alone again
/new           begin anew
/exit          leave (or Ctrl-D); Ctrl-C stops a reply"""


@dataclass
class Talk:
    """A checkpoint and what was said with it: questions, and replies without their thinking."""

    model: ChatModel
    turns: list[Turn] = field(default_factory=list)


def load(name: str, template: str = "") -> ChatModel:
    """The checkpoint that a user names, ready to answer.

    Args:
        template: how it is asked; empty = as the run says that it was trained, else its chat template.

    Raises:
        InputError: it is no checkpoint of a language model, or cannot be loaded.
    """
    checkpoint = find_checkpoint(name)
    check_language_model(checkpoint)
    asking = Asking(template) if template else asking_of(checkpoint)
    # What can be refused is refused before seconds are spent on imports.
    read_template(asking.template)

    from r1pipe.serving.chat_model import ChatModel

    return ChatModel(name, checkpoint, asking)


class Chat:
    """The conversation.

    Args:
        models: one, or two that are both asked.
        drawing: how replies are drawn.
        screen: where questions come from and replies go.
        template: of every checkpoint that is loaded later.
    """

    def __init__(self, models: list[ChatModel], drawing: Drawing, screen: Screen, template: str = "") -> None:
        self._talks = [Talk(model) for model in models]
        self._drawing = drawing
        self._screen = screen
        self._template = template

    def run(self) -> None:
        """Answer until the user leaves."""
        if self._screen.interactive:
            self._screen.note(HELP)
        for talk in self._talks:
            self._introduce(talk.model)
        while True:
            line = self._screen.ask()
            if line is None or line == "/exit":
                return
            if not line:
                continue
            # What goes wrong with one line is told, and the conversation goes on.
            try:
                command = _COMMAND.fullmatch(line)
                if command:
                    self._obey(command[1], command[2] or "")
                else:
                    self._answer(line)
            except R1PipeError as error:
                self._screen.end()
                self._screen.note(str(error))

    # --- commands -----------------------------------------------------------------------------------------------------

    def _obey(self, command: str, name: str) -> None:
        first = self._talks[0]
        if command == "new":
            for talk in self._talks:
                talk.turns.clear()
        elif command == "model" and name:
            model = self._load(name)
            if model:
                first.model = model
        elif command == "compare" and name:
            model = self._load(name)
            if model:
                self._talks[1:] = [Talk(model, list(first.turns))]
        elif command == "compare":
            del self._talks[1:]
        elif command == "model":
            self._screen.note(", ".join(talk.model.name for talk in self._talks))
        else:
            unknown = "" if command == "help" else f"there is no /{command}; there are\n"
            self._screen.note(unknown + HELP)

    def _load(self, name: str) -> ChatModel | None:
        try:
            model = load(name, self._template)
        except KeyboardInterrupt:
            self._screen.note(f"{name} was not loaded")
            return None
        self._introduce(model)
        return model

    def _introduce(self, model: ChatModel) -> None:
        if model.one_question:
            self._screen.note(
                f"{model.name} is asked with a template that has room for one question: "
                "it is not shown what was said before"
            )

    # --- replies ------------------------------------------------------------------------------------------------------

    def _answer(self, question: str) -> None:
        for talk in self._talks:
            if len(self._talks) > 1:
                self._screen.label(talk.model.name)
            if not self._answer_of(talk, {"role": "user", "content": question}):
                # Ctrl-C is meant for the question.
                return

    def _answer_of(self, talk: Talk, question: Turn) -> bool:
        """Show and keep a reply; False where the user stopped it."""
        prompt = talk.model.prompt([*talk.turns, question], self._drawing.max_tokens)
        # What does not fit now will not fit later.
        del talk.turns[: prompt.dropped]
        with _stoppable() as stop:
            reply = talk.model.reply(prompt, self._drawing, self._screen.piece, stop.is_set)
        self._screen.end()
        if prompt.dropped:
            self._screen.note(f"the {prompt.dropped // 2} oldest questions and replies no longer fit")
        if stop.is_set():
            self._screen.note(f"stopped after {reply.tokens} tokens")
        elif not reply.finished:
            self._screen.note(f"cut at {reply.tokens} tokens")
        elif not reply.text:
            self._screen.note("an empty reply")

        summary = split_response(reply.text).summary
        if summary:
            talk.turns += [question, {"role": "assistant", "content": summary}]
        return not stop.is_set()


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C sets the event meanwhile, so that nothing is cut in the middle of a token; a second one is as ever."""
    stop = threading.Event()

    def stop_or_raise(signum: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, stop_or_raise)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
