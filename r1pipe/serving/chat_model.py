"""A checkpoint that answers in a chat: its template, its end tokens, what fits into its positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer
from transformers.utils.logging import disable_progress_bar

from r1pipe.errors import InputError
from r1pipe.models.folders import readable
from r1pipe.models.loading import end_ids, load_model, load_tokenizer
from r1pipe.serving.adapter import is_adapter, model_folder, tokenizer_folder
from r1pipe.serving.lineage import Asking
from r1pipe.text.checkpoint_files import read_checkpoint
from r1pipe.text.rendering import file_template, prefill_in, prompt_ids, renderer_of
from r1pipe.text.tokenizing import token_ids

Turn = dict[str, str]


@dataclass(frozen=True)
class Drawing:
    """How replies are drawn.

    Attributes:
        temperature: 0 = the most likely token.
        max_tokens: of a reply.
        seed: of each reply: the same conversation gets the same one. None = another one each time.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int | None = None


@dataclass(frozen=True)
class Reply:
    """A reply: its text as far as it was drawn, its tokens, and whether it ended by itself."""

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Prompt:
    """The ids that a model is shown, the turns that no longer fitted, and the most tokens that may follow."""

    ids: list[int]
    dropped: int
    room: int


class ChatModel:
    """A loaded checkpoint.

    Args:
        name: as the user named it.
        checkpoint: its folder.
        asking: the template and the stop strings that it was trained with.

    Raises:
        InputError: the checkpoint cannot be loaded, or the template cannot be read.
    """

    def __init__(self, name: str, checkpoint: Path, asking: Asking) -> None:
        # Its bar would stand between the lines of the chat.
        disable_progress_bar()
        self.name = name
        self._tokenizer = load_tokenizer(tokenizer_folder(checkpoint))
        self._template = file_template(asking.template, self._tokenizer)
        self._prefill = prefill_in(self._template, self._tokenizer)
        self._positions = read_checkpoint(model_folder(checkpoint)).positions
        self._stop = list(asking.stop)
        self._model: Any = _whole_model(checkpoint)
        # Training switches the cache off, and is saved with that.
        self._model.config.use_cache = True

    @property
    def one_question(self) -> bool:
        """Whether its template has room for one question only, so that earlier turns are not shown to it."""
        return self._template is not None

    def prompt(self, turns: list[Turn], max_tokens: int) -> Prompt:
        """What the model is shown of a conversation; the oldest turns give way to the reply.

        Raises:
            InputError: the last question alone is too long, or the template refuses the conversation.
        """
        ids = self._ids(turns)
        if self._positions is None:
            return Prompt(ids, 0, max_tokens)
        wanted = min(max_tokens, self._positions // 2)
        dropped = 0
        while len(ids) + wanted > self._positions and len(turns) > 1:
            # A question and its reply.
            turns = turns[2:]
            dropped += 2
            ids = self._ids(turns)
        room = min(max_tokens, self._positions - len(ids))
        if room < 1:
            raise InputError(
                f"the question has {len(ids)} tokens, and {self.name} has {self._positions} positions for it "
                "and the reply",
                fix="ask a shorter one",
            )
        return Prompt(ids, dropped, room)

    def _ids(self, turns: list[Turn]) -> list[int]:
        if self._template is not None:
            return prompt_ids([{"prompt": turns[-1]["content"]}], self._template, self._tokenizer)[0]
        rendered = renderer_of(self._tokenizer)(turns, True)
        return token_ids([rendered], self._tokenizer)[0]

    def reply(
        self,
        prompt: Prompt,
        drawing: Drawing,
        show: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> Reply:
        """Draw a reply.

        Args:
            show: gets each piece of it, in order.
            stopped: asked after each token whether to leave the rest.
        """
        streamer = _Streamer(self._tokenizer, show)
        streamer.on_finalized_text(self._prefill)

        def criterion(ids_BT: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
            return torch.full((len(ids_BT),), stopped(), device=ids_BT.device)

        options: dict[str, Any] = {"do_sample": False}
        if drawing.temperature > 0:
            options = {
                "do_sample": True,
                "temperature": drawing.temperature,
                "top_p": drawing.top_p,
                "top_k": 0,
            }
        if self._stop:
            options["stop_strings"] = self._stop
            options["tokenizer"] = self._tokenizer
        if drawing.seed is not None:
            torch.manual_seed(drawing.seed)
        ids_BT = torch.tensor([prompt.ids], device=self._model.device)
        ends = end_ids(self._model, self._tokenizer)
        with torch.inference_mode():
            drawn_BT = self._model.generate(
                ids_BT,
                attention_mask=torch.ones_like(ids_BT),
                max_new_tokens=prompt.room,
                eos_token_id=ends,
                pad_token_id=self._tokenizer.pad_token_id,
                streamer=streamer,
                stopping_criteria=[criterion],
                **options,
            )
        drawn = drawn_BT[0, len(prompt.ids) :].tolist()
        by_token = bool(drawn) and drawn[-1] in ends
        by_string = any(stop in streamer.text for stop in self._stop)
        return Reply(streamer.text, len(drawn), by_token or by_string)


def _whole_model(checkpoint: Path) -> Any:
    """The model; an adapter is merged into its base, in memory."""
    model = load_model(model_folder(checkpoint), training=False)
    if not is_adapter(checkpoint):
        return model

    from peft import PeftModel

    with readable(checkpoint, "the adapter cannot be loaded", "check that it belongs to its base"):
        adapted: Any = PeftModel.from_pretrained(model, str(checkpoint))
    return adapted.merge_and_unload()


class _Streamer(TextStreamer):
    """Passes on the text of the tokens that were drawn, in pieces of whole words, and keeps it."""

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        if text:
            self._show(text)
