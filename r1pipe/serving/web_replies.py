"""Replies for the web chat, as events: one reply at a time, by the two checkpoints that were asked last."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from r1pipe.data.listing import visible
from r1pipe.errors import R1PipeError
from r1pipe.serving.parts import Part, Parts
from r1pipe.serving.talk import Talk, load
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN

if TYPE_CHECKING:
    from r1pipe.serving.chat_model import ChatModel

Event = dict[str, Any]
"""One of {"status": what goes on}, {"note": text}, {"thinking": text}, {"said": text}, {"error": text}, {"end": ...}.

The last event of a reply is "error" or "end", with the reply's tokens, its summary, how many turns were dropped, and
remarks.
"""

# A page compares two at most.
_KEPT = 2


class Said(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["user", "assistant"]
    content: str


class Ask(BaseModel):
    """A question of a page, with all that was said before: the page keeps the conversation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=64)]
    """By which the reply is stopped."""

    model: str
    turns: list[Said]
    question: Annotated[str, Field(min_length=1)]
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None


class Replies:
    """Draws replies.

    Args:
        models: loaded ones, the one that was asked last at the end.
        template: of every checkpoint that is loaded later.
    """

    def __init__(self, models: list[ChatModel], template: str) -> None:
        self._models = {model.name: model for model in models}
        self._template = template
        # Two replies at once would take the random numbers of each other.
        self._turn = threading.Lock()

    def draw(self, ask: Ask, put: Callable[[Event], None], stop: threading.Event) -> None:
        """Put the events of one reply, the last of which is "end" or "error".

        Args:
            stop: set by somebody else, so that the rest of the reply is left.
        """
        try:
            if self._turn.locked():
                put({"status": "another reply comes first"})
            with self._turn:
                put(self._reply(ask, put, stop))
        except R1PipeError as error:
            put({"error": str(error)})
        # Such as a GPU that is out of memory: what else is asked may have an answer.
        except Exception as error:
            traceback.print_exc()
            put({"error": f"{type(error).__name__}: {error}"})

    def _reply(self, ask: Ask, put: Callable[[Event], None], stop: threading.Event) -> Event:
        from r1pipe.serving.chat_model import Drawing

        if ask.model not in self._models:
            put({"status": f"{ask.model} is being loaded"})
        talk = Talk(self._model(ask.model), [turn.model_dump() for turn in ask.turns])
        put({"status": f"{ask.model} replies"})
        if talk.model.one_question and talk.turns:
            put({"note": "its template has room for one question: it is not shown what was said before"})
        drawing = Drawing(ask.temperature, ask.top_p, ask.max_tokens, ask.seed)
        parts = Parts()

        def show(text: str) -> None:
            for part in parts.feed(text):
                put(_event(part))

        answer = talk.answer(ask.question, drawing, show, stop.is_set)
        for part in parts.rest():
            put(_event(part))
        end = {
            "tokens": answer.tokens,
            "summary": answer.summary,
            "dropped": answer.dropped,
            "remarks": answer.remarks,
        }
        return {"end": end}

    def _model(self, name: str) -> ChatModel:
        model = self._models.pop(name, None)
        if model is None:
            # Its weights are freed before others are loaded.
            while len(self._models) >= _KEPT:
                del self._models[next(iter(self._models))]
            model = load(name, self._template)
        self._models[name] = model
        return model


def _event(part: Part) -> Event:
    """A part without its tags, and with its control characters spelled out."""
    if not part.thinking:
        return {"said": visible(part.text)}
    text = part.text.removesuffix(THINK_CLOSE)
    return {"thinking": "" if text == THINK_OPEN else visible(text)}
