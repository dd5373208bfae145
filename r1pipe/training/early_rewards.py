"""Rewards while a rollout is still drawn: responses that have ended are judged in a thread of their own, while the GPU draws the others.

The longest responses of a rollout are drawn when most have ended long ago, and programs, proofs and judges that are asked over a network take
seconds in which the GPU would wait. Components that judge each response by itself take part (rewards.judges_alone); reward models need the GPU,
and a function of the user's own may compare responses: they judge when all are there. What is judged here is used for the same text only, so that
a rollout that is drawn again after a failure, or told of in another order, costs time and no truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from r1pipe.rewards import Known, score_alone
from r1pipe.schema import RewardSpec

Told = tuple[list[int], list[list[int]]]  # places in the rollout and their tokens


class EarlyRewards:
    """Of one rollout; a context manager around its drawing.

    Args:
        specs: the phase's components.
        rows: what each response answers.
        read: token ids of responses -> their texts, as they will be judged.
    """

    def __init__(self, specs: Sequence[RewardSpec], rows: Sequence[dict[str, Any]], read: Callable[[list[list[int]]], list[str]]) -> None:
        self._specs, self._rows, self._read = specs, rows, read
        self._told: SimpleQueue[Told | None] = SimpleQueue()
        self._over = False
        self._texts: dict[int, str] = {}
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
        self._told.put((places, ids))

    def known(self, texts: Sequence[str]) -> Known:
        """What was found of these texts, all of the rollout; waits for what is being judged. What was not begun is left to the caller."""
        self._thread.join()
        same = {place for place, text in self._texts.items() if texts[place] == text}
        return {name: {place: value for place, value in values.items() if place in same} for name, values in self._known.items()}

    def _work(self) -> None:
        while (told := self._told.get()) is not None:
            places, ids = told
            try:
                while (more := self._told.get_nowait()) is not None:
                    places, ids = places + more[0], ids + more[1]
            except Empty:
                pass
            if self._over:
                return
            rows = [{**self._rows[place], "tokens": len(one)} for place, one in zip(places, ids, strict=True)]
            texts = self._read(ids)
            try:
                found = score_alone(self._specs, texts, rows)
            except Exception:  # they are judged again with the others, and where it is no accident it is raised there
                return
            self._texts.update(zip(places, texts, strict=True))
            for name, values in found.items():
                self._known.setdefault(name, {}).update({places[i]: value for i, value in values.items()})
