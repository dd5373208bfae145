"""YAML becomes a validated Pipeline: stages in order, joined by the names of what they make.

`load` reads the file, what it extends and every --set. It validates each stage's block by that stage's Config, and
joins inputs to outputs by name, type and order. All mistakes are reported at once, each with its file and line, and
nothing is started or written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from r1pipe.config.edges import (
    CAPITALS,
    NAME,
    NAME_RULE,
    OWN_NAMES,
    Edge,
    Edges,
    Names,
    declare_outputs,
    join_inputs,
    join_outputs,
    join_use,
)
from r1pipe.config.gates import Gate, read_gates
from r1pipe.config.hidden_values import refuse_secrets
from r1pipe.config.mistakes import Mistakes
from r1pipe.config.paths import resolve_paths
from r1pipe.config.registry import Kind, load_kind
from r1pipe.config.shipped_files import with_shipped_files
from r1pipe.config.tracker_names import read_trackers
from r1pipe.config.validation import validate
from r1pipe.config.yamltree import Keys, Node, Origin, assign, find, nearest, plain, read, shorten
from r1pipe.errors import ConfigError
from r1pipe.schema import StageConfig

TOP_LEVEL = ("extends", "run", "seed", "isolation", "track", "stages")
# Keys of a stage's block that are the pipeline's; the others are the stage's own Config.
ENGINE_KEYS = ("kind", "inputs", "outputs", "use", "require")


@dataclass(frozen=True)
class Stage:
    """One box of the figure, ready to be run.

    Attributes:
        inputs: by port.
        outputs: port -> name. Optional ports that the config does not name are left out.
        use: output port -> adopted path; empty unless the YAML says `use:`.
        files: the path fields of the config.
        own_files: name of a file that ships -> the user's file that is read in its place.
        where: file and line of the block.
        gates: what its numbers must meet before the run goes on.
    """

    name: str
    kind: Kind
    config: StageConfig
    inputs: dict[str, Edges]
    outputs: dict[str, str]
    use: dict[str, Path]
    files: dict[Keys, Path]
    own_files: dict[str, Path]
    where: str
    gates: tuple[Gate, ...] = ()

    def edges(self) -> Iterator[tuple[str, Edge]]:
        """Every input with its port; of ports that hold several, `port.key`."""
        for port, edges in self.inputs.items():
            if isinstance(edges, dict):
                for key, edge in edges.items():
                    yield f"{port}.{key}", edge
            elif edges is not None:
                yield port, edges

    @property
    def makers(self) -> list[str]:
        """The stages that this one reads from."""
        return list(dict.fromkeys(edge.stage for _, edge in self.edges() if edge.stage))


@dataclass(frozen=True)
class Pipeline:
    """The whole figure.

    Attributes:
        run: its name.
        file: the YAML that is run.
        isolation: whether code must be executable in isolation.
        tree: the YAML with what it extends and every --set.
        sets: every --set.
        track: who else gets the curves: names of trackers.
        left_out: stages of the YAML that are not here, since what they read is not on this machine.
    """

    run: str
    file: Path
    stages: dict[str, Stage]
    isolation: Literal["auto", "required"]
    tree: Node = field(repr=False)
    sets: tuple[str, ...] = ()
    track: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Of the YAML."""
        return self.file.absolute().parent

    @property
    def search(self) -> tuple[str, ...]:
        """Folders in which `package.module` kinds are looked for, after everything installed."""
        return tuple(dict.fromkeys((str(self.folder), str(Path.cwd()))))

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
                f"no stage is called '{name}'",
                shorten(self.file.absolute()),
                nearest(name, list(self.stages)),
            )
        return self.stages[name]

    def command(self, stage: str) -> str:
        """What runs one stage of this config, in this run."""
        named = "" if self.run == self.file.stem else f" --run {self.run}"
        return f"r1pipe run-stage {stage} -c {shorten(self.file.absolute())}{named}"


def load(
    file: Path,
    sets: Sequence[str] = (),
    run: str | None = None,
    *,
    on_paper: bool = False,
    needed: Callable[[Pipeline], Collection[str]] | None = None,
) -> Pipeline:
    """Read and check a config.

    Args:
        file: the YAML.
        sets: `a.b.c=VALUE`, applied in order after `extends`.
        run: the run's name; else the YAML's `run:`, else the file's stem.
        on_paper: paths and variables of what the user brings may lead nowhere; the pipeline can be planned, not run.
        needed: the stages that will run, and those that they read from; all, if not given. Others may lack files and
            variables, and are left out then.

    Raises:
        ConfigError: with every mistake found.
    """
    tree = read(file)
    for statement in sets:
        tree = assign(tree, statement)

    problems = Mistakes(on_paper)
    shown = shorten(file.absolute())
    refuse_secrets(tree, shown)
    for key, node in tree.value.items():
        if key not in TOP_LEVEL:
            problems.add(f"unknown key '{key}'", node.origin, nearest(key, TOP_LEVEL))
    name = run or _scalar(tree, "run", str, file.stem, problems)
    if not NAME.fullmatch(name):
        problems.add(f"'{name}' is not a name for a run", _origin(tree, "run"), NAME_RULE)
    seed = _scalar(tree, "seed", int, None, problems)
    isolation = _scalar(tree, "isolation", str, "auto", problems)
    if isolation not in ("auto", "required"):
        problems.add(f"isolation is 'auto' or 'required', not '{isolation}'", _origin(tree, "isolation"))

    blocks = tree.value.get("stages")
    if blocks is None or not isinstance(blocks.value, dict) or not blocks.value:
        problems.add("no stages", shown, "stages: {name: {kind: ..., inputs: ..., outputs: ...}}")
        problems.raise_all(shown)
        raise AssertionError("raise_all raises")

    track = read_trackers(tree, problems)
    pipeline = Pipeline(name, file, {}, isolation, tree, tuple(sets), track)
    names = Names(_output_names(blocks))
    folders: dict[str, str] = {}
    for stage_name, block in blocks.value.items():
        twin = folders.setdefault(stage_name.lower(), stage_name)
        if twin != stage_name:
            problems.add(
                f"stages '{twin}' and '{stage_name}': {CAPITALS}", block.origin, "another name for one"
            )
        problems.stage = stage_name
        stage = _stage(stage_name, block, seed, names, pipeline, problems)
        if stage is not None:
            pipeline.stages[stage_name] = stage
    if needed is not None and all(problem.stage for problem in problems):
        pipeline = _leave_out(pipeline, needed(pipeline), problems)
    problems.raise_all(shown)
    return pipeline


def _leave_out(pipeline: Pipeline, needed: Collection[str], problems: Mistakes) -> Pipeline:
    """The pipeline without stages that lack something and are not needed, nor those that read from them."""
    lacking = {problem.stage for problem in problems} - set(needed)
    problems[:] = [problem for problem in problems if problem.stage not in lacking]
    left_out = lacking | set(pipeline.descendants(list(lacking)))
    stages = {name: stage for name, stage in pipeline.stages.items() if name not in left_out}
    return replace(
        pipeline, stages=stages, left_out=tuple(name for name in pipeline.stages if name in left_out)
    )


def _origin(tree: Node, key: str) -> Origin:
    node, _ = find(tree, (key,))
    return node.origin


def _scalar(tree: Node, key: str, type_: type, default: Any, problems: Mistakes) -> Any:
    node = tree.value.get(key)
    if node is None or node.value is None:
        return default
    # True is an int in Python
    if not isinstance(node.value, type_) or isinstance(node.value, bool):
        problems.add(f"{key} should be a {type_.__name__}; it is {plain(node)!r}", node.origin)
        return default
    return node.value


def _output_names(blocks: Node) -> dict[str, tuple[str, Origin]]:
    """Every output name -> (stage, where): so a name that is read too early is known from one that nothing makes."""
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
    name: str, block: Node, seed: int | None, names: Names, pipeline: Pipeline, problems: Mistakes
) -> Stage | None:
    """One block of the YAML; None where its kind is unknown or its Config is refused."""
    if not NAME.fullmatch(name):
        problems.add(f"'{name:.120}' is not a name for a stage", block.origin, NAME_RULE)
    elif name.lower() in OWN_NAMES:
        what = f"a stage cannot be called '{name}': a run keeps a file or folder of its own under that name"
        problems.add(
            what, block.origin, f"another name, with `kind: ...`; taken are {', '.join(sorted(OWN_NAMES))}"
        )
    if block.value is None:
        block = Node({}, block.origin)
    if not isinstance(block.value, dict):
        problems.add(f"stages.{name} should be a mapping; it is {plain(block)!r}", block.origin)
        return None

    kind = _kind(name, block, pipeline.search, problems)
    if kind is None:
        declare_outputs(name, block, names)
        return None

    own = Node({key: child for key, child in block.value.items() if key not in ENGINE_KEYS}, block.origin)
    files: dict[Keys, Path] = {}
    values = resolve_paths(kind.Config, own, files, problems)
    if seed is not None:
        values.setdefault("seed", seed)
    config = validate(kind.Config, own, values, name, problems)

    inputs = join_inputs(name, kind, block, names, problems)
    use = join_use(name, kind, block, problems)
    outputs = join_outputs(name, kind, block, use, names, problems)
    if config is None:
        return None

    config, own_files = with_shipped_files(config, pipeline.folder, files)
    mismatch = "" if use else config.mismatch(_given_ports(inputs))
    if mismatch:
        problems.add(f"stages.{name}: {mismatch}", block.origin)
    gates = read_gates(name, block, pipeline.stages, problems)
    return Stage(name, kind, config, inputs, outputs, use, files, own_files, str(block.origin), gates)


def _kind(name: str, block: Node, search: tuple[str, ...], problems: Mistakes) -> Kind | None:
    """The kind of a block. A block that is called like a kind needs no `kind:`."""
    node = block.value.get("kind", Node(name, block.origin))
    try:
        return load_kind(str(node.value), search)
    except ConfigError as error:
        fix = error.fix
        if "kind" not in block.value:
            fix = f"stages.{name} has no `kind:`, so its name was tried; {fix}"
        problems.add(error.what, node.origin, fix)
        return None


def _given_ports(inputs: dict[str, Edges]) -> set[str]:
    """The ports that have an input; of those that hold several, `port.key` too."""
    given = set()
    for port, edges in inputs.items():
        if edges:
            given.add(port)
        if isinstance(edges, dict):
            given |= {f"{port}.{key}" for key in edges}
    return given
