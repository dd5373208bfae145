"""The loop of every stage that samples: draw, keep, verify meanwhile, draw again what is missing.

Every unit is appended to workdir when it arrives, and every verdict when it is there, so that a kill loses what was in flight and nothing
is drawn or verified twice. A record of a unit counts only for the rows and draws that it was made of, since a later attempt may have
other rows (code, once something isolates it). Several ranks share the cohorts; rank 0 then goes over the others' from their files. Drawing runs in
`in_flight` threads and settling in one (a generator that wants to be `alone` is settled after, not meanwhile); only the thread that called
writes and decides, always in index order.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from r1pipe.data.candidates import REFUSED, Candidate
from r1pipe.endpoint import NoAnswer
from r1pipe.errors import R1PipeError, StageError
from r1pipe.generation import Completion, Draw, Generator, Key, Unit
from r1pipe.generation.journal import Found, Journal, digest_of
from r1pipe.here import Here

Settle = Callable[[list[Candidate]], list[Candidate]]
Drawn = tuple[Completion, Candidate]

SETTLE_AT_A_TIME = 256  # candidates: enough to keep the sandboxes busy, few enough that verdicts soon reach the disk


@dataclass
class Round:
    """One round of a cohort on its way."""

    cohort: int
    number: int
    units: list[Unit]
    drawn: dict[Key, list[Drawn]] = field(default_factory=dict)  # of the units that are done


class Asked(NamedTuple):
    """A unit with the round that waits for it."""

    round: Round
    unit: Unit


def candidates_of(unit: Unit, rows: Any, completions: list[Completion], source: str) -> list[Candidate]:
    """A unit's samples as candidates, none settled; `rows` gives a row by its number."""
    return [
        Candidate(rows[row], one.text, source, one.tokens, one.finished, REFUSED if one.refused else "")
        for row, one in zip(unit.rows, completions, strict=True)
    ]


class Sampler:
    """Draws and settles all rows of a stage; see sample() and sample_and_settle() in r1pipe/generation."""

    def __init__(
        self,
        generator: Generator,
        rows: list[dict[str, Any]],
        n: int,
        here: Here,
        label: str,
        source: str = "",
        settle: Settle | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.generator, self.rows, self.n, self.here, self.label = generator, rows, n, here, label
        self.source, self.settle, self.stop_after = source, settle, stop_after
        self.cohorts = generator.cohorts(stop_after is not None)
        self.drawn: list[list[Drawn]] = [[] for _ in rows]
        self.drawn_now = self.present = self.settled = self.kept = self.saved = (
            0  # samples: of this attempt, of all, ..., not to be drawn
        )
        self.ready = self.total = 0  # rows
        self.refused: list[str] = []  # why, one for each sample
        self.started = time.monotonic()

    @property
    def alone(self) -> bool:
        return self.generator.alone

    def run(self) -> list[list[Drawn]]:
        """Everything, by rows and in index order, on rank 0; nothing on the others, once their share is drawn.

        Raises:
            BudgetError: the budget is used up.
            StageError: some requests had no answer, or the service is gone. All that was drawn stays in workdir.
        """
        rank, world = self.here.rank, self.here.world_size
        mine = range(rank, len(self.cohorts), world)
        self.total = sum(len(self.cohorts[cohort]) for cohort in mine)
        self._read()
        before = [
            one for record in self.found.all() for one in record["samples"]
        ]  # of all ranks, which share the budget
        self.tokens_in, self.tokens_out = (
            sum(one.get("prompt_tokens", 0) for one in before) // world,
            sum(one["tokens"] for one in before) // world,
        )
        self.samples, self.verdicts = (
            Journal(self.here.workdir / f"{label}-{rank}-of-{world}.jsonl")
            for label in (self.label, f"{self.label}-verdicts")
        )
        try:
            self._work(mine)
            if world > 1:
                self._done(rank).touch()
                if self.here.main:
                    while not all(
                        self._done(other).exists() for other in range(world)
                    ):  # a rank that dies takes the launcher, and so us, with it
                        time.sleep(0.02)
                    self._read()
                    self._work(
                        cohort for cohort in range(len(self.cohorts)) if cohort % world != rank
                    )  # asks anew only what was refused there
        finally:
            self.samples.close()
            self.verdicts.close()
            if self.found.passed_over:
                self.here.note(
                    f"{len(self.found.passed_over)} batches of an earlier attempt were of other rows or draws, and were drawn again"
                )
            if self.refused:
                warnings.warn(
                    f"{self.here.stage}: the service refused {len(self.refused)} requests; the last: {self.refused[-1]}",
                    stacklevel=3,
                )
        return self.drawn if self.here.main else []

    def _done(self, rank: int) -> Path:
        return self.here.workdir / f"{self.label}-{rank}-of-{self.here.world_size}.done"

    def _read(self) -> None:
        self.found, self.found_verdicts = (
            Found(self.here.workdir, self.label),
            Found(self.here.workdir, f"{self.label}-verdicts"),
        )

    def _digest(self, unit: Unit) -> str:
        return digest_of([[self.rows[draw.row]["id"], draw.first, draw.n] for draw in unit.draws])

    def _drawn_before(self, unit: Unit) -> list[Completion] | None:
        """The unit's samples, where an earlier attempt or another rank drew them."""
        if (record := self.found.take(unit.key, self._digest(unit))) is None:
            return None
        completions = [Completion(**one) for one in record["samples"]]
        self.present += len(completions)
        return completions

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _work(self, cohorts: Iterable[int]) -> None:
        fresh = iter(cohorts)
        todo: deque[Asked] = deque()
        came: deque[tuple[Asked, list[Completion]]] = deque()
        drawing: dict[Future[list[Completion]], Asked] = {}
        settling: dict[Future[list[Candidate]], list[tuple[Asked, list[Completion]]]] = {}
        ended: SimpleQueue[Future[Any]] = SimpleQueue()
        unanswered: list[str] = []
        halt: R1PipeError | None = None
        drawers, settler = ThreadPoolExecutor(self.generator.in_flight), ThreadPoolExecutor(1)
        try:
            while True:
                while halt is None and len(drawing) < self.generator.in_flight and not (self.alone and settling):
                    if not todo:
                        if (cohort := next(fresh, None)) is None:
                            break
                        todo.extend(self._round(cohort, 0))
                        continue
                    asked = todo.popleft()
                    if (completions := self._drawn_before(asked.unit)) is not None:
                        came.append((asked, completions))
                    elif (halt := self.generator.halted(self.tokens_in, self.tokens_out)) is None:
                        future = drawers.submit(self.generator.draw, asked.unit)
                        drawing[future] = asked
                        future.add_done_callback(ended.put)
                batch: list[tuple[Asked, list[Completion]]] = []
                while (
                    came
                    and not settling
                    and not (self.alone and drawing)
                    and sum(len(completions) for _, completions in batch) < SETTLE_AT_A_TIME
                ):
                    asked, completions = came.popleft()
                    if (known := self._known(asked.unit, completions)) is not None:
                        todo.extendleft(reversed(self._put(asked, completions, known)))
                    else:
                        batch.append((asked, completions))
                if batch:
                    verdicts = settler.submit(self._settle, batch)
                    settling[verdicts] = batch
                    verdicts.add_done_callback(ended.put)
                if not drawing and not settling:
                    if came or (todo and halt is None):
                        continue
                    break
                future = ended.get()
                if future in drawing:
                    asked = drawing.pop(future)
                    try:
                        came.append((asked, self._keep(asked.unit, future.result())))
                    except NoAnswer as error:
                        unanswered.append(error.why)
                    continue
                candidates = iter(future.result())
                for asked, completions in settling.pop(future):
                    settled = [next(candidates) for _ in completions]
                    self._keep_verdicts(asked.unit, completions, settled)
                    todo.extendleft(reversed(self._put(asked, completions, settled)))
        finally:
            drawers.shutdown(wait=False, cancel_futures=True)
            settler.shutdown(wait=False, cancel_futures=True)
        if halt is not None:
            halt = self.generator.halted(self.tokens_in, self.tokens_out) or halt  # what was in flight has come since
            halt.where = f"{self.here.stage}: {self.ready} of {self.total} rows are done"
            raise halt
        if unanswered:
            what = f"{len(unanswered)} requests had no answer; the last reason: {unanswered[-1]}"
            raise StageError(what, self.here.stage, "run it again: all other answers are kept")

    def _round(self, cohort: int, number: int) -> list[Asked]:
        """What a cohort is to be asked next; nothing once it has enough."""
        draws = [
            Draw(row, len(self.drawn[row]), missing) for row in self.cohorts[cohort] if (missing := self._missing(row))
        ]
        prefix = (cohort,) if self.stop_after is None else (cohort, number)
        round_ = Round(cohort, number, self.generator.units(prefix, draws) if draws else [])
        return [Asked(round_, unit) for unit in round_.units]

    def _missing(self, row: int) -> int:
        """How many samples of a row are to be drawn now."""
        drawn = self.drawn[row]
        if self.stop_after is None:
            return self.n - len(drawn)
        kept = len({candidate.response for _, candidate in drawn if not candidate.reason})
        return max(0, min(self.stop_after - kept, self.n - len(drawn)))

    # --- what came ----------------------------------------------------------------------------------------------------

    def _keep(self, unit: Unit, completions: list[Completion]) -> list[Completion]:
        """Append a unit to the journal and count its tokens; what a service refuses is not written, so that a later attempt asks again."""
        refused = [one.refused for one in completions if one.refused]
        self.refused += refused
        if not refused:
            self.samples.append(unit.key, self._digest(unit), samples=[asdict(one) for one in completions])
        self.drawn_now += len(completions)
        self.present += len(completions)
        self.tokens_in += sum(one.prompt_tokens for one in completions)
        self.tokens_out += sum(one.tokens for one in completions)
        if self.settle is None or self.alone:
            self._show("sampling", self.present)
        return completions

    def _candidates(self, unit: Unit, completions: list[Completion]) -> list[Candidate]:
        return candidates_of(unit, self.rows, completions, self.source)

    def _settle(self, batch: list[tuple[Asked, list[Completion]]]) -> list[Candidate]:
        assert self.settle is not None
        return self.settle(
            [candidate for asked, completions in batch for candidate in self._candidates(asked.unit, completions)]
        )

    def _known(self, unit: Unit, completions: list[Completion]) -> list[Candidate] | None:
        """The unit's candidates where there is nothing to settle, or it was settled in an earlier attempt or by another rank."""
        if self.settle is None:
            return self._candidates(unit, completions)
        if (record := self.found_verdicts.take(unit.key, self._digest(unit))) is None:
            return None
        return [
            replace(candidate, **verdict)
            for candidate, verdict in zip(self._candidates(unit, completions), record["verdicts"], strict=True)
        ]

    def _keep_verdicts(self, unit: Unit, completions: list[Completion], settled: list[Candidate]) -> None:
        if not any(one.refused for one in completions):
            self.verdicts.append(
                unit.key,
                self._digest(unit),
                verdicts=[candidate.verdict(one.text) for one, candidate in zip(completions, settled, strict=True)],
            )

    def _put(self, asked: Asked, completions: list[Completion], candidates: list[Candidate]) -> list[Asked]:
        """A unit is done; where it was the last of its round, what its cohort is to be asked next."""
        round_, following = asked.round, []
        round_.drawn[asked.unit.key] = list(zip(completions, candidates, strict=True))
        self.settled += len(candidates)
        self.kept += sum(not candidate.reason for candidate in candidates)
        if len(round_.drawn) == len(round_.units):
            for unit in round_.units:
                for row, drawn in zip(unit.rows, round_.drawn[unit.key], strict=True):
                    self.drawn[row].append(drawn)
            following = self._round(round_.cohort, round_.number + 1)
            over = {row for unit in round_.units for row in unit.rows} - {
                row for _, unit in following for row in unit.rows
            }
            self.ready += len(over)
            self.saved += sum(self.n - len(self.drawn[row]) for row in over)
        if self.settle is not None:
            self._show("verifying" if self.alone else "sampling", self.settled, kept=round(self.kept / self.settled, 3))
        return following

    def _show(self, what: str, done: int, **shown: float) -> None:
        total, rate = self.total * self.n - self.saved, self.drawn_now / max(1e-6, time.monotonic() - self.started)
        self.here.progress(min(done, total), total, what=what, rate=round(rate, 1), **shown)
