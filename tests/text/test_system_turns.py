"""System turns: rendered by the template's own turn, and refused where the template has none."""

from __future__ import annotations

from typing import Any

import pytest

from r1pipe.errors import InputError
from r1pipe.text.rendering import check_system_turns, prompt_ids

ROWS = [{"prompt": "3+4?"}, {"prompt": "5+6?", "system": "Be brief."}]
SHOWS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
LEAVES_OUT = "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + SHOWS
)


@pytest.fixture
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"?": 0, "brief": 1}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


def test_a_system_text_is_in_the_prompt_s_tokens(tokenizer: Any) -> None:
    tokenizer.chat_template = SHOWS
    without, with_system = prompt_ids(ROWS, None, tokenizer)
    assert 1 not in without and 1 in with_system
    assert 1 in prompt_ids(ROWS, "Q: {prompt}", tokenizer)[1]


@pytest.mark.parametrize(
    ("template", "says"),
    [(LEAVES_OUT, "leaves it out"), (REFUSES, "refuses it: System role not supported")],
)
def test_a_template_without_a_place_for_it_is_named(tokenizer: Any, template: str, says: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=f"a system turn, and the chat template {says}"):
        prompt_ids(ROWS, None, tokenizer)
    assert prompt_ids(ROWS[:1], None, tokenizer)
    chats = [
        [{"role": "user", "content": "a"}],
        [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
    ]
    with pytest.raises(InputError, match=says):
        check_system_turns(chats, tokenizer)
