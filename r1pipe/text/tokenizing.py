"""Many texts to token ids at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

VARIABLE = "TOKENIZERS_PARALLELISM"


@contextmanager
def on_all_cores() -> Iterator[None]:
    """Let the tokenizers library use all cores meanwhile.

    Its threads do not survive a fork, so they are off wherever processes may be forked later: those find the variable
    as it was.
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "true"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def token_ids(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The token ids of each text, as it stands: no special tokens are added."""
    if not texts:
        return []
    with on_all_cores():
        return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
