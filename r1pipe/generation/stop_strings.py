"""Stop strings, such as `</answer>`, found token by token on the device that samples.

Tokens do not keep to the borders of a stop string: `</answer>` may be written as `</`, `answer`, and `>` together with
a line break. So the search is an automaton over characters, and a table says to which state each whole token leads. A
step of sampling is then one look-up for each sequence, also inside a CUDA graph.

Shapes: Q states, V vocabulary, S sequences, B of them that still run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from transformers.generation.stopping_criteria import StopStringCriteria


class StopStrings:
    """Strings that end a response. The string belongs to the response, and so does the rest of its last token.

    Args:
        strings: what ends a response; ASCII, since a token may hold a part of any other character.
        tokenizer: whose tokens they are searched in.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        assert strings and all(text and text.isascii() for text in strings), "the config was checked"
        self.strings = tuple(strings)
        self.tokenizer = tokenizer
        # A state is what the text ends in and a stop string begins with; one more state stands for a stop string found.
        self._states = sorted({text[:length] for text in strings for length in range(len(text))}, key=len)
        self.found = len(self._states)

    @cached_property
    def _table_QV(self) -> torch.Tensor:
        texts, ids = StopStringCriteria.clean_tokenizer_vocab(self.tokenizer)
        table_QV = torch.zeros(self.found + 1, max(ids) + 1, dtype=torch.long)
        # nothing leads away from a stop string that was found
        table_QV[self.found] = self.found

        # A token that begins no stop string, and does not go on from the state with its first character, leads to
        # the first state: nothing is written yet.
        by_first: dict[str, list[tuple[str, int]]] = {}
        beginnings = {text[0] for text in self.strings}
        for text, token in zip(texts, ids, strict=True):
            if not beginnings.isdisjoint(text):
                for number, state in enumerate(self._states):
                    table_QV[number, token] = self._advance(state, text)
            elif text:
                by_first.setdefault(text[0], []).append((text, token))
        for number, state in enumerate(self._states):
            # an ending of the state may be the beginning of a stop string, too
            endings = [ending for ending in self._states if state.endswith(ending)]
            continuing = {
                text[len(ending)] for ending in endings for text in self.strings if text.startswith(ending)
            }
            for char in continuing:
                for text, token in by_first.get(char, []):
                    table_QV[number, token] = self._advance(state, text)
        return table_QV

    def table(self, vocabulary: int, device: torch.device | str) -> torch.Tensor:
        """The state after each token from each state, (Q, V).

        Args:
            vocabulary: the model's, which may be larger than the tokenizer's.
        """
        missing = max(0, vocabulary - self._table_QV.shape[1])
        return torch.nn.functional.pad(self._table_QV, (0, missing)).to(device)

    def length(self, token_ids: list[int]) -> int | None:
        """Tokens up to the end of the first stop string; None where there is none."""
        state = 0
        for position, token in enumerate(token_ids):
            state = int(self._table_QV[state, token])
            if state == self.found:
                return position + 1
        return None

    def _advance(self, state: str, text: str) -> int:
        """The number of the state after this text."""
        for char in text:
            state += char
            if state.endswith(self.strings):
                return self.found
            while state not in self._states:
                state = state[1:]
        return self._states.index(state)


class StopStates:
    """How much of a stop string each of S sequences ends in, in memory that stays in place.

    Args:
        stop: the strings.
        sequences: S.
        vocabulary: the model's.
    """

    def __init__(
        self, stop: StopStrings, sequences: int, vocabulary: int, device: torch.device | str
    ) -> None:
        self._found = stop.found
        self._table_QV = stop.table(vocabulary, device)
        self.state_S = torch.zeros(sequences, dtype=torch.long, device=device)

    def advance(self, sequence_B: torch.Tensor, token_B: torch.Tensor) -> torch.Tensor:
        """Take the next token of these sequences; return which of them have a stop string now, (B,)."""
        state_B = self._table_QV[self.state_S[sequence_B], token_B]
        self.state_S[sequence_B] = state_B
        return state_B == self._found


@lru_cache(maxsize=8)
def _cached(strings: tuple[str, ...], tokenizer: Any) -> StopStrings:
    return StopStrings(strings, tokenizer)


def stop_strings(strings: Sequence[str], tokenizer: Any) -> StopStrings | None:
    """The stop strings of a config for this tokenizer; None where there are none.

    The same object each time: CUDA graphs are recorded again when it changes.
    """
    return _cached(tuple(strings), tokenizer) if strings else None
