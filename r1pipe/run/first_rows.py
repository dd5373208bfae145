"""The first rows of local files, looked at before anything runs.

What a stage would refuse in its rows, maybe hours from now, is refused at once where these rows already show it. The
stage itself looks at all rows. Datasets on the hub and rows that are still to be made are not looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from r1pipe.artifacts import Artifact, Chats, Labels, Pairs, Prompts
from r1pipe.config.artifact_checks import ROW_TYPES
from r1pipe.config.loader import Edge, Stage
from r1pipe.config.validation import blocks
from r1pipe.config.yamltree import find
from r1pipe.data.files import Row, read_raw
from r1pipe.data.io import read_rows
from r1pipe.data.sources import Loaded, Source
from r1pipe.errors import InputError
from r1pipe.run.plan import Plan
from r1pipe.schema import GRPOParams, RowLimits
from r1pipe.text.checkpoint_contract import Finding

FIRST = 1000

# A file may be sorted, its programs behind thousands of sums: where a reward applies to none of the first rows, so many
# are looked at.
MANY = 50_000

# Field of a stage's config that holds sources -> what their rows become. Benchmarks that a mix compares with are texts.
_KINDS: dict[str, type[Artifact]] = {
    "source": Prompts,
    "heldout": Prompts,
    "reuse": Chats,
    "pairs_from": Pairs,
    "labels_from": Labels,
}
# Output of a `prompts` stage -> the field with its sources.
_MADE_OF = {"prompts": "source", "heldout": "heldout"}


def row_findings(plan: Plan) -> list[Finding]:
    """What is wrong with the first rows of local files that the stages to run will read, and with rewards over them.

    Each finding names the edge (stage and port or field), file and line, and the remedy.
    """
    # The stages warn when they read all rows.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = _FirstRows(plan)
        found = [
            finding
            for name in plan.todo
            if not plan.pipeline.stages[name].use
            for finding in rows.of_stage(plan.pipeline.stages[name])
        ]
    # A source that YAML anchors share is wrong in several places.
    return list(dict.fromkeys(found))


class _First(NamedTuple):
    rows: list[Row]
    # Asked where it decides: a dataset is read once more for it.
    are_all: Callable[[], bool]


class _FirstRows:
    """The first rows of sources and datasets, each read once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._read: dict[Any, _First | InputError] = {}

    @cached_property
    def isolation(self) -> bool:
        """Whether programs can be run here, so that rows of code are used."""
        from r1pipe.rewards.sandbox import available

        return available() is None

    def of_stage(self, stage: Stage) -> Iterator[Finding]:
        """What is wrong with a stage's rows."""
        limits = getattr(stage.config, "row_limits", None)
        for port, edge in stage.edges():
            if edge.origin in ("path", "embedded") and edge.type in ROW_TYPES:
                assert edge.path is not None
                rows = self.of_dataset(edge.path, edge.type, limits)
                yield from _errors(rows, f"input {port} of {stage.name}")
        for keys, source in blocks(stage.config, Source):
            kind = _KINDS.get(keys[0])
            if kind is not None and source.paths:
                rows = self.of_source(source, kind, stage)
                yield from _errors(rows, ".".join(("stages", stage.name, *keys)))

        params = getattr(stage.config, "grpo", None)
        if isinstance(params, GRPOParams):
            yield from self._idle_rewards(stage, params)

    def of_dataset(
        self, path: Path, kind: type[Artifact], limits: RowLimits | None, first: int = FIRST
    ) -> _First | InputError:
        """The first rows of a dataset, or what is wrong with them."""
        key = (path, kind, limits, first)
        if key not in self._read:
            try:
                rows = read_rows(path, kind, limits, first=first)
                self._read[key] = _First(
                    rows, lambda: next(islice(read_raw(path), first, None), None) is None
                )
            except InputError as error:
                self._read[key] = error
        return self._read[key]

    def of_source(
        self, source: Source, kind: type[Artifact], stage: Stage, first: int = FIRST
    ) -> _First | InputError:
        """The first rows of a source, of all its splits, or what is wrong with them."""
        from r1pipe.data.selection import SourceReader

        # Sources of one file that differ in these alone are read once.
        source = source.model_copy(update={"split": "all", "shares": {}, "count": None})
        fill = getattr(stage.config, "identity", {})
        key = (source.model_dump_json(), kind, str(fill), first)
        if key not in self._read:
            try:
                reader = SourceReader(source, kind, Loaded(), fill, first=first)
                rows, total = reader.check_first(), reader.total
                self._read[key] = _First(rows, lambda: total < first)
            except InputError as error:
                self._read[key] = error
        return self._read[key]

    def _idle_rewards(self, stage: Stage, params: GRPOParams) -> Iterator[Finding]:
        from r1pipe.rewards.coverage import refuse_idle_rewards

        for first in (FIRST, MANY):
            found: dict[str, _First] = {}
            for port in dict.fromkeys(port for phase in params.phases for port in phase.prompts):
                edge = stage.inputs.get(port)
                read = self._of_edge(edge, first) if isinstance(edge, Edge) else None
                if read and read.rows:
                    found[port] = read
            prompts = {port: read.rows for port, read in found.items()}
            try:
                refuse_idle_rewards(params.phases, prompts, isolation=lambda: self.isolation)
                return
            except InputError as error:
                if not all(read.are_all() for read in found.values()):
                    continue
                node, _ = find(self.plan.pipeline.tree, ("stages", stage.name, "grpo", "phases"))
                where = f"{node.origin} ({error.where})"
                yield Finding("error", where, f"{stage.name}: {error.what}", error.fix)
                return

    def _of_edge(self, edge: Edge, first: int) -> _First | None:
        """The first rows of an input; None where they are not at hand, or are wrong themselves."""
        found: _First | InputError | None
        if edge.origin != "stage":
            found = self.of_dataset(edge.path, Prompts, None, first) if edge.path is not None else None
            return found if isinstance(found, _First) else None
        maker = self.plan.pipeline.stages[edge.stage]
        files = self.plan.folder.stage(edge.stage)
        if edge.stage not in self.plan.todo:
            manifest = files.manifest() or {"outputs": {}}
            output = manifest["outputs"].get(edge.port)
            found = self.of_dataset(files.path / output["path"], Prompts, None, first) if output else None
            return found if isinstance(found, _First) else None
        parts: list[_First] = []
        for source in _sources_of(maker, edge.port):
            found = self.of_source(source, Prompts, maker, first) if source.paths else None
            # Rows that are generated or fetched may have what these lack.
            if not isinstance(found, _First):
                return None
            parts.append(found)
        return _First(
            [row for part in parts for row in part.rows], lambda: all(part.are_all() for part in parts)
        )


def _errors(found: _First | InputError, edge: str) -> Iterator[Finding]:
    if isinstance(found, InputError):
        where = f"{edge}, {found.where}" if found.where else edge
        yield Finding("error", where, found.what, found.fix)


def _sources_of(maker: Stage, port: str) -> Iterator[Source]:
    """The sources of an output of a `prompts` stage; none where another kind makes it."""
    if maker.kind.name == "prompts" and not maker.use:
        for keys, source in blocks(maker.config, Source):
            if keys[0] == _MADE_OF.get(port):
                yield source
