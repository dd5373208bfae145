"""The contract of a checkpoint: what r1pipe relies on, checked from its files before anything runs.

A question and a reply are rendered with the chat template, and the result is compared with what config.json, the
tokenizer and generation_config.json say. A finding is an error where the stage would fail or its result would be
wrecked, and a warning where r1pipe mends something or leaves it to the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from r1pipe.errors import InputError
from r1pipe.text.chat_format import (
    QUESTION,
    SUMMARY,
    ChatFormat,
    chat_format,
    message_renderer,
)
from r1pipe.text.checkpoint_files import SAMPLING_DEFAULTS, CheckpointFiles
from r1pipe.text.checkpoint_kinds import kind_of_model, kind_of_reward_model
from r1pipe.text.checkpoint_weights import (
    Found,
    Level,
    embedding_and_head,
    layers_and_width,
    names_of_weights,
)
from r1pipe.text.rendering import SLOT, read_template
from r1pipe.text.response import THINK_CLOSE, THINK_OPEN

Job = Literal["sft", "rl", "dpo", "reward model", "sampling", "scoring", "other"]

# Two moments that every format of a date tells apart.
MOMENTS = (datetime(2025, 1, 2, 3, 4, 5), datetime(2026, 11, 29, 18, 47, 36))
OWN_TEMPLATE = "or write the template that you want into chat_template.jinja"


@dataclass(frozen=True)
class Use:
    """What a stage does with a checkpoint.

    Attributes:
        job: what it is for; `other` where the stage is a user's own.
        template: `chat` or a template file.
        max_length: tokens of a sequence that is trained.
        max_tokens: tokens of a response that is drawn.
        positions: those that the stage gives the model; None = those that it has.
    """

    job: Job = "other"
    template: str = "chat"
    max_length: int | None = None
    max_tokens: int | None = None
    positions: int | None = None

    @property
    def trains(self) -> bool:
        return self.job in ("sft", "rl", "dpo", "reward model")

    @property
    def draws(self) -> bool:
        return self.job in ("rl", "sampling")


@dataclass(frozen=True)
class Finding:
    """Something about a checkpoint or about rows that a user should know.

    Attributes:
        level: an error refuses the run; `unchecked` says that nothing could be looked at.
        where: the stage's input or field, and the file.
        what: what is wrong, and what comes of it.
        fix: what to do, or what r1pipe does.
    """

    level: Level
    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.fix}" if self.fix else "")


def check_checkpoint(files: CheckpointFiles, use: Use, where: str) -> list[Finding]:
    """What is to be said of a checkpoint that a stage reads.

    Args:
        where: the stage's input.
    """
    check = _Check(files, use)
    findings = []
    for level, file, what, fix in check.everything():
        place = f"{where} ({files.folder / file})" if file else f"{where} ({files.folder})"
        findings.append(Finding(level, place, what, fix))
    return findings


class _Check:
    """The questions, each a generator of what it finds."""

    def __init__(self, files: CheckpointFiles, use: Use) -> None:
        self.files = files
        self.use = use

    def everything(self) -> Iterator[Found]:
        # A stage of a user's own may do with a model what r1pipe does not.
        kind = list(self.kind()) if self.use.job != "other" else []
        yield from kind
        if any(level == "error" for level, *_ in kind):
            # It is another checkpoint that is needed.
            return
        try:
            shapes = self.files.shapes()
        except InputError as error:
            yield "error", "", error.what, error.fix
            shapes = {}
        yield from names_of_weights(self.files)
        if "quantization_config" not in self.files.config:
            yield from embedding_and_head(self.files, shapes, has_head=self.use.job != "scoring")
            yield from layers_and_width(self.files, shapes)
        if self.use.job == "other":
            return
        yield from self.positions()
        yield from self.vocabulary()
        if self.use.job == "scoring":
            return
        yield from self.sampling_defaults()
        yield from self.tokenizer()
        yield from self.template_of_chat()

    # --- the model ----------------------------------------------------------------------------------------------------

    def kind(self) -> Iterator[Found]:
        use = self.use
        if use.job == "scoring":
            yield from kind_of_reward_model(self.files)
        else:
            yield from kind_of_model(self.files, trains=use.trains, classifies=use.job == "reward model")

    def positions(self) -> Iterator[Found]:
        use = self.use
        has = use.positions or self.files.positions
        if has is None:
            return
        if use.max_length is not None and use.max_length > has:
            extend = " or give it more (`sft: {positions: N}`)" if use.job == "sft" else ""
            yield (
                "error",
                "config.json",
                f"max_length is {use.max_length}, and the model has {has} positions: beyond them it learns noise",
                f"lower max_length to {has}{extend}",
            )
        if use.max_tokens is not None and use.max_tokens >= has:
            yield (
                "error",
                "config.json",
                f"max_tokens is {use.max_tokens}, and the model has {has} positions for prompt and response together: "
                "beyond them it writes noise",
                f"lower max_tokens below {has}; or take a checkpoint with more, as `sft: {{positions: N}}` makes one",
            )

    def vocabulary(self) -> Iterator[Found]:
        size = self.files.text_config.get("vocab_size")
        highest = self.files.highest_id
        if isinstance(size, int) and highest is not None and highest >= size:
            names = [token for token, number in self.files.added_tokens.items() if number >= size]
            which = f" ({', '.join(sorted(names)[:4])})" if names else ""
            yield (
                "error",
                "tokenizer.json",
                f"the tokenizer gives ids up to {highest}{which}, and the model has {size} embeddings",
                "take the tokenizer that belongs to the weights; tokens that were added need "
                "model.resize_token_embeddings",
            )
            return
        # What a config names and a tokenizer lacks is added behind its last id.
        lacking = self.files.lacking_tokens
        if isinstance(size, int) and highest is not None and highest + len(lacking) >= size:
            yield (
                "error",
                "tokenizer_config.json",
                f"it names {', '.join(lacking[:4])}, which the tokenizer lacks, and the model has no embeddings for "
                "more",
                "name tokens that it has (a pad token may be the end token)",
            )

    def sampling_defaults(self) -> Iterator[Found]:
        stated = {
            name: self.files.generation[name]
            for name, neutral in SAMPLING_DEFAULTS.items()
            if self.files.generation.get(name) not in neutral
        }
        if stated:
            listed = ", ".join(f"{name} {value}" for name, value in stated.items())
            copy = ", nor are they written into what is trained" if self.use.trains else ""
            yield (
                "warning",
                "generation_config.json",
                f"it asks for {listed}, which would change what is drawn",
                f"r1pipe does not apply them{copy}",
            )

    # --- the tokenizer ------------------------------------------------------------------------------------------------

    def tokenizer(self) -> Iterator[Found]:
        files = self.files
        if not files.tokenizer:
            yield (
                "unchecked",
                "",
                "there is no tokenizer.json; transformers will make one of the other files, if it can",
                "to have it checked, save it once: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            )
        end = files.named_token("eos_token")
        if not end:
            yield (
                "error",
                "tokenizer_config.json",
                "no eos_token is named, so nothing would end a response",
                'set "eos_token" there',
            )
        elif not files.knows(end):
            yield (
                "error",
                "tokenizer_config.json",
                f"the eos_token {end!r} is not in the tokenizer's vocabulary",
                "name the token that the model was trained with",
            )
        if files.special_tags:
            yield (
                "warning",
                "tokenizer.json",
                f"{', '.join(files.special_tags)} are special tokens, and decoding leaves special tokens out",
                "r1pipe reads them as ordinary tokens, and saves them so with what it trains",
            )
        if files.appends_end:
            yield (
                "warning",
                "tokenizer.json",
                f"the tokenizer puts {end!r} behind every text: a prompt would end in an end token",
                "r1pipe takes that out, also of what it trains",
            )
        yield from self.template_file()

    def template_file(self) -> Iterator[Found]:
        """A template file and this tokenizer."""
        files, use = self.files, self.use
        if use.template == "chat":
            return
        text = read_template(use.template)
        bos = files.named_token("bos_token")
        if text and bos and text.startswith(bos) and files.adds_bos:
            yield (
                "warning",
                "",
                f"{use.template} begins with {bos!r}, and the tokenizer puts it there as well",
                "r1pipe puts it there once; take it out of the file",
            )
        if text and use.draws and files.parts_badly(text.replace(SLOT, QUESTION)):
            yield (
                "warning",
                "tokenizer.json",
                f"{use.template} ends in the middle of what this tokenizer writes as one token with {THINK_OPEN}, so "
                "the model cannot open its thinking as it has learned to: of a real base no response had the form",
                "let the file end in a word or a colon, without a space behind it",
            )

    # --- the chat template --------------------------------------------------------------------------------------------

    def template_of_chat(self) -> Iterator[Found]:
        files = self.files
        if files.template is None:
            yield (
                "error",
                "",
                "there is no chat template",
                "put chat_template.jinja beside config.json, as a rule that of the instruct model of the family",
            )
            return
        from jinja2 import TemplateError

        try:
            form, later = (
                chat_format(message_renderer(files.template, files.named_tokens, moment))
                for moment in MOMENTS
            )
        # A template is a program, and each mistake in it raises what it will.
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            yield (
                "error",
                "chat template",
                f"it cannot render a question and a reply: {type(error).__name__}: {error}",
                f"mend it, {OWN_TEMPLATE}",
            )
            return
        if form != later:
            yield (
                "warning",
                "chat template",
                "it writes today's date, so the same row is another prompt tomorrow, and a run that is resumed is "
                "another run",
                f"write a fixed date in its place, {OWN_TEMPLATE}",
            )
        yield from self.shown(form)
        yield from self.closed(form)
        yield from self.begun(form)
        yield from self.bos(form)

    def shown(self, form: ChatFormat) -> Iterator[Found]:
        if QUESTION not in form.prompt or QUESTION not in form.turn:
            yield "error", "chat template", "it leaves the question out", f"mend it, {OWN_TEMPLATE}"
        if SUMMARY not in form.turn:
            yield "error", "chat template", "it leaves the reply out", f"mend it, {OWN_TEMPLATE}"
        elif not form.keeps_thinking:
            yield (
                "warning",
                "chat template",
                "it leaves the thinking of a reply out",
                "r1pipe renders the reply that is trained or scored as it stands",
            )

    def closed(self, form: ChatFormat) -> Iterator[Found]:
        """The end of a reply."""
        if SUMMARY not in form.turn:
            return
        files = self.files
        end = files.named_token("eos_token")
        closing = form.closing_token([*files.added_tokens, end])
        if not closing:
            with_what = (
                f"ends in {form.closing!r}, which is no token" if form.closing.strip() else "does not end"
            )
            yield (
                "warning",
                "chat template",
                f"a reply {with_what}, so a model that is trained on it does not learn to stop",
                f"r1pipe trains {end!r} there",
            )
        elif closing not in files.end_tokens:
            others = ", ".join(sorted(files.end_tokens)) or "nothing"
            yield (
                "warning",
                "chat template",
                f"a reply ends in {closing!r}, and only {others} ends a response by the checkpoint's own account",
                "r1pipe stops at both, trains it, and writes both into generation_config.json of what it trains",
            )

    def begun(self, form: ChatFormat) -> Iterator[Found]:
        """The generation prompt."""
        if form.unprompted.strip():
            yield (
                "error",
                "chat template",
                f"its generation prompt lacks {form.unprompted!r}, which stands in front of every reply",
                "add {% if add_generation_prompt %} with what begins a reply",
            )
        if THINK_CLOSE in form.prefill:
            yield (
                "error" if self.use.trains and self.use.template == "chat" else "warning",
                "chat template",
                f"its generation prompt ends in {form.prefill!r}: the model is asked not to think",
                f"take that out of its generation prompt, {OWN_TEMPLATE}",
            )
        elif form.prefill:
            yield (
                "warning",
                "chat template",
                "its generation prompt opens <think>, so a reply begins within the thinking",
                "r1pipe reads every reply with that tag in front, and does not train it twice",
            )

    def bos(self, form: ChatFormat) -> Iterator[Found]:
        bos = self.files.named_token("bos_token")
        if not bos:
            return
        if form.prompt.startswith(bos + bos):
            yield (
                "error",
                "chat template",
                f"it writes {bos!r} twice",
                f"take one out, {OWN_TEMPLATE}",
            )
        elif self.files.adds_bos and not form.prompt.startswith(bos):
            yield (
                "warning",
                "chat template",
                f"it does not begin with {bos!r}, with which this tokenizer begins every other text",
                "write {{ bos_token }} at its beginning, if the model was trained with it",
            )
