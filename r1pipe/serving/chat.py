"""`r1pipe chat`: a conversation with one checkpoint, or with two side by side, in the terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from r1pipe.errors import R1PipeError
from r1pipe.serving.chat_screen import Screen
from r1pipe.serving.ctrl_c import CtrlC
from r1pipe.serving.talk import Talk, load

if TYPE_CHECKING:
    from r1pipe.serving.chat_model import ChatModel, Drawing

# Anything else that begins with a slash, such as a path, is a question.
_COMMAND = re.compile(r"/([a-z]+)(?:\s+(\S.*))?")
HELP = """\
/model NAME    go on with another checkpoint
/compare NAME  ask a second checkpoint as well; without NAME, the first alone again
/new           begin anew
/exit          leave (or Ctrl-D, or Ctrl-C twice); Ctrl-C once stops a reply"""
LEAVE = "Ctrl-C again leaves"


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
        self._ctrl_c = CtrlC()

    def run(self) -> None:
        """Answer until the user leaves."""
        if not self._screen.interactive:
            # Who has piped questions in does not stop a reply, but the command.
            self._go_on()
            return
        self._screen.note(HELP)
        with self._ctrl_c:
            try:
                self._go_on()
            except KeyboardInterrupt:
                self._screen.end()

    def _go_on(self) -> None:
        for talk in self._talks:
            self._introduce(talk.model)
        while True:
            line = self._ask()
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

    def _ask(self) -> str | None:
        """The next line; None where the user leaves, which two Ctrl-C on empty lines do as well."""
        if not self._screen.interactive:
            return self._screen.ask()
        pressed = 0
        while pressed < 2:
            try:
                with self._ctrl_c.raised():
                    return self._screen.ask()
            except KeyboardInterrupt:
                thrown_away = self._screen.half_written()
            if not thrown_away:
                pressed += 1
            self._screen.new_line()
            if pressed == 1:
                self._screen.note(LEAVE)
        return None

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
            with self._ctrl_c.raised():
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
            stopped = self._ctrl_c.is_kept
            answer = talk.answer(question, self._drawing, self._screen.piece, stopped)
            self._screen.end()
            for remark in answer.remarks:
                self._screen.note(remark)
            if stopped():
                # It is meant for the question, whoever else would have been asked.
                break
        self._ctrl_c.forget()
