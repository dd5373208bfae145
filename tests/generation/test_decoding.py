"""decode() draws what model.generate would, only faster."""

from __future__ import annotations

import pytest
import torch

from r1pipe.generation.decoding import decode


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    from r1pipe.models.loading import load_model

    return load_model(tiny_checkpoint, training=False).float()  # on a GPU, too: numbers are compared


PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def test_greedy_equals_generate_for_prompts_of_unequal_length(model):
    ours = decode(model, PROMPTS, max_new_tokens=12, temperature=0, eos_ids=[1], pad_id=0).token_ids
    for prompt, ids in zip(PROMPTS, ours, strict=True):
        theirs = model.generate(
            input_ids=torch.tensor([prompt], device=model.device),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
        )
        assert ids == theirs[0, len(prompt) :].tolist()


def test_a_group_shares_its_prompt_and_sequences_that_end_leave_the_batch(model):
    """With a third of the vocabulary ending a sequence, the batch is compacted again and again."""
    ends = list(range(0, 300, 3))
    torch.manual_seed(0)
    out, logps = decode(model, PROMPTS, n=16, max_new_tokens=24, eos_ids=ends, pad_id=0, keep_logps=True)
    assert len(out) == 48
    assert len({len(ids) for ids in out}) > 3
    for i, (ids, found) in enumerate(zip(out, logps, strict=True)):
        assert all(token not in ends for token in ids[:-1])
        assert ids[-1] in ends or len(ids) == 24
        # Each token has the probability that a fresh forward pass of this row alone gives it: no rows were mixed up.
        logits = (
            model(torch.tensor([PROMPTS[i // 16] + ids], device=model.device))
            .logits[0, len(PROMPTS[i // 16]) - 1 : -1]
            .cpu()
        )
        wanted = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None]).squeeze(1)
        assert torch.allclose(torch.tensor(found), wanted, atol=1e-4)


def test_ended_sequences_are_reported_once_while_others_are_drawn(model):
    told: dict[int, list[int]] = {}
    looks = []

    def tell(places: list[int], ids: list[list[int]]) -> None:
        assert not told.keys() & set(places)
        told.update(zip(places, ids, strict=True))
        looks.append(len(places))

    torch.manual_seed(0)
    ends = list(range(0, 300, 9))
    out = decode(model, PROMPTS, n=16, max_new_tokens=24, eos_ids=ends, pad_id=0, on_ended=tell).token_ids
    assert all(out[place] == ids for place, ids in told.items())
    longest = max(map(len, out))
    assert (
        {i for i, ids in enumerate(out) if len(ids) < longest - 8}
        <= told.keys()
        <= {i for i, ids in enumerate(out) if len(ids) < 24}
    )
    assert len(looks) > 1 and len(told) > 10


def test_log_probs_are_those_of_a_fresh_forward_pass(model):
    out, logps = decode(
        model,
        PROMPTS,
        n=8,
        max_new_tokens=16,
        temperature=0.7,
        eos_ids=list(range(0, 300, 9)),
        pad_id=0,
        keep_logps=True,
    )
    for i, (ids, found) in enumerate(zip(out, logps, strict=True)):
        logits = (
            model(torch.tensor([PROMPTS[i // 8] + ids], device=model.device))
            .logits[0, len(PROMPTS[i // 8]) - 1 : -1]
            .cpu()
        )
        wanted = torch.log_softmax(logits / 0.7, -1).gather(1, torch.tensor(ids)[:, None]).squeeze(1)
        assert torch.allclose(torch.tensor(found), wanted, atol=1e-4)


def test_compaction_keeps_rows_apart(model):
    """Greedy rows do not depend on which others run beside them."""
    settings = {"max_new_tokens": 20, "temperature": 0, "eos_ids": [7, 33, 90], "pad_id": 0}
    alone = [decode(model, [prompt], **settings).token_ids[0] for prompt in PROMPTS * 5]
    together = decode(model, PROMPTS * 5, **settings).token_ids
    assert alone == together


def test_the_cache_grows_with_the_responses_and_not_with_the_limit(model, monkeypatch):
    """With max_tokens 32,768 and 256 sequences, room for all at once would be hundreds of GB for a 1.5B model."""
    from r1pipe.generation import decoding as module

    made: list[module.InPlaceLayer] = []
    room_at: list[int] = []

    class Watched(module.InPlaceLayer):
        def __init__(self, most: int) -> None:
            super().__init__(most)
            made.append(self)

    def look(t: int, rows: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        room_at.append(made[0]._room[0].shape[-2])
        return logits_BV

    ends = list(range(0, 300, 40))
    asked = {"n": 4, "max_new_tokens": 40, "eos_ids": ends, "pad_id": 0}
    monkeypatch.setattr(module, "InPlaceLayer", Watched)
    torch.manual_seed(0)
    whole = decode(model, PROMPTS, **asked, adjust=look).token_ids
    assert set(room_at) == {7 + 40}, "room for all at once where that is little"
    made.clear(), room_at.clear()
    monkeypatch.setattr(module, "FIRST_ROOM", 3)
    torch.manual_seed(0)
    assert decode(model, PROMPTS, **asked, adjust=look).token_ids == whole, (
        "the same samples: growing and compacting lose nothing"
    )
    assert room_at[0] == 10 and room_at == sorted(room_at) and max(room_at) <= 47 and {10, 20} <= set(room_at)
    assert max(map(len, whole)) > 14, "it had to grow"
    room_at.clear(), made.clear()
    decode(model, PROMPTS, max_new_tokens=100_000, eos_ids=list(range(300)), pad_id=0, adjust=look)
    assert max(room_at) < 20


def test_a_model_with_sliding_windows_goes_through_the_librarys_loop():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = MistralForCausalLM(config).eval()
    prompts = [[3, 4, 5, 6, 7, 8], [9, 10]]
    out = decode(model, prompts, n=2, max_new_tokens=6, temperature=0, eos_ids=[1], pad_id=0).token_ids
    theirs = model.generate(
        input_ids=torch.tensor([[3, 4, 5, 6, 7, 8]]),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=0,
    )
    assert out[0] == out[1] == theirs[0, 6:].tolist()
