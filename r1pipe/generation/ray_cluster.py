"""The engine `ray`: sampling, verifying and filtering over the machines of a Ray cluster (the extra `ray`).

Each round is one Ray Data pipeline. The cluster is the one that RAY_ADDRESS names, or one that `ray start` has started
on this machine, or this machine alone. All its machines have the same environment and see the same paths.

What is drawn is the same as with the engine `local`: units, keys and seeds are the same, and so is the journal, which
this process writes as results arrive. So a run may go on with the other engine. When a machine dies, Ray does its work
again elsewhere.

Back ends that run in the process take a GPU each where the cluster has any, or a CPU. Verifying takes a CPU at a time.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from r1pipe.data.candidates import Candidate
from r1pipe.errors import ConfigError, MissingToolError, R1PipeError
from r1pipe.generation.contract import Draw, Generator, Sample, Unit
from r1pipe.generation.rounds import Task, Verifier, candidates_of
from r1pipe.generation.sampling_loop import SamplingLoop
from r1pipe.here import Here
from r1pipe.text.endpoint import NoAnswer

# A worker gets this many times `max_in_flight` units at once, so that units are in flight while others wait to be
# verified.
UNITS_PER_SLOT = 2

# Units that are on their way at a time, at most: each carries its rows.
MOST_UNITS = 16384

# Seconds to reach the cluster's address.
REACH_S = 10.0

Load = Callable[[], Generator]

# A unit on its way through the cluster: `unit`, `rows` (one for each draw), `samples` and `verdicts` as JSON, and
# `error` pickled, in hex. Ray's batches carry strings without a detour.
Item = dict[str, str]
Waiting = tuple[Task, list[Sample] | None]


class RaySamplingLoop(SamplingLoop):
    """A SamplingLoop whose units are drawn and verified on a cluster.

    Args:
        load: makes the generator again on a worker; it is pickled.
        rows: the stage's rows.
        n: samples of each row, at most.
        here: where the stage runs.
        label: the files' name in workdir.
        source: the candidates' source.
        verify: see sample_and_verify.
        stop_after: see sample_and_verify.
        budgeted: whether a budget limits what is drawn, so that it has to be checked often.
    """

    def __init__(
        self,
        load: Load,
        rows: list[dict[str, Any]],
        n: int,
        *,
        here: Here,
        label: str,
        source: str,
        verify: Verifier,
        stop_after: int | None,
        budgeted: bool,
    ) -> None:
        super().__init__(
            load(), rows, n, here=here, label=label, source=source, verify=verify, stop_after=stop_after
        )
        self._load = load
        self._budgeted = budgeted
        # The module ray, while this process is part of a cluster that it joined itself.
        self._joined: Any = None

    @property
    def one_at_a_time(self) -> bool:
        # Nothing is drawn in this process.
        return False

    def _work(self, cohorts: Iterable[int]) -> None:
        tasks = [task for cohort in cohorts for task in self.next_round(cohort, 0)]
        try:
            while tasks:
                tasks = self._do_round(tasks)
        finally:
            if self._joined:
                self._joined.shutdown()
                self._joined = None

    def _do_round(self, tasks: list[Task]) -> list[Task]:
        """Do one round of all cohorts; return the tasks of the next."""
        following: list[Task] = []
        waiting: list[Waiting] = []
        for task in tasks:
            samples = self.drawn_before(task.unit)
            candidates = None if samples is None else self.verified_before(task.unit, samples)
            if samples is not None and candidates is not None:
                following += self.complete(task, samples, candidates)
            else:
                waiting.append((task, samples))
        if not waiting:
            return following

        self._joined = self._joined or join_cluster()
        workers, gpus = self._workers()
        size = max(1, self.generator.max_in_flight * UNITS_PER_SLOT)
        # With a budget no more is on its way than all workers can draw at once.
        wave = size * workers if self._budgeted else max(MOST_UNITS, size * workers)

        unanswered: list[str] = []
        for first in range(0, len(waiting), wave):
            now = waiting[first : first + wave]
            if any(samples is None for _, samples in now):
                stop = self.generator.stop_reason(self.tokens_in, self.tokens_out)
                if stop is not None:
                    raise self.stopped(stop)
            by_key = {task.unit.key: (task, samples) for task, samples in now}
            for item in self._spread([self._item(*pair) for pair in now], size, workers, gpus):
                task, samples = by_key[_unit(item).key]
                try:
                    following += self._take(item, task, samples)
                except NoAnswer as error:
                    unanswered.append(error.why)
        if unanswered:
            raise self.unanswered(unanswered)
        return following

    def _take(self, item: Item, task: Task, samples: list[Sample] | None) -> list[Task]:
        """Keep a unit's results; return what is drawn next.

        Raises:
            NoAnswer: a service did not answer.
            R1PipeError: another error of a worker.
        """
        if samples is None and item["samples"]:
            samples = _samples(item)
            self.keep_samples(task.unit, samples)
        if item["error"]:
            raise _unpack(item["error"])
        assert samples is not None
        unverified = candidates_of(task.unit, self.rows, samples, self.source)
        verdicts = json.loads(item["verdicts"])
        candidates = [
            replace(candidate, **verdict) for candidate, verdict in zip(unverified, verdicts, strict=True)
        ]
        self.keep_verdicts(task.unit, samples, candidates)
        return self.complete(task, samples, candidates)

    def _item(self, task: Task, samples: list[Sample] | None) -> Item:
        rows = [self.rows[draw.row] for draw in task.unit.draws]
        return {
            "unit": json.dumps(task.unit),
            "rows": json.dumps(rows),
            "samples": "" if samples is None else json.dumps([asdict(sample) for sample in samples]),
            "verdicts": "",
            "error": "",
        }

    def _spread(self, items: list[Item], size: int, workers: int, gpus: int) -> Iterator[Item]:
        """Yield the items with their samples and verdicts, as they are ready."""
        import ray  # type: ignore[import-not-found]

        # A worker that draws takes a GPU where there are any, or a CPU.
        gpus_each = min(gpus, 1)
        data = ray.data.from_items(items, override_num_blocks=-(-len(items) // size))
        data = data.map_batches(
            Drawing,
            fn_constructor_args=(_pack(self._load),),
            batch_size=size,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_gpus=gpus_each,
            num_cpus=1 - gpus_each,
        )
        # Typed for batches of NumPy arrays, which Ray's stubs do not know.
        verify: Any = verify_batch
        data = data.map_batches(
            verify, fn_kwargs={"verifier": _pack((self.verify, self.source))}, batch_size=size, num_cpus=1
        )
        yield from data.iter_rows()

    def _workers(self) -> tuple[int, int]:
        """Return how many workers may draw at a time, and on how many GPUs. Half of the CPUs are left to verifying."""
        import ray  # type: ignore[import-not-found]

        resources = ray.cluster_resources()
        if not resources.get("CPU"):
            raise ConfigError(
                "the Ray cluster has no CPUs", fix="start its machines with `ray start --num-cpus ...`"
            )
        gpus = 0 if self.generator.remote else int(resources.get("GPU", 0))
        return gpus or max(1, int(resources["CPU"]) // 2), gpus


def join_cluster() -> Any:
    """Join the cluster, or start one of this machine.

    Returns:
        The module ray, to be shut down; None where this process was part of a cluster already.

    Raises:
        MissingToolError: Ray is not installed.
        ConfigError: RAY_ADDRESS names no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # type: ignore[import-not-found]
        import ray.data  # type: ignore[import-not-found]
    except ImportError as error:
        raise MissingToolError(
            f"`engine: ray` needs Ray, which cannot be imported: {error}",
            fix="pip install 'r1pipe[ray]'; or engine: local",
        ) from None

    joins = not ray.is_initialized()
    if joins:
        address = os.environ.get("RAY_ADDRESS", "")
        try:
            _reach(address)
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"cannot join a Ray cluster: {str(error).splitlines()[0]}",
                f"RAY_ADDRESS={address}",
                "start it with `ray start --head`",
            ) from None
    # The stage shows its own progress.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray if joins else None


def _reach(address: str) -> None:
    """Fail at once where nothing listens at HOST:PORT; Ray itself would try for minutes."""
    match = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address)
    if match:
        socket.create_connection((match[1], int(match[2])), REACH_S).close()


# --- on the workers ---------------------------------------------------------------------------------------------------


class Drawing:
    """A generator with its model, which draws the units that have no samples yet."""

    def __init__(self, load: bytes) -> None:
        self._generator: Generator = _unpack(load.hex())()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(self._generator.max_in_flight) as threads:
            items = list(threads.map(self._draw, _items(batch)))
        return _batch(items)

    def _draw(self, item: Item) -> Item:
        if item["samples"]:
            return item
        try:
            samples = self._generator.draw(_unit(item))
        except (NoAnswer, R1PipeError) as error:
            return {**item, "error": _pack(error).hex()}
        return {**item, "samples": json.dumps([asdict(sample) for sample in samples])}


def verify_batch(batch: dict[str, Any], verifier: bytes) -> dict[str, Any]:
    """Verify all samples of a batch together.

    Args:
        batch: items with samples, or with an error.
        verifier: the verifier and the candidates' source, pickled.
    """
    verify: Verifier
    verify, source = _unpack(verifier.hex())
    items = _items(batch)
    candidates_of_items: list[list[Candidate]] = []
    for item in items:
        unit = _unit(item)
        rows = json.loads(item["rows"])
        row_by_number = {draw.row: row for draw, row in zip(unit.draws, rows, strict=True)}
        candidates = [] if item["error"] else candidates_of(unit, row_by_number, _samples(item), source)
        candidates_of_items.append(candidates)

    try:
        verified = iter(verify([candidate for candidates in candidates_of_items for candidate in candidates]))
    except R1PipeError as error:
        return _batch([{**item, "error": _pack(error).hex()} for item in items])

    results = []
    for item, candidates in zip(items, candidates_of_items, strict=True):
        verdicts = [next(verified).verdict(candidate.response) for candidate in candidates]
        # The rows are not needed any more, so they do not travel back.
        results.append({**item, "rows": "", "verdicts": json.dumps(verdicts)})
    return _batch(results)


def _items(batch: dict[str, Any]) -> list[Item]:
    return [dict(zip(batch, map(str, values), strict=True)) for values in zip(*batch.values(), strict=True)]


def _batch(items: list[Item]) -> dict[str, Any]:
    import numpy as np

    return {name: np.array([item[name] for item in items], dtype=object) for name in items[0]}


def _unit(item: Item) -> Unit:
    key, draws = json.loads(item["unit"])
    return Unit(tuple(key), [Draw(*draw) for draw in draws])


def _samples(item: Item) -> list[Sample]:
    return [Sample(**sample) for sample in json.loads(item["samples"])]


def _pack(value: Any) -> bytes:
    from ray import cloudpickle  # type: ignore[import-not-found]

    return cloudpickle.dumps(value)


def _unpack(value: str) -> Any:
    from ray import cloudpickle  # type: ignore[import-not-found]

    return cloudpickle.loads(bytes.fromhex(value))
