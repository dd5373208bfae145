"""Rows to text: the chat template of a checkpoint, or the R1-Zero template from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r1pipe.errors import InputError
from r1pipe.schema import Text, TextFile

SLOT = "{prompt}"
TEMPLATES = Path(__file__).parents[1] / "configs" / "templates"


def read_template(template: str) -> str | None:
    """The text of a template (schema.TemplateName), None for `chat`.

    Raises:
        InputError: the file is missing or has no {prompt}.
    """
    if template == "chat":
        return None
    path = TEMPLATES / f"{template}.txt" if template == "r1-zero" else Path(template)
    if not path.is_file():
        raise InputError(
            "the prompt template does not exist", str(path), "name a text file that holds {prompt}, or write `chat`"
        )
    text = path.read_text(encoding="utf8").rstrip("\n")
    if text.count(SLOT) != 1:
        raise InputError(
            f"the prompt template holds {SLOT} {text.count(SLOT)} times",
            str(path),
            f"write {SLOT} once, where the question goes",
        )
    return text


def read_text(text: Text) -> str:
    """A text of a config.

    Raises:
        InputError: its file cannot be read, is not UTF-8, or the text is empty.
    """
    where = str(text.file) if isinstance(text, TextFile) else ""
    try:
        found = (text.file.read_text(encoding="utf8") if isinstance(text, TextFile) else text).strip()
    except OSError as error:
        raise InputError(f"the text cannot be read: {error.strerror}", where, "check the path") from None
    except UnicodeDecodeError:
        raise InputError("the text is not UTF-8", where, "convert the file to UTF-8") from None
    if not found:
        raise InputError("the text is empty", where or "an instruction or guidelines", "write one, or leave it out")
    return found


def render_prompt(row: dict[str, Any], template: str | None) -> str | list[dict[str, str]]:
    """What the trainer reads: a string for a file template, messages for the chat template (its text adds its own BOS)."""
    if template is not None:
        return template.replace(SLOT, row["prompt"])
    return [{"role": "user", "content": row["prompt"]}]


def prompt_ids(rows: list[dict[str, Any]], template: str | None, tokenizer: Any) -> list[list[int]]:
    """Token ids up to where the response begins, a list a row."""
    rendered = [render_prompt(row, template) for row in rows]
    if template is not None:
        return tokenizer(rendered)["input_ids"]
    return tokenizer.apply_chat_template(rendered, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]


def chat_ids(messages: list[dict[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of a conversation and its completion mask, 1 on the last assistant turn (which turns carry loss: our choice)."""
    assert messages[-1]["role"] == "assistant", "rows are checked when they are read"
    before = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    if whole[: len(before)] != before:
        raise InputError(
            "the chat template renders a prompt differently with and without its reply, so the loss cannot be placed",
            getattr(tokenizer, "name_or_path", ""),
            "use a template whose generation prompt is a prefix of the whole conversation (templates that drop or prefill <think> do this)",
        )
    return whole, [0] * len(before) + [1] * (len(whole) - len(before))
