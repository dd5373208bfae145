"""A conversation with one checkpoint, wherever it is shown: how it is loaded and asked, what is kept of its replies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from r1pipe.serving.adapter import model_folder
from r1pipe.serving.lineage import Asking, asking_of, check_language_model, find_checkpoint
from r1pipe.text.rendering import read_template
from r1pipe.text.response import split_response

if TYPE_CHECKING:
    from r1pipe.serving.chat_model import ChatModel, Drawing, Turn


@dataclass(frozen=True)
class Answer:
    """What came of a question.

    Attributes:
        tokens: of the reply.
        summary: the reply without its thinking, which is what the model is shown of it later; may be empty.
        dropped: earlier turns that no longer fitted and were left out.
        remarks: what the user should know of it.
    """

    tokens: int
    summary: str
    dropped: int
    remarks: list[str]


@dataclass
class Talk:
    """A checkpoint and what was said with it: questions, and replies without their thinking."""

    model: ChatModel
    turns: list[Turn] = field(default_factory=list)

    def answer(
        self,
        question: str,
        drawing: Drawing,
        show: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> Answer:
        """Draw a reply, and keep it.

        Args:
            show: gets each piece of the reply, in order.
            stopped: asked after each token whether to leave the rest.

        Raises:
            InputError: the question is too long, or the template refuses the conversation.
        """
        asked = {"role": "user", "content": question}
        prompt = self.model.prompt([*self.turns, asked], drawing.max_tokens)
        # What does not fit now will not fit later.
        del self.turns[: prompt.dropped]
        reply = self.model.reply(prompt, drawing, show, stopped)

        remarks = []
        if prompt.dropped:
            remarks.append(f"the {prompt.dropped // 2} oldest questions and replies no longer fit")
        if stopped():
            remarks.append(f"stopped after {reply.tokens} tokens")
        elif not reply.finished:
            remarks.append(f"cut at {reply.tokens} tokens")
        elif not reply.text:
            remarks.append("an empty reply")

        summary = split_response(reply.text).summary
        if summary:
            self.turns += [asked, {"role": "assistant", "content": summary}]
        return Answer(reply.tokens, summary, prompt.dropped, remarks)


def load(name: str, template: str = "") -> ChatModel:
    """The checkpoint that a user names, ready to answer.

    Args:
        template: how it is asked; empty = as the run says that it was trained, else its chat template.

    Raises:
        InputError: it is no checkpoint of a language model, or cannot be loaded.
    """
    checkpoint = find_checkpoint(name)
    check_language_model(model_folder(checkpoint))
    asking = Asking(template) if template else asking_of(checkpoint)
    # What can be refused is refused before seconds are spent on imports.
    read_template(asking.template)

    from r1pipe.serving.chat_model import ChatModel

    return ChatModel(name, checkpoint, asking)
