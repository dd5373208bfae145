"""Rows to text: the chat template of a checkpoint, or the R1-Zero template from a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.schema import SHIPPED_TEMPLATES, Text, TextFile
from r1pipe.text.chat_format import ChatFormat, Render, chat_format, prefill_of, says, without_prefill
from r1pipe.text.regular_files import read_regular, reason
from r1pipe.text.tokenizing import on_all_cores, token_ids

SLOT = "{prompt}"
TEMPLATES = Path(__file__).parents[1] / "configs" / "templates"

# Conversations that are rendered and tokenized at a time: a tokenizer is fast with many texts at once.
CHATS_AT_ONCE = 1000


def read_template(template: str) -> str | None:
    """The text of a prompt template.

    Args:
        template: `chat`, a template that ships, or the path of a file (schema.TemplateName).

    Returns:
        the file's text; None for `chat`, whose template comes with the tokenizer.

    Raises:
        InputError: the file is missing or does not contain {prompt} exactly once.
    """
    if template == "chat":
        return None

    path = TEMPLATES / f"{template}.txt" if template in SHIPPED_TEMPLATES else Path(template)
    if not path.is_file():
        raise InputError(
            "the prompt template does not exist",
            str(path),
            f"name a text file that contains {SLOT}, or write `chat`",
        )
    text = _read_file(path).rstrip("\n")
    if text.count(SLOT) != 1:
        raise InputError(
            f"the prompt template contains {SLOT} {text.count(SLOT)} times",
            str(path),
            f"write {SLOT} once, where the question goes",
        )
    return text


def file_template(template: str, tokenizer: Any) -> str | None:
    """`read_template` for this tokenizer: a BOS token that the file writes, and the tokenizer adds, stands there once.

    Raises:
        InputError: as read_template.
    """
    text = read_template(template)
    bos = tokenizer.bos_token
    if text is None or not bos or not text.startswith(bos):
        return text
    ids = tokenizer(text)["input_ids"]
    return text.removeprefix(bos) if ids[:2] == [tokenizer.bos_token_id] * 2 else text


def read_text(text: Text) -> str:
    """A text of a config: the text itself, or the content of the file that it names.

    Raises:
        InputError: the file cannot be read or is not UTF-8, or the text is empty.
    """
    if isinstance(text, TextFile):
        content = _read_file(text.file)
        where = str(text.file)
    else:
        content = text
        where = "an instruction or guidelines"

    content = content.strip()
    if not content:
        raise InputError("the text is empty", where, "write one, or leave it out")
    return content


def _read_file(path: Path) -> str:
    try:
        return read_regular(path).decode("utf8")
    except OSError as error:
        raise InputError(f"the text cannot be read: {reason(error)}", str(path), "check the path") from None
    except UnicodeDecodeError:
        raise InputError("the text is not UTF-8", str(path), "convert the file to UTF-8") from None


def render_prompt(row: dict[str, Any], template: str | None) -> str | list[dict[str, str]]:
    """What the trainer reads: a string for a template from a file, messages for the chat template.

    The rendered text of the chat template has its own BOS token.
    """
    if template is not None:
        return template.replace(SLOT, asked(row))
    user = {"role": "user", "content": row["prompt"]}
    if row.get("system"):
        return [{"role": "system", "content": row["system"]}, user]
    return [user]


def asked(row: dict[str, Any]) -> str:
    """The prompt as one text, behind its system text if it has one."""
    return f"{row['system']}\n\n{row['prompt']}" if row.get("system") else row["prompt"]


def prompt_ids(rows: list[dict[str, Any]], template: str | None, tokenizer: Any) -> list[list[int]]:
    """The token ids of each row up to where the response begins."""
    rendered: list[Any] = [render_prompt(row, template) for row in rows]
    if template is None:
        check_system_turns(rendered, tokenizer)
    with on_all_cores():
        if template is not None:
            return tokenizer(rendered)["input_ids"]
        return tokenizer.apply_chat_template(
            rendered,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )["input_ids"]


# --- the chat template ------------------------------------------------------------------------------------------------


def format_of(tokenizer: Any) -> ChatFormat:
    """What a tokenizer's chat template does to a reply.

    Raises:
        InputError: the template cannot render a question and a reply.
    """
    form, _ = _found_out(tokenizer)
    return form


def closing_id(tokenizer: Any) -> int | None:
    """The token with which the chat template closes a reply; None where ordinary text closes it, or nothing."""
    _, closing = _found_out(tokenizer)
    return closing


def renderer_of(tokenizer: Any) -> Render:
    """The tokenizer's chat template as a function; it raises InputError where it refuses a conversation."""
    return lambda messages, generation: _render(messages, tokenizer, generation)


def _found_out(tokenizer: Any) -> tuple[ChatFormat, int | None]:
    # A template may be one of several by name, which is a dict; its text stands for it.
    return _find_out(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=16)
def _find_out(tokenizer: Any, _template: str) -> tuple[ChatFormat, int | None]:
    form = chat_format(renderer_of(tokenizer))
    added = tokenizer.get_added_vocab()
    token = form.closing_token(added)
    return form, added[token] if token else None


def prefill_in(template: str | None, tokenizer: Any) -> str:
    """The beginning of each response that the prompt has already written (ChatFormat.prefill).

    Args:
        template: the text of a template file; None = the chat template.
    """
    return format_of(tokenizer).prefill if template is None else prefill_of(template)


def render_chat(messages: list[dict[str, str]], tokenizer: Any) -> tuple[str, str]:
    """A conversation in two parts: what the model is shown, and the last reply to its end.

    The reply is as the template renders it, if that is whole. A template that drops or rewrites the thinking, or whose
    generation prompt is no prefix of the conversation, gives the prompt; the reply is then put behind it as it stands,
    and closed as the template closes replies.

    Raises:
        InputError: the template refuses the conversation.
    """
    form = format_of(tokenizer)
    reply = messages[-1]["content"]
    prompt = _render(messages[:-1], tokenizer, True)
    conversation = _render(messages, tokenizer, False)
    rendered = conversation[len(prompt) :]
    if not conversation.startswith(prompt) or not says(form.prefill + rendered, reply):
        rendered = without_prefill(reply, form.prefill) + form.closing
    if closing_id(tokenizer) is None:
        # Nothing in the template says that the reply is over.
        rendered = rendered.removesuffix(form.closing) + tokenizer.eos_token
    return prompt, rendered


def chat_ids(chats: Sequence[list[dict[str, str]]], tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    """The token ids of each conversation and its completion mask.

    The mask is 1 on the last assistant turn only (which turns carry loss is our choice), from where the generation
    prompt ends. If that is within the turn (`<think>` is prefilled), the prefill has no loss.

    Raises:
        InputError: the template refuses a conversation.
    """
    for start in range(0, len(chats), CHATS_AT_ONCE):
        rendered = [render_chat(messages, tokenizer) for messages in chats[start : start + CHATS_AT_ONCE]]
        prompts = token_ids([shown for shown, _ in rendered], tokenizer)
        conversations = token_ids([shown + reply for shown, reply in rendered], tokenizer)
        for (_, reply), prompt, whole in zip(rendered, prompts, conversations, strict=True):
            conversation = whole
            if conversation[: len(prompt)] != prompt:
                # The tokens of both grow together where they meet. Sampling continues the prompt's own.
                conversation = prompt + token_ids([reply], tokenizer)[0]
            mask = [0] * len(prompt) + [1] * (len(conversation) - len(prompt))
            yield conversation, mask


def check_system_turns(conversations: Iterable[Any], tokenizer: Any) -> None:
    """Refuse system turns where the chat template does not show them; the first is tried.

    Raises:
        InputError: the template refuses the turn, or leaves it out without a word.
    """
    messages = next((turns for turns in conversations if turns[0]["role"] == "system"), None)
    if messages is None:
        return
    why = "leaves it out"
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False)
    except Exception as error:
        # jinja2's errors, and what raise_exception in a template gives
        text = ""
        why = f"refuses it: {error}"
    if messages[0]["content"].strip() not in text:
        raise InputError(
            f"a row has a system turn, and the chat template {why}",
            getattr(tokenizer, "name_or_path", ""),
            "put its text at the head of the user's turn, or give the tokenizer a template with a system turn",
        )


def conversation_ids(chats: list[list[dict[str, str]]], tokenizer: Any) -> list[list[int]]:
    """The token ids of whole conversations, each with all that its last reply says."""
    return token_ids(["".join(render_chat(messages, tokenizer)) for messages in chats], tokenizer)


def _render(messages: list[dict[str, str]], tokenizer: Any, add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except TemplateError as error:
        raise InputError(
            f"the chat template refuses a conversation: {error}",
            getattr(tokenizer, "name_or_path", ""),
            f"its roles are {', '.join(message['role'] for message in messages)}; "
            "change the rows, or the template in chat_template.jinja",
        ) from None
