"""YAML -> a validated Pipeline: stages in order, joined by the names of what they make.

Reads the file, what it extends and every --set; validates each stage's block by that stage's Config; joins inputs to outputs by
name, type and order. All mistakes are reported at once, each with its file and line, and nothing is started or written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from r1pipe.artifacts import Artifact
from r1pipe.config.edges import NAME, Edge, Edges, join_inputs, join_outputs, join_use
from r1pipe.config.registry import Kind, Port, load_kind
from r1pipe.config.shipped_files import with_shipped_files
from r1pipe.config.validation import Problem, raise_all, resolve_paths, validate
from r1pipe.config.yamltree import Keys, Node, Origin, assign, find, nearest, plain, read, shorten
from r1pipe.errors import ConfigError
from r1pipe.schema import StageConfig

TOP_LEVEL = ("extends", "run", "seed", "isolation", "stages")
ENGINE_KEYS = ("kind", "inputs", "outputs", "use")  # of a stage's block; the rest is the stage's own Config


@dataclass(frozen=True)
class Stage:
    """One box of the figure, ready to be run."""

    name: str
    kind: Kind
    config: StageConfig
    inputs: dict[str, Edges]
    outputs: dict[str, str]  # port -> name; ports that are optional and not asked for are left out
    use: dict[str, Path]  # port -> adopted path; empty unless the YAML says use
    files: dict[Keys, Path]  # the config's path fields
    own_files: dict[str, Path]  # name of a file that ships -> the user's, which is read in its place
    where: str

    def edges(self) -> Iterator[tuple[str, Edge]]:
        """Every input, ports that hold many as port.key."""
        for port, source in self.inputs.items():
            if isinstance(source, dict):
                yield from ((f"{port}.{key}", one) for key, one in source.items())
            elif source is not None:
                yield port, source

    @property
    def makers(self) -> list[str]:
        """The stages that this one reads from."""
        return list(dict.fromkeys(source.stage for _, source in self.edges() if source.stage))


@dataclass(frozen=True)
class Pipeline:
    """The whole figure."""

    run: str
    file: Path
    stages: dict[str, Stage]
    isolation: Literal["auto", "required"]
    tree: Node = field(repr=False)

    @property
    def search(self) -> tuple[str, ...]:
        """Folders in which `package.module` kinds are looked for, after everything installed."""
        return tuple(dict.fromkeys((str(self.file.absolute().parent), str(Path.cwd()))))

    def ancestors(self, names: Sequence[str]) -> list[str]:
        """The stages that these need, in order, themselves not included."""
        wanted: set[str] = set()
        waiting = list(names)
        while waiting:
            for maker in self.stages[waiting.pop()].makers:
                if maker not in wanted:
                    wanted.add(maker)
                    waiting.append(maker)
        return [name for name in self.stages if name in wanted - set(names)]

    def descendants(self, names: Sequence[str]) -> list[str]:
        """The stages that these feed, in order, themselves not included."""
        fed = set(names)
        for name, stage in self.stages.items():  # in order, so one pass is enough
            if fed & set(stage.makers):
                fed.add(name)
        return [name for name in self.stages if name in fed - set(names)]

    def stage(self, name: str) -> Stage:
        """A stage by name.

        Raises:
            ConfigError: there is none, with the nearest name.
        """
        if name not in self.stages:
            raise ConfigError(
                f"no stage is called '{name}'", shorten(self.file.absolute()), nearest(name, list(self.stages))
            )
        return self.stages[name]

    def command(self, stage: str) -> str:
        """What runs one stage of this config, in this run."""
        named = "" if self.run == self.file.stem else f" --run {self.run}"
        return f"r1pipe run-stage {stage} -c {shorten(self.file.absolute())}{named}"


def load(file: Path, sets: Sequence[str] = (), run: str | None = None) -> Pipeline:
    """Read and check a config.

    Args:
        file: the YAML.
        sets: `a.b.c=VALUE`, applied in order after `extends`.
        run: the run's name; else the YAML's `run:`, else the file's stem.

    Raises:
        ConfigError: with every mistake found.
    """
    tree = read(file)
    for statement in sets:
        tree = assign(tree, statement)
    problems: list[Problem] = []
    shown = shorten(file.absolute())
    for key, node in tree.value.items():
        if key not in TOP_LEVEL:
            problems.append(Problem(f"unknown key '{key}'", str(node.origin), nearest(key, TOP_LEVEL)))
    name = run or _scalar(tree, "run", str, file.stem, problems)
    if not NAME.fullmatch(name):
        problems.append(
            Problem(
                f"'{name}' is no name for a run",
                str(find(tree, ("run",))[0].origin),
                "letters, digits, dot, dash, underscore",
            )
        )
    seed = _scalar(tree, "seed", int, None, problems)
    isolation = _scalar(tree, "isolation", str, "auto", problems)
    if isolation not in ("auto", "required"):
        problems.append(
            Problem(f"isolation is 'auto' or 'required', not '{isolation}'", str(find(tree, ("isolation",))[0].origin))
        )
    blocks = tree.value.get("stages")
    if blocks is None or not isinstance(blocks.value, dict) or not blocks.value:
        problems.append(Problem("no stages", shown, "stages: {name: {kind: ..., inputs: ..., outputs: ...}}"))
        raise_all(problems, shown)
        raise AssertionError("unreachable")
    pipeline = Pipeline(name, file, {}, isolation, tree)  # type: ignore[arg-type]
    later = _names_made(blocks)
    made: dict[str, tuple[str, Port]] = {}
    for stage_name, block in blocks.value.items():
        stage = _stage(stage_name, block, seed, made, later, pipeline, problems)
        if stage is not None:
            pipeline.stages[stage_name] = stage
    raise_all(problems, shown)
    return pipeline


def _scalar(tree: Node, key: str, type_: type, default: Any, problems: list[Problem]) -> Any:
    node = tree.value.get(key)
    if node is None or node.value is None:
        return default
    if not isinstance(node.value, type_) or isinstance(node.value, bool):
        problems.append(Problem(f"{key} should be a {type_.__name__}; it is {plain(node)!r}", str(node.origin)))
        return default
    return node.value


def _names_made(blocks: Node) -> dict[str, tuple[str, Origin]]:
    """Every output name -> (stage, where), so that a name read too early is told from one never made."""
    names: dict[str, tuple[str, Origin]] = {}
    for stage, block in blocks.value.items():
        if not isinstance(block.value, dict):
            continue
        outputs = block.value.get("outputs")
        if outputs is None and "use" in block.value:
            names.setdefault(stage, (stage, block.origin))
        elif outputs is not None and isinstance(outputs.value, dict):
            for node in outputs.value.values():
                if isinstance(node.value, str):
                    names.setdefault(node.value, (stage, node.origin))
    return names


def _stage(
    name: str,
    block: Node,
    seed: int | None,
    made: dict[str, tuple[str, Port]],
    later: dict[str, tuple[str, Origin]],
    pipeline: Pipeline,
    problems: list[Problem],
) -> Stage | None:
    where = str(block.origin)
    if not NAME.fullmatch(name):
        problems.append(Problem(f"'{name}' is no name for a stage", where, "letters, digits, dot, dash, underscore"))
    if block.value is None:
        block = Node({}, block.origin)
    if not isinstance(block.value, dict):
        problems.append(Problem(f"stages.{name} should be a mapping; it is {plain(block)!r}", where))
        return None
    kind_node = block.value.get("kind", Node(name, block.origin))  # a box named like a kind needs no kind:
    try:
        kind = load_kind(str(kind_node.value), pipeline.search)
    except ConfigError as error:
        fix = error.fix if "kind" in block.value else f"stages.{name} has no kind:, so its name was tried; {error.fix}"
        problems.append(Problem(error.what, str(kind_node.origin), fix))
        _declare_outputs_anyway(name, block, made)
        return None
    own = Node({key: child for key, child in block.value.items() if key not in ENGINE_KEYS}, block.origin)
    files: dict[Keys, Path] = {}
    values = resolve_paths(kind.Config, own, files, problems)
    if seed is not None:
        values.setdefault("seed", seed)
    config = validate(kind.Config, own, values, name, problems)
    own_files: dict[str, Path] = {}
    if config is not None:
        config, own_files = with_shipped_files(config, pipeline.file.absolute().parent, files)
    inputs = join_inputs(name, kind, block, made, later, problems)
    use = join_use(name, kind, block, problems)
    outputs = join_outputs(name, kind, block, use, made, problems)
    given = {port for port, source in inputs.items() if source}
    given |= {f"{port}.{key}" for port, source in inputs.items() if isinstance(source, dict) for key in source}
    if config is not None and not use and (mismatch := config.mismatch(given)):
        problems.append(Problem(f"stages.{name}: {mismatch}", where))
    return None if config is None else Stage(name, kind, config, inputs, outputs, use, files, own_files, where)


def _declare_outputs_anyway(name: str, block: Node, made: dict[str, tuple[str, Port]]) -> None:
    """A stage whose kind is unknown still makes its names, so that its readers are not reported too."""
    outputs = block.value.get("outputs")
    names = (
        [n.value for n in outputs.value.values()] if outputs is not None and isinstance(outputs.value, dict) else [name]
    )
    made.update({n: (name, Port("", Artifact, False, False)) for n in names if isinstance(n, str)})
