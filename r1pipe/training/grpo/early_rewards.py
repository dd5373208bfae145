"""Rewards while a rollout is still drawn: a thread judges responses that have ended, while the GPU draws the others.

The last responses of a rollout are drawn long after most have ended, and programs, proofs and judges behind a network
take seconds in which the GPU would wait. Those rewards take part (scoring.EARLY_REWARDS), since they wait for other
processes.
The rest judges at the end: what computes in Python would take the interpreter from the drawing, reward models need
    the GPU,
and a function of the user's may compare responses with each other.

A result is used only for the tokens it was computed from. A rollout that is drawn again after a failure, or that
reports its responses in another order, therefore costs time and changes no reward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

from r1pipe.rewards.scoring import EarlyScores, score_early
from r1pipe.schema import RewardSpec


class EarlyRewards:
    """The early rewards of one rollout; a context manager around its drawing.

    Args:
        specs: the phase's components.
        rows: the row that each response answers.
        decode: token ids of responses -> their texts, as they will be judged.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        rows: Sequence[dict[str, Any]],
        decode: Callable[[list[list[int]]], list[str]],
    ) -> None:
        self._specs = specs
        self._rows = rows
        self._decode = decode
        # a place in the rollout and the tokens of its response; None = no more will come
        self._ended: SimpleQueue[tuple[int, list[int]] | None] = SimpleQueue()
        self._over = False

        # written by the thread, read after it has ended
        self._judged_ids: dict[int, list[int]] = {}
        self._scores: dict[str, dict[int, float | None]] = {}
        # a daemon: a stage that is stopped does not wait for it
        self._thread = Thread(target=self._work, daemon=True)

    def __enter__(self) -> EarlyRewards:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # what waits is not begun: the main thread judges it now, all at once
        self._over = True
        self._ended.put(None)

    def add(self, places: list[int], ids: list[list[int]]) -> None:
        """Take responses that have ended.

        Args:
            places: their indices in the rollout.
            ids: their tokens.
        """
        for response in zip(places, ids, strict=True):
            self._ended.put(response)

    def results(self, ids: Sequence[list[int]]) -> EarlyScores:
        """What was judged of the rollout's responses; what was not begun is left to the caller.

        Waits for what is being judged.

        Args:
            ids: the tokens of all responses.
        """
        # A response may have been drawn twice, the second time otherwise: only results for these tokens count.
        self._thread.join()
        same = {place for place, judged_ids in self._judged_ids.items() if ids[place] == judged_ids}
        return {
            name: {place: value for place, value in values.items() if place in same}
            for name, values in self._scores.items()
        }

    def _work(self) -> None:
        more = True
        while more:
            # everything that waits is judged in one batch: a sandbox or a judge takes many at a time
            waiting = [self._ended.get()]
            while not self._ended.empty():
                waiting.append(self._ended.get())
            more = None not in waiting
            # a response that was reported twice is judged as it was at last
            batch = dict(response for response in waiting if response is not None)

            if self._over:
                return
            try:
                self._judge(list(batch), list(batch.values()))
            except Exception:
                # These are judged again with the others, and an error that comes again is raised there.
                return

    def _judge(self, places: list[int], ids: list[list[int]]) -> None:
        # the same columns as at the end, or a reward might judge otherwise
        rows = [
            {**self._rows[place], "tokens": len(own_ids)} for place, own_ids in zip(places, ids, strict=True)
        ]
        scores = score_early(self._specs, self._decode(ids), rows)
        self._judged_ids.update(zip(places, ids, strict=True))
        for name, values in scores.items():
            by_place = {places[i]: value for i, value in values.items()}
            self._scores.setdefault(name, {}).update(by_place)
