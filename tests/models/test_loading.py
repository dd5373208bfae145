"""What a loaded tokenizer does beside what transformers' does, and which checkpoints are refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from r1pipe.errors import GuardError, InputError
from r1pipe.models.loading import (
    check_finite,
    checkpoint_ends,
    end_ids,
    load_model,
    load_tokenizer,
    settle_ends,
    warn_of_positions,
    with_positions,
)
from r1pipe.training.reward_model import _classifier


@pytest.mark.parametrize(
    "of",
    [lambda tokenizer: tokenizer, copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))],
)
def test_many_rows_are_decoded_as_one_by_one(tiny_checkpoint, of) -> None:
    tokenizer = of(load_tokenizer(tiny_checkpoint))
    ids = [
        tokenizer("What is 17 + 5 ?").input_ids + [tokenizer.eos_token_id],
        [],
        [tokenizer.pad_token_id],
        [200, 301, 7],
    ]
    for skip in (False, True):
        assert tokenizer.batch_decode(ids, skip_special_tokens=skip) == [
            tokenizer.decode(each, skip_special_tokens=skip) for each in ids
        ]
    assert tokenizer.batch_decode(torch.tensor([[5, 6]])) == [tokenizer.decode([5, 6])]
    assert tokenizer.batch_decode(ids[:1], clean_up_tokenization_spaces=False) == [tokenizer.decode(ids[0])]


def broken(checkpoint: Path, folder: Path, change: Any) -> Path:
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


UP = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda weights: {n: w for n, w in weights.items() if n != UP}, f"missing: {UP}"),
        (
            lambda weights: weights | {"model.layers.7.x.weight": torch.ones(1)},
            "not in the model: model.layers.7.x.weight",
        ),
        (lambda weights: weights | {UP: torch.ones(3, 32)}, f"of another size: {UP}"),
        (lambda weights: {}, r"missing: .* and \d+ more"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(
    tiny_checkpoint: Path, tmp_path: Path, change: Any, says: str
) -> None:
    """A missing one was drawn at random, and trained on."""
    folder = broken(tiny_checkpoint, tmp_path / "broken", change)
    with pytest.raises(InputError, match=says):
        load_model(folder, training=True)
    with pytest.raises(InputError, match=says):
        _classifier(folder, training=True)


def test_a_head_that_a_body_lacks_is_drawn_for_training_only(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert _classifier(tiny_checkpoint, training=True).score.weight.isfinite().all()
    with pytest.raises(InputError, match="missing: score.weight"):
        _classifier(tiny_checkpoint, training=False)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "qwen2", "hidden_size": "x"}'),
        ("config.json", b'{"model_type": "no-such-type"}'),
    ],
)
def test_a_damaged_file_is_the_users_to_mend(
    tiny_checkpoint: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(folder, training=True)


def test_weights_that_are_not_finite_are_not_published(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = broken(
        tiny_checkpoint, tmp_path / "nan", lambda weights: weights | {UP: weights[UP] * float("nan")}
    )
    with pytest.raises(GuardError, match=f"not finite, among them {UP}"):
        check_finite(folder)
    check_finite(tiny_checkpoint)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink(path, path)], ids=["pipe", "circle"])
def test_what_cannot_be_opened_is_refused_at_once(
    tiny_checkpoint: Path, tmp_path: Path, name: str, make: Any
) -> None:
    """Opening a pipe waited for ever."""
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "odd")
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(InputError, match=r"is not a file|no config\.json"):
        load_model(folder, training=True)
    with pytest.raises(InputError, match="is not a file"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[" * 100_000),
        (
            "tokenizer.json",
            '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
        ),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'),
    ],
)
def test_a_damaged_tokenizer_is_the_users_to_mend(
    tiny_checkpoint: Path, tmp_path: Path, name: str, content: str
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    (folder / name).write_text(content)
    with pytest.raises(InputError):
        load_tokenizer(folder)


LOOP = "{% for i in range(99999) %}"


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ messages[7].content }}",
        "{{ messages | nosuchfilter }}",
        "{{ raise_exception('no') }}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        LOOP * 3 + "{% endfor %}" * 3,
        LOOP + "{{ messages }}{% endfor %}",
        "{# " + "x" * 1_000_001 + " #}",
    ],
)
def test_a_chat_template_fails_within_limits(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    """Some ended in a traceback, some never ended."""
    monkeypatch.setattr("r1pipe.models.folders.RENDER_SECONDS", 0.5)
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "odd")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(InputError, match="the chat template"):
        load_tokenizer(folder)


def test_a_tokenizer_class_adds_no_token_without_an_embedding(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Qwen2's class adds <|endoftext|>, also to what is saved; a text that holds it would index past the weights."""
    size = json.loads((tiny_checkpoint / "config.json").read_text())["vocab_size"]
    assert len(AutoTokenizer.from_pretrained(tiny_checkpoint)) == size + 1
    tokenizer = load_tokenizer(tiny_checkpoint)
    assert len(tokenizer) == size and tokenizer.unk_token is None
    assert max(tokenizer("What is <|endoftext|>?")["input_ids"]) < size
    tokenizer.save_pretrained(tmp_path)
    assert "<|endoftext|>" not in (tmp_path / "tokenizer.json").read_text()


def test_what_changes_a_draw_stays_behind(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """repetition_penalty and its kin of a checkpoint reach no generation, and no checkpoint that is trained from it."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    stated = {
        "eos_token_id": [1, 3],
        "pad_token_id": 0,
        "repetition_penalty": 1.3,
        "top_k": 5,
        "do_sample": True,
    }
    (folder / "generation_config.json").write_text(json.dumps(stated))
    model = load_model(folder, training=True)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == ([1, 3], 0)
    model.save_pretrained(tmp_path / "trained")
    saved = json.loads((tmp_path / "trained" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == [1, 3]
    assert not {"repetition_penalty", "top_k"} & set(saved)


def test_the_token_that_closes_a_turn_is_an_end_token_and_is_saved(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """As of Qwen2.5's base: the tokenizer's end token is another one than the template's."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("<|end|>", "<|pad|>"))
    tokenizer, model = load_tokenizer(folder), load_model(folder, training=False)
    assert end_ids(model, tokenizer) == checkpoint_ends(folder, tokenizer) == [0, 1]
    settle_ends(model, tokenizer)
    assert model.generation_config.eos_token_id == [0, 1]


def test_more_positions(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = with_positions(tiny_checkpoint, 4096, 300_000.0)
    load_model(tiny_checkpoint, training=True, config=config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["max_position_embeddings"] == 4096
    assert saved["rope_parameters"]["rope_theta"] == 300_000
    assert with_positions(tiny_checkpoint, None) is None


@pytest.mark.parametrize(("max_tokens", "warned"), [(163836, False), (163837, True)])
def test_prompts_that_leave_too_few_positions_are_counted(
    max_tokens: int, warned: bool, tiny_checkpoint: Path
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_positions(tiny_checkpoint, [[1], [1, 2, 3, 4]], max_tokens)
    assert [str(one.message)[:14] for one in caught] == ["1 of 2 prompts"] * warned
