"""Rewards while a rollout is still drawn: responses that have ended are judged in a thread of their own, while the GPU draws the others.

The longest responses of a rollout are drawn when most have ended long ago, and programs, proofs and judges that are asked over a network take seconds
in which the GPU would wait. Those take part (scoring.EARLY_REWARDS): they wait for other processes. What computes in Python would only take the interpreter from
the drawing; reward models need the GPU; a function of the user's own may compare responses: all of them judge at the end. What is judged here is
used for the very tokens that it was made of, so that a rollout that is drawn again after a failure, or told of in another order, costs time and no truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

from r1pipe.rewards.scoring import EarlyScores, score_early
from r1pipe.schema import RewardSpec


class EarlyRewards:
    """Of one rollout; a context manager around its drawing.

    Args:
        specs: the phase's components.
        rows: what each response answers.
        read: token ids of responses -> their texts, as they will be judged.
    """

    def __init__(
        self, specs: Sequence[RewardSpec], rows: Sequence[dict[str, Any]], read: Callable[[list[list[int]]], list[str]]
    ) -> None:
        self._specs, self._rows, self._read = specs, rows, read
        self._told: SimpleQueue[tuple[int, list[int]] | None] = (
            SimpleQueue()
        )  # a place in the rollout and its tokens; None: no more
        self._over = False
        self._ids: dict[int, list[int]] = {}  # that were judged
        self._known: dict[str, dict[int, float | None]] = {}
        self._thread = Thread(target=self._work, daemon=True)  # a stage that is stopped does not wait for it

    def __enter__(self) -> EarlyRewards:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._told.put(None)

    def tell(self, places: list[int], ids: list[list[int]]) -> None:
        """These responses have ended."""
        for one in zip(places, ids, strict=True):
            self._told.put(one)

    def known(self, ids: Sequence[list[int]]) -> EarlyScores:
        """What was found of these responses, all of the rollout; waits for what is being judged. What was not begun is left to the caller."""
        self._thread.join()
        same = {place for place, judged in self._ids.items() if ids[place] == judged}
        return {
            name: {place: value for place, value in values.items() if place in same}
            for name, values in self._known.items()
        }

    def _work(self) -> None:
        more = True
        while more:
            waiting = [self._told.get()]
            while not self._told.empty():
                waiting.append(self._told.get())
            more = None not in waiting
            batch = dict(one for one in waiting if one is not None)
            if self._over:
                return
            try:
                self._judge(list(batch), list(batch.values()))
            except Exception:  # they are judged again with the others, and where it is no accident it is raised there
                return

    def _judge(self, places: list[int], ids: list[list[int]]) -> None:
        rows = [{**self._rows[place], "tokens": len(one)} for place, one in zip(places, ids, strict=True)]
        found = score_early(self._specs, self._read(ids), rows)
        self._ids.update(zip(places, ids, strict=True))
        for name, values in found.items():
            self._known.setdefault(name, {}).update({places[i]: value for i, value in values.items()})
