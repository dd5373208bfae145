"""What a loaded tokenizer does beside what transformers' does."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from r1pipe.models.loading import load_tokenizer


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
