"""Many texts are tokenized on all cores, and a process that is forked later still can."""

from __future__ import annotations

import os

import pytest

from r1pipe.models.loading import load_tokenizer
from r1pipe.text.rendering import prompt_ids
from r1pipe.text.tokenizing import VARIABLE, on_all_cores, token_ids

TEXTS = [f"<think>{number} + 1</think>{number + 1}" for number in range(500)]


@pytest.mark.parametrize("before", [None, "false", "true"])
def test_the_variable_is_as_it_was(before: str | None, monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    with pytest.raises(KeyError), on_all_cores():
        assert os.environ[VARIABLE] == "true"
        raise KeyError
    assert os.environ.get(VARIABLE) == before


def test_a_process_that_is_forked_later_tokenizes_the_same(tiny_checkpoint, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "false")
    tokenizer = load_tokenizer(tiny_checkpoint)
    ids = token_ids(TEXTS, tokenizer)
    assert ids == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert token_ids([], tokenizer) == []

    pid = os.fork()
    if pid == 0:
        # without the threads of its parent it would wait for ever
        same = tokenizer(TEXTS, add_special_tokens=False)["input_ids"] == ids
        os._exit(0 if same else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("template", [None, "{prompt}"])
def test_prompts_are_tokenized_on_all_cores(tiny_checkpoint, monkeypatch, template: str | None) -> None:
    monkeypatch.setenv(VARIABLE, "false")
    tokenizer = load_tokenizer(tiny_checkpoint)
    encode = type(tokenizer)._encode_plus
    seen: list[str] = []

    def watched(*given, **named):
        seen.append(os.environ[VARIABLE])
        return encode(*given, **named)

    monkeypatch.setattr(type(tokenizer), "_encode_plus", watched)
    assert all(prompt_ids([{"prompt": text} for text in TEXTS], template, tokenizer))
    assert seen[-1] == "true"
