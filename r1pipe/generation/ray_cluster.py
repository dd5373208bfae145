"""The engine `ray`: sampling, verifying and filtering over the machines of a Ray cluster, as one Ray Data pipeline a round (the extra `ray`).

The cluster is the one that RAY_ADDRESS names, else one that `ray start` has started on this machine, else this machine alone. All its machines have
the same environment and see the same paths. What is drawn is what the engine `local` draws: units, keys and seeds are the same, and so is the
journal, which this process writes as results arrive; so a run may go on with the other engine. A machine that dies costs what it was at: Ray
does that again elsewhere. In-process back ends take a GPU each where the cluster has any, else a CPU; verifying takes a CPU at a time.
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
from r1pipe.endpoint import NoAnswer
from r1pipe.errors import ConfigError, MissingToolError, R1PipeError, StageError
from r1pipe.generation import Completion, Draw, Generator, Unit
from r1pipe.generation.sampler import Asked, Sampler, Settle, candidates_of

AT_A_TIME = (
    2  # times `in_flight` units that a worker is handed at a time; these are in flight with what waits to be verified
)
REACH_S = 10.0
MOST = 16384  # units that are on their way at a time, since each carries its rows

Load = Callable[[], Generator]
Item = dict[
    str, str
]  # a unit on its way: `unit`, `rows` (one a draw), `samples` and `verdicts` as JSON, `error` pickled in hex


class RaySampler(Sampler):
    """Sampler whose units are drawn and settled on a cluster.

    Args:
        load: makes the generator again, on a worker; it is pickled.
        budgeted: draw as much at a time as keeps within a budget, looking at it in between.
        rest: as Sampler's.
    """

    def __init__(self, load: Load, budgeted: bool, *rest: Any, **named: Any) -> None:
        super().__init__(load(), *rest, **named)
        assert self.settle is not None
        self._load, self._budgeted = load, budgeted
        self._joined: Any = None  # ray, once this process is part of a cluster

    @property
    def alone(self) -> bool:
        return False  # nothing is drawn in this process

    def _work(self, cohorts: Iterable[int]) -> None:
        todo = [asked for cohort in cohorts for asked in self._round(cohort, 0)]
        try:
            while todo:
                todo = self._over(todo)
        finally:
            if self._joined:
                self._joined.shutdown()
                self._joined = None

    def _over(self, todo: list[Asked]) -> list[Asked]:
        """One round of all cohorts; what is to be asked next."""
        following: list[Asked] = []
        waiting: list[tuple[Asked, list[Completion] | None]] = []
        for asked in todo:
            completions = self._drawn_before(asked.unit)
            if completions is None:
                waiting.append((asked, None))
            elif (known := self._known(asked.unit, completions)) is not None:
                following += self._put(asked, completions, known)
            else:
                waiting.append((asked, completions))
        if not waiting:
            return following
        self._joined = self._joined or start()
        workers, gpus = self._workers()
        size = max(1, self.generator.in_flight * AT_A_TIME)
        wave = size * workers if self._budgeted else max(MOST, size * workers)
        unanswered: list[str] = []
        for first in range(0, len(waiting), wave):
            now = waiting[first : first + wave]
            if any(completions is None for _, completions in now) and (
                halt := self.generator.halted(self.tokens_in, self.tokens_out)
            ):
                halt.where = f"{self.here.stage}: {self.ready} of {self.total} rows are done"
                raise halt
            by_key = {asked.unit.key: (asked, completions) for asked, completions in now}
            for item in self._spread([self._item(*one) for one in now], size, workers, gpus):
                asked, completions = by_key[_unit(item).key]
                if completions is None and item["samples"]:
                    completions = self._keep(asked.unit, [Completion(**one) for one in json.loads(item["samples"])])
                if item["error"]:
                    error = _unpack(item["error"])
                    if not isinstance(error, NoAnswer):
                        raise error
                    unanswered.append(error.why)
                    continue
                assert completions is not None
                drawn = candidates_of(asked.unit, self.rows, completions, self.source)
                settled = [
                    replace(candidate, **verdict)
                    for candidate, verdict in zip(drawn, json.loads(item["verdicts"]), strict=True)
                ]
                self._keep_verdicts(asked.unit, completions, settled)
                following += self._put(asked, completions, settled)
        if unanswered:
            what = f"{len(unanswered)} requests had no answer; the last reason: {unanswered[-1]}"
            raise StageError(what, self.here.stage, "run it again: all other answers are kept")
        return following

    def _item(self, asked: Asked, completions: list[Completion] | None) -> Item:
        rows = [self.rows[draw.row] for draw in asked.unit.draws]
        samples = "" if completions is None else json.dumps([asdict(one) for one in completions])
        return {
            "unit": json.dumps(asked.unit),
            "rows": json.dumps(rows),
            "samples": samples,
            "verdicts": "",
            "error": "",
        }

    def _spread(self, items: list[Item], size: int, workers: int, gpus: int) -> Iterator[Item]:
        """The items with their samples and verdicts, as they get ready."""
        import ray  # type: ignore[import-not-found]

        load, settle = _pack(self._load), _pack((self.settle, self.source))
        data = ray.data.from_items(items, override_num_blocks=-(-len(items) // size))
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=workers)
        data = data.map_batches(
            Drawing,
            fn_constructor_args=(load,),
            batch_size=size,
            compute=pool,
            num_gpus=min(gpus, 1),
            num_cpus=1 - min(gpus, 1),
        )
        verify: Any = settling  # its batches are of NumPy arrays
        yield from data.map_batches(verify, fn_kwargs={"settle": settle}, batch_size=size, num_cpus=1).iter_rows()

    def _workers(self) -> tuple[int, int]:
        """(how many may draw at a time, GPUs to draw on); half of the CPUs are left to verifying."""
        import ray  # type: ignore[import-not-found]

        there = ray.cluster_resources()
        if not there.get("CPU"):
            raise ConfigError("the Ray cluster has no CPUs", fix="start its machines with `ray start --num-cpus ...`")
        gpus = 0 if self.generator.remote else int(there.get("GPU", 0))
        return gpus or max(1, int(there["CPU"]) // 2), gpus


def start() -> Any:
    """Join the cluster, or start one of this machine; returns `ray` to be shut down, or None where this process was in one already.

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
            if named := re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address):  # Ray itself would try for minutes
                socket.create_connection((named[1], int(named[2])), REACH_S).close()
            ray.init(logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            where = f"RAY_ADDRESS={address}"
            raise ConfigError(
                f"no Ray cluster can be joined: {str(error).splitlines()[0]}", where, "start it with `ray start --head`"
            ) from None
    ray.data.DataContext.get_current().enable_progress_bars = False  # the stage shows its own
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray if joins else None


# --- on the workers ---------------------------------------------------------------------------------------------------


class Drawing:
    """A generator with its model, which draws units that have no samples yet."""

    def __init__(self, load: bytes) -> None:
        self._generator: Generator = _unpack(load.hex())()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        with ThreadPoolExecutor(self._generator.in_flight) as threads:
            found = list(threads.map(self._draw, _items(batch)))
        return _batch(found)

    def _draw(self, item: Item) -> Item:
        if item["samples"]:
            return item
        try:
            return {**item, "samples": json.dumps([asdict(one) for one in self._generator.draw(_unit(item))])}
        except (NoAnswer, R1PipeError) as error:
            return {**item, "error": _pack(error).hex()}


def settling(batch: dict[str, Any], settle: bytes) -> dict[str, Any]:
    """Verdicts on all samples of a batch together."""
    how: Settle
    how, source = _unpack(settle.hex())
    items = _items(batch)
    drawn: list[list[Candidate]] = []
    for item in items:
        unit, rows = _unit(item), json.loads(item["rows"])
        by_number = {draw.row: row for draw, row in zip(unit.draws, rows, strict=True)}
        drawn.append(
            []
            if item["error"]
            else candidates_of(unit, by_number, [Completion(**one) for one in json.loads(item["samples"])], source)
        )
    try:
        settled = iter(how([candidate for of_unit in drawn for candidate in of_unit]))
    except R1PipeError as error:
        return _batch([{**item, "error": _pack(error).hex()} for item in items])
    verdicts = [[next(settled).verdict(one.response) for one in of_unit] for of_unit in drawn]
    return _batch(
        [{**item, "rows": "", "verdicts": json.dumps(of_unit)} for item, of_unit in zip(items, verdicts, strict=True)]
    )


def _items(batch: dict[str, Any]) -> list[Item]:
    return [dict(zip(batch, map(str, values), strict=True)) for values in zip(*batch.values(), strict=True)]


def _batch(items: list[Item]) -> dict[str, Any]:
    import numpy as np

    return {name: np.array([item[name] for item in items], dtype=object) for name in items[0]}


def _unit(item: Item) -> Unit:
    key, draws = json.loads(item["unit"])
    return Unit(tuple(key), [Draw(*draw) for draw in draws])


def _pack(value: Any) -> bytes:
    from ray import cloudpickle  # type: ignore[import-not-found]

    return cloudpickle.dumps(value)


def _unpack(value: str) -> Any:
    from ray import cloudpickle  # type: ignore[import-not-found]

    return cloudpickle.loads(bytes.fromhex(value))
