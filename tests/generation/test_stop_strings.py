"""Stop strings end a response at the token that completes one, in every loop that draws."""

from __future__ import annotations

import copy
import lzma
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from r1pipe.generation.cuda_graphs import GraphedModel
from r1pipe.generation.decoding import decode
from r1pipe.generation.stop_strings import StopStrings, stop_strings

TOKENIZERS = Path(__file__).parents[3] / "shared" / "tokenizers"
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def real_tokenizer(name: str, folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not TOKENIZERS.is_dir():
        pytest.skip("the tokenizers of real families are not beside this checkout (../shared/tokenizers)")
    for source in (TOKENIZERS / name).iterdir():
        content = source.read_bytes()
        target = folder / source.name.removesuffix(".xz")
        target.write_bytes(lzma.decompress(content) if source.suffix == ".xz" else content)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("family", [pytest.param("qwen2.5-coder", marks=pytest.mark.slow), "smollm2"])
def test_the_first_stop_string_is_found_whatever_tokens_write_it(family, tmp_path):
    """Against the text: the shortest beginning of the tokens whose text holds a stop string."""
    tokenizer = real_tokenizer(family, tmp_path)
    stop = StopStrings(["</answer>", "<<END>>", "User:"], tokenizer)
    pieces = [
        "</answer>",
        "</answer>\n",
        "<",
        "</",
        "answer>",
        "</answer",
        "<<END",
        ">>",
        "<<<END>>",
        " User",
        ":",
        "x",
        "9",
    ]
    chance = random.Random(0)
    found = 0
    for _ in range(200):
        text = "".join(chance.choices(pieces, k=8))
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        texts = [tokenizer.decode(ids[:length]) for length in range(len(ids) + 1)]
        wanted = next((n for n, text in enumerate(texts) if any(s in text for s in stop.strings)), None)
        assert stop.length(ids) == wanted, text
        found += wanted is not None
    assert 20 < found < 200, "some texts have one and some have none"


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    from r1pipe.models.loading import load_model

    return load_model(tiny_checkpoint, training=False).float()


@pytest.mark.parametrize("loop", ["plain", "graphs", "transformers"])
def test_every_loop_ends_a_response_there(loop, model, tiny_checkpoint, monkeypatch):
    from transformers import AutoTokenizer

    from r1pipe.generation import decoding

    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    graphed = None
    if loop == "graphs":
        graphed = GraphedModel(copy.deepcopy(model))
        assert graphed.make_room(48, 64)
    if loop == "transformers":
        monkeypatch.setattr(decoding, "_has_plain_cache", lambda model: False)
    # the random model writes these often; two tokens of one letter each, or more
    stop = stop_strings(["e", "1"], tokenizer)
    assert stop is not None and stop is stop_strings(["e", "1"], tokenizer), (
        "graphs are recorded again otherwise"
    )
    torch.manual_seed(0)
    drawn = decode(
        model, PROMPTS, n=16, max_new_tokens=40, eos_ids=[1], stop=stop, pad_id=0, graphed=graphed
    ).token_ids
    stopped = 0
    for ids in drawn:
        before, text = tokenizer.decode(ids[:-1]), tokenizer.decode(ids)
        assert "e" not in before and "1" not in before
        by_string = "e" in text or "1" in text
        assert by_string or ids[-1] == 1 or len(ids) == 40
        stopped += by_string
    assert stopped > 10


def test_the_next_draw_begins_anew(model, tiny_checkpoint):
    """What a sequence had written of a stop string is forgotten in the next rollout."""
    from transformers import AutoTokenizer

    stop = stop_strings(["ab"], AutoTokenizer.from_pretrained(tiny_checkpoint))
    graphed = GraphedModel(copy.deepcopy(model))
    assert graphed.make_room(48, 64)

    def draw() -> list[list[int]]:
        torch.manual_seed(3)
        drawn = decode(
            model, PROMPTS, n=4, max_new_tokens=20, eos_ids=[1], stop=stop, pad_id=0, graphed=graphed
        )
        return drawn.token_ids

    # the first draw records the graphs, with random numbers of its own
    draw()
    first = draw()
    graphed._stops.state_S.fill_(1)
    assert draw() == first


def test_what_cannot_be_found_is_refused():
    from pydantic import ValidationError

    from r1pipe.schema import Sampling

    for text in ("", "  ", "答案"):
        with pytest.raises(ValidationError, match="stop string is ASCII"):
            Sampling(stop=[text])
