"""Rows to text: the chat template of a checkpoint, or the R1-Zero template from a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.schema import SHIPPED_TEMPLATES, Text, TextFile

SLOT = "{prompt}"
TEMPLATES = Path(__file__).parents[1] / "configs" / "templates"


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
        return path.read_text(encoding="utf8")
    except OSError as error:
        raise InputError(f"the text cannot be read: {error.strerror}", str(path), "check the path") from None
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
    if template is not None:
        return tokenizer(rendered)["input_ids"]
    check_system_turns(rendered, tokenizer)
    return _apply_chat_template(rendered, tokenizer, add_generation_prompt=True)


def chat_ids(messages: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """The token ids of a conversation and its completion mask.

    The mask is 1 on the last assistant turn only (which turns carry loss is our choice).

    Raises:
        InputError: the template renders the prompt alone differently from the prompt within the conversation.
    """
    assert messages[-1]["role"] == "assistant", "rows are checked when they are read"
    prompt = _apply_chat_template(messages[:-1], tokenizer, add_generation_prompt=True)
    conversation = _apply_chat_template(messages, tokenizer, add_generation_prompt=False)
    if conversation[: len(prompt)] != prompt:
        raise InputError(
            "the chat template renders a prompt differently with and without its reply, so the loss cannot be placed",
            getattr(tokenizer, "name_or_path", ""),
            "use a template whose generation prompt is a prefix of the whole conversation "
            "(templates that drop or prefill <think> do not have this property)",
        )
    mask = [0] * len(prompt) + [1] * (len(conversation) - len(prompt))
    return conversation, mask


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


def _apply_chat_template(messages: Any, tokenizer: Any, add_generation_prompt: bool) -> Any:
    """Token ids of one conversation, or of a list of conversations."""
    encoding = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
        return_dict=True,
    )
    return encoding["input_ids"]
