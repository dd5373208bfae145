"""The loop of every stage that samples: draw, keep, verify meanwhile, and draw again what is missing.

A unit is appended to a journal in workdir when it arrives, and its verdicts when they are there. So a kill loses only
what was in flight, and nothing is drawn or verified twice. A record counts only for the rows and draws that it was made
from, since a later attempt may have other rows (code rows come back once the machine can isolate them).

Several ranks share the cohorts. When all are done, rank 0 takes the others' results from their files.

How units are drawn and verified at the same time stands in local_work.py, and in ray_cluster.py for a Ray cluster.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from r1pipe.data.candidates import Candidate
from r1pipe.errors import R1PipeError, StageError
from r1pipe.generation.contract import Draw, Generator, Sample, Unit
from r1pipe.generation.journal import Journal, JournalRecords, digest_of
from r1pipe.generation.local_work import LocalWork
from r1pipe.generation.rounds import Outcome, Round, Task, Verifier, candidates_of
from r1pipe.here import Here

# Seconds between two looks at whether the other ranks are done.
POLL_S = 0.02


class SamplingLoop:
    """Draws and verifies all rows of a stage.

    Args:
        generator: the model.
        rows: the stage's rows.
        n: samples of each row, at most.
        here: where the stage runs.
        label: the files' name in workdir.
        source: the candidates' source.
        verify: see sample_and_verify; None where samples are all that is wanted.
        stop_after: see sample_and_verify.
    """

    def __init__(
        self,
        generator: Generator,
        rows: list[dict[str, Any]],
        n: int,
        *,
        here: Here,
        label: str,
        source: str = "",
        verify: Verifier | None = None,
        stop_after: int | None = None,
    ) -> None:
        self.generator = generator
        self.rows = rows
        self.n = n
        self.here = here
        self.label = label
        self.source = source
        self.verify = verify
        self.stop_after = stop_after

        self.cohorts = generator.cohorts(stop_after is not None)
        self.outcomes: list[list[Outcome]] = [[] for _ in rows]
        # Why requests were refused, one reason for each sample.
        self.refusals: list[str] = []

        # Samples: drawn by this attempt; drawn by any attempt or rank; with a verdict; kept; not needed any more.
        self.drawn_now = 0
        self.drawn = 0
        self.verified = 0
        self.kept = 0
        self.spared = 0
        # Tokens of all attempts, for the budget.
        self.tokens_in = 0
        self.tokens_out = 0
        # Rows of this rank.
        self.rows_done = 0
        self.rows_total = 0
        self.started = time.monotonic()

    @property
    def one_at_a_time(self) -> bool:
        """Whether drawing and verifying take turns instead of overlapping."""
        return self.generator.occupies_cpu

    def run(self) -> list[list[Outcome]]:
        """Draw and verify everything.

        Returns:
            On rank 0 the results by rows, in the order of samples. On the other ranks nothing, once their share is
            drawn.

        Raises:
            BudgetError: the budget is used up.
            StageError: some requests had no answer, or the service is gone. All that was drawn stays in workdir.
        """
        rank = self.here.rank
        world = self.here.world_size
        mine = range(rank, len(self.cohorts), world)
        self.rows_total = sum(len(self.cohorts[cohort]) for cohort in mine)

        self._read_journals()
        # The records are those of all ranks, which share the budget.
        earlier = [sample for record in self.old_samples.all() for sample in record["samples"]]
        self.tokens_in = sum(sample["prompt_tokens"] for sample in earlier) // world
        self.tokens_out = sum(sample["tokens"] for sample in earlier) // world

        folder = self.here.workdir
        self.samples_journal = Journal(folder / f"{self.label}-{rank}-of-{world}.jsonl")
        self.verdicts_journal = Journal(folder / f"{self.label}-verdicts-{rank}-of-{world}.jsonl")
        try:
            self._work(mine)
            if world > 1:
                self._done_file(rank).touch()
                if self.here.main:
                    self._wait_for_other_ranks()
                    self._read_journals()
                    # Only what was refused there is drawn again.
                    self._work(cohort for cohort in range(len(self.cohorts)) if cohort % world != rank)
        finally:
            self.samples_journal.close()
            self.verdicts_journal.close()
            self._report()
        return self.outcomes if self.here.main else []

    def _work(self, cohorts: Iterable[int]) -> None:
        """Draw and verify these cohorts."""
        LocalWork(self, cohorts).run()

    def _read_journals(self) -> None:
        self.old_samples = JournalRecords(self.here.workdir, self.label)
        self.old_verdicts = JournalRecords(self.here.workdir, f"{self.label}-verdicts")

    def _done_file(self, rank: int) -> Path:
        return self.here.workdir / f"{self.label}-{rank}-of-{self.here.world_size}.done"

    def _wait_for_other_ranks(self) -> None:
        # Without a time limit: when a rank dies, the launcher stops the others, this one too.
        while not all(self._done_file(other).exists() for other in range(self.here.world_size)):
            time.sleep(POLL_S)

    def _report(self) -> None:
        stale = len(self.old_samples.stale)
        if stale:
            self.here.note(
                f"{stale} batches of an earlier attempt were of other rows or draws: they were drawn again"
            )
        if self.refusals:
            warnings.warn(
                f"{self.here.stage}: the service refused {len(self.refusals)} requests; "
                f"the last reason: {self.refusals[-1]}",
                stacklevel=4,
            )

    # --- rounds -------------------------------------------------------------------------------------------------------

    def next_round(self, cohort: int, number: int) -> list[Task]:
        """Return what a cohort draws next; nothing once it has enough."""
        missing = {row: self._missing(row) for row in self.cohorts[cohort]}
        draws = [Draw(row, len(self.outcomes[row]), count) for row, count in missing.items() if count]
        if not draws:
            return []
        # Without early stop there is one round, so its number is not part of the keys.
        prefix = (cohort,) if self.stop_after is None else (cohort, number)
        round_ = Round(cohort, number, self.generator.units(prefix, draws))
        return [Task(round_, unit) for unit in round_.units]

    def _missing(self, row: int) -> int:
        """Return the number of samples of a row that are drawn next."""
        outcomes = self.outcomes[row]
        left = self.n - len(outcomes)
        if self.stop_after is None:
            return left
        kept = {candidate.response for _, candidate in outcomes if not candidate.reason}
        return max(0, min(self.stop_after - len(kept), left))

    def complete(self, task: Task, samples: list[Sample], candidates: list[Candidate]) -> list[Task]:
        """Take a unit's results; return what its cohort draws next, where it was the last unit of its round."""
        round_ = task.round
        round_.outcomes[task.unit.key] = list(zip(samples, candidates, strict=True))
        self.verified += len(candidates)
        self.kept += sum(not candidate.reason for candidate in candidates)

        following: list[Task] = []
        if len(round_.outcomes) == len(round_.units):
            following = self._close_round(round_)
        if self.verify is not None:
            what = "verifying" if self.one_at_a_time else "sampling"
            self._show(what, self.verified, kept=round(self.kept / self.verified, 3))
        return following

    def _close_round(self, round_: Round) -> list[Task]:
        for unit in round_.units:
            for row, outcome in zip(unit.rows, round_.outcomes[unit.key], strict=True):
                self.outcomes[row].append(outcome)
        following = self.next_round(round_.cohort, round_.number + 1)

        drawn = {row for unit in round_.units for row in unit.rows}
        drawn_again = {row for task in following for row in task.unit.rows}
        done = drawn - drawn_again
        self.rows_done += len(done)
        self.spared += sum(self.n - len(self.outcomes[row]) for row in done)
        return following

    # --- units --------------------------------------------------------------------------------------------------------

    def drawn_before(self, unit: Unit) -> list[Sample] | None:
        """Return the unit's samples where an earlier attempt or another rank drew them."""
        record = self.old_samples.take(unit.key, self._digest(unit))
        if record is None:
            return None
        samples = [Sample(**sample) for sample in record["samples"]]
        self.drawn += len(samples)
        return samples

    def verified_before(self, unit: Unit, samples: list[Sample]) -> list[Candidate] | None:
        """Return the unit's candidates where nothing is left to verify.

        So it is without a verifier, and where an earlier attempt or another rank verified them.
        """
        candidates = candidates_of(unit, self.rows, samples, self.source)
        if self.verify is None:
            return candidates
        record = self.old_verdicts.take(unit.key, self._digest(unit))
        if record is None:
            return None
        return [
            replace(candidate, **verdict)
            for candidate, verdict in zip(candidates, record["verdicts"], strict=True)
        ]

    def keep_samples(self, unit: Unit, samples: list[Sample]) -> None:
        """Append a unit's samples to the journal and count their tokens."""
        refusals = [sample.refused for sample in samples if sample.refused]
        self.refusals += refusals
        # What a service refuses is not written, so that a later attempt asks again.
        if not refusals:
            self.samples_journal.append(
                unit.key, self._digest(unit), samples=[asdict(sample) for sample in samples]
            )

        self.drawn_now += len(samples)
        self.drawn += len(samples)
        self.tokens_in += sum(sample.prompt_tokens for sample in samples)
        self.tokens_out += sum(sample.tokens for sample in samples)
        if self.verify is None or self.one_at_a_time:
            self._show("sampling", self.drawn)

    def keep_verdicts(self, unit: Unit, samples: list[Sample], candidates: list[Candidate]) -> None:
        """Append a unit's verdicts to the journal."""
        if any(sample.refused for sample in samples):
            return
        verdicts = [
            candidate.verdict(sample.text) for sample, candidate in zip(samples, candidates, strict=True)
        ]
        self.verdicts_journal.append(unit.key, self._digest(unit), verdicts=verdicts)

    def _digest(self, unit: Unit) -> str:
        return digest_of([[self.rows[draw.row]["id"], draw.first, draw.n] for draw in unit.draws])

    # --- messages -----------------------------------------------------------------------------------------------------

    def stopped(self, error: R1PipeError) -> R1PipeError:
        """Return the error with the place where the stage stopped."""
        error.where = f"{self.here.stage}: {self.rows_done} of {self.rows_total} rows are done"
        return error

    def unanswered(self, reasons: list[str]) -> StageError:
        """Return the error for requests that had no answer."""
        what = f"{len(reasons)} requests had no answer; the last reason: {reasons[-1]}"
        return StageError(what, self.here.stage, "run it again: all other answers are kept")

    def _show(self, what: str, done: int, **more: float) -> None:
        total = self.rows_total * self.n - self.spared
        rate = self.drawn_now / max(1e-6, time.monotonic() - self.started)
        self.here.progress(min(done, total), total, what=what, rate=round(rate, 1), **more)
