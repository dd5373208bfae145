"""Drawing and verifying at the same time, in this process.

Drawing runs in `max_in_flight` threads and verifying in one thread of its own. Only the thread that called writes files
and decides what is drawn next, and it decides in the order of samples, so the result does not depend on timing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from r1pipe.data.candidates import Candidate
from r1pipe.errors import R1PipeError
from r1pipe.generation.contract import Sample
from r1pipe.generation.rounds import Task, candidates_of
from r1pipe.text.endpoint import NoAnswer

if TYPE_CHECKING:
    from r1pipe.generation.sampling_loop import SamplingLoop

# Candidates in one call of the verifier: enough to keep the sandboxes busy, few enough that verdicts reach the disk
# soon.
VERIFIED_AT_A_TIME = 256


class LocalWork:
    """Drawing and verifying of some cohorts in this process, at the same time, until nothing is left to do.

    Args:
        loop: keeps the results.
        cohorts: the cohorts' numbers; the next is begun when there is nothing else to draw.
    """

    def __init__(self, loop: SamplingLoop, cohorts: Iterable[int]) -> None:
        self.loop = loop
        self.generator = loop.generator
        self.cohorts = iter(cohorts)
        self.to_draw: deque[Task] = deque()
        self.drawing: dict[Future[list[Sample]], Task] = {}
        self.to_verify: deque[tuple[Task, list[Sample]]] = deque()
        # One future at most: verdicts are given batch by batch.
        self.verifying: dict[Future[list[Candidate]], list[tuple[Task, list[Sample]]]] = {}
        self.ended: SimpleQueue[Future[Any]] = SimpleQueue()
        self.unanswered: list[str] = []
        self.stop: R1PipeError | None = None
        self.drawers = ThreadPoolExecutor(self.generator.max_in_flight)
        self.verifier = ThreadPoolExecutor(1)

    def run(self) -> None:
        """Do the work; see SamplingLoop.run for what it raises."""
        try:
            while True:
                self._start_drawing()
                self._start_verifying()
                may_draw = bool(self.to_draw) and self.stop is None
                if self.drawing or self.verifying:
                    self._take_next_result()
                elif not self.to_verify and not may_draw:
                    break
        finally:
            self.drawers.shutdown(wait=False, cancel_futures=True)
            self.verifier.shutdown(wait=False, cancel_futures=True)

        if self.stop is not None:
            # Asked again, for the message's numbers: what was in flight has arrived since.
            latest = self.generator.stop_reason(self.loop.tokens_in, self.loop.tokens_out)
            raise self.loop.stopped(latest or self.stop)
        if self.unanswered:
            raise self.loop.unanswered(self.unanswered)

    def _start_drawing(self) -> None:
        """Start as many draws as may be in flight."""
        one_at_a_time = self.loop.one_at_a_time
        while self.stop is None and len(self.drawing) < self.generator.max_in_flight:
            if one_at_a_time and self.verifying:
                return
            if not self.to_draw:
                cohort = next(self.cohorts, None)
                if cohort is None:
                    return
                self.to_draw.extend(self.loop.next_round(cohort, 0))
                continue

            task = self.to_draw.popleft()
            samples = self.loop.drawn_before(task.unit)
            if samples is not None:
                self.to_verify.append((task, samples))
                continue
            self.stop = self.generator.stop_reason(self.loop.tokens_in, self.loop.tokens_out)
            if self.stop is None:
                future = self.drawers.submit(self.generator.draw, task.unit)
                self.drawing[future] = task
                future.add_done_callback(self.ended.put)

    def _start_verifying(self) -> None:
        """Start to verify what has arrived, unless something is being verified."""
        if self.verifying or (self.loop.one_at_a_time and self.drawing):
            return
        batch: list[tuple[Task, list[Sample]]] = []
        size = 0
        while self.to_verify and size < VERIFIED_AT_A_TIME:
            task, samples = self.to_verify.popleft()
            candidates = self.loop.verified_before(task.unit, samples)
            if candidates is not None:
                self._complete(task, samples, candidates)
            else:
                batch.append((task, samples))
                size += len(samples)
        if batch:
            future = self.verifier.submit(self._verify, batch)
            self.verifying[future] = batch
            future.add_done_callback(self.ended.put)

    def _verify(self, batch: list[tuple[Task, list[Sample]]]) -> list[Candidate]:
        assert self.loop.verify is not None
        candidates: list[Candidate] = []
        for task, samples in batch:
            candidates += candidates_of(task.unit, self.loop.rows, samples, self.loop.source)
        return self.loop.verify(candidates)

    def _take_next_result(self) -> None:
        """Wait for a draw or for verdicts, and keep them."""
        future = self.ended.get()
        if future in self.drawing:
            task = self.drawing.pop(future)
            try:
                samples = future.result()
            except NoAnswer as error:
                # Others may have one: the stage goes on, and ends with an error.
                self.unanswered.append(error.why)
                return
            self.loop.keep_samples(task.unit, samples)
            self.to_verify.append((task, samples))
            return

        verified = iter(future.result())
        for task, samples in self.verifying.pop(future):
            candidates = [next(verified) for _ in samples]
            self.loop.keep_verdicts(task.unit, samples, candidates)
            self._complete(task, samples, candidates)

    def _complete(self, task: Task, samples: list[Sample], candidates: list[Candidate]) -> None:
        # In front: a cohort is finished before the next one begins.
        following = self.loop.complete(task, samples, candidates)
        self.to_draw.extendleft(reversed(following))
