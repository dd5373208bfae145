"""What a command will do: which stages, in which state, and every reason to refuse before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from r1pipe.config.loader import Edge, Pipeline, Stage
from r1pipe.config.validation import blocks
from r1pipe.data.sources import Source
from r1pipe.errors import InputError, MissingToolError, StaleError
from r1pipe.launch.preflight import check_batches, check_tools
from r1pipe.run.digests import Digests
from r1pipe.run.fingerprints import Fingerprints
from r1pipe.run.hub_models import fetch, hub_commit, is_pinned, repo_name, repo_type
from r1pipe.run.states import StageState, read_states
from r1pipe.run.store import RunFolder


@dataclass
class Plan:
    """Stages in order with their states.

    Attributes:
        selected: the stages that the command is about.
        rebuild: of the selected stages, those that --rebuild names and those that read from them.
        strict: differing versions and inputs that are not pinned refuse instead of warning.
        todo: the selected stages that will run.
    """

    pipeline: Pipeline
    folder: RunFolder
    selected: list[str]
    states: dict[str, StageState]
    rebuild: list[str]
    fingerprints: Fingerprints
    digests: Digests
    strict: bool = False
    todo: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.todo = [
            name for name in self.selected if name in self.rebuild or self.states[name].state != "done"
        ]

    @property
    def to_launch(self) -> list[Stage]:
        """The stages that will run in a process of their own; `use:` needs none."""
        stages = [self.pipeline.stages[name] for name in self.todo]
        return [stage for stage in stages if not stage.use]


def select(
    pipeline: Pipeline,
    *,
    only: Sequence[str] = (),
    until: str | None = None,
    rebuild: Sequence[str] = (),
    upstream: bool = False,
) -> list[str]:
    """The stages that these arguments of make_plan name, in order; nothing is read from disk.

    Raises:
        ConfigError: no stage has such a name.
    """
    for name in (*only, *rebuild, *([until] if until else [])):
        pipeline.stage(name)

    selected = list(pipeline.stages)
    if until:
        selected = selected[: selected.index(until) + 1]
    if only:
        wanted = {*only, *(pipeline.ancestors(only) if upstream else ())}
        selected = [name for name in selected if name in wanted]
    return selected


def make_plan(
    pipeline: Pipeline,
    *,
    only: Sequence[str] = (),
    until: str | None = None,
    rebuild: Sequence[str] = (),
    upstream: bool = False,
    strict: bool = False,
) -> Plan:
    """Select stages and read their states.

    Args:
        only: these stages; all if empty.
        until: up to this one and no further.
        rebuild: redo these, and of the selected stages those that read from them.
        upstream: with `only`, also what these stages need.
        strict: as Plan.strict.

    Raises:
        ConfigError: no stage has such a name, or the run's name differs from another's in capitals alone.
        InputError: a stage to be redone is not selected.
    """
    selected = select(pipeline, only=only, until=until, rebuild=rebuild, upstream=upstream)
    outside = [name for name in rebuild if name not in selected]
    if outside:
        what = f"--rebuild {outside[0]} is not among the stages to run"
        raise InputError(what, fix=f"add it to them; they are: {', '.join(selected)}")

    folder = RunFolder(pipeline.run)
    folder.refuse_twin()
    digests = Digests(folder)
    fingerprints = Fingerprints(pipeline, digests)
    states = read_states(
        pipeline,
        folder,
        fingerprints,
        digests,
    )
    digests.save()
    # A stage that is redone makes something else, so everything that reads from it is redone too.
    redone = {*rebuild, *pipeline.descendants(rebuild)}
    return Plan(
        pipeline=pipeline,
        folder=folder,
        selected=selected,
        states=states,
        rebuild=[name for name in selected if name in redone],
        fingerprints=fingerprints,
        digests=digests,
        strict=strict,
    )


# --- reasons to refuse ------------------------------------------------------------------------------------------------


def refuse(plan: Plan) -> None:
    """Check what would make the run wrong, before it starts.

    Raises:
        StaleError: a selected stage was made from another config or other inputs; or, with strict, other versions.
        InputError: a stage reads from one that is neither done nor about to run; or, with strict, an input on the
            hub is not pinned.
        MissingToolError: the config requires isolation, and this machine has none.
    """
    _refuse_stale(plan)
    if plan.strict:
        _refuse_other_versions(plan)
        _refuse_unpinned(plan)
    for name in plan.todo:
        _refuse_missing_inputs(plan, plan.pipeline.stages[name])
    if plan.todo and plan.pipeline.isolation == "required":
        why_not_isolated(plan)


def _refuse_stale(plan: Plan) -> None:
    stale = [
        name for name in plan.selected if plan.states[name].state == "stale" and name not in plan.rebuild
    ]
    if not stale:
        return
    # To redo these redoes the rest, which reads from them.
    roots = [name for name in stale if not set(plan.pipeline.ancestors([name])) & set(stale)]
    rebuild = " ".join(f"--rebuild {name}" for name in roots)
    lines = [f"{name}: {'; '.join(plan.states[name].reasons)}" for name in stale]
    count = "1 stage on disk does" if len(stale) == 1 else f"{len(stale)} stages on disk do"
    fix = (
        f"redo: {rebuild} (the old results move to runs/{plan.pipeline.run}/.old/)\n"
        "or keep both: --run NEW-NAME\n"
        "or undo the change"
    )
    raise StaleError(
        f"{count} not match the config:\n" + "\n".join(lines),
        str(plan.folder.path),
        fix,
    )


def _refuse_other_versions(plan: Plan) -> None:
    for name in plan.selected:
        warnings = plan.states[name].warnings
        if warnings and name not in plan.rebuild:
            what = f"{name} was made by other versions: {'; '.join(warnings)}"
            raise StaleError(
                what,
                str(plan.folder.path / name),
                f"--rebuild {name}, or leave out --strict",
            )


def _refuse_unpinned(plan: Plan) -> None:
    for stage, port, edge in _unpinned(plan, plan.selected):
        repo = repo_name(edge)
        option = "--model " if repo_type(edge) == "model" else ""
        fix = f"write hub:{repo}@COMMIT (`r1pipe data pin {option}{repo}` prints the newest), or leave out --strict"
        raise InputError(
            f"{edge.text} is not pinned to a commit",
            f"input {port} of {stage.name}",
            fix,
        )
    for name in plan.selected:
        for keys, source in blocks(plan.pipeline.stages[name].config, Source):
            if not source.pinned:
                raise InputError(
                    f"the dataset {source.hub} is not pinned to a commit",
                    ".".join(("stages", name, *keys)),
                    f"write `revision:` (`r1pipe data pin {source.hub}` prints the newest), or leave out --strict",
                )


def _refuse_missing_inputs(plan: Plan, stage: Stage) -> None:
    if stage.use:
        return
    missing = []
    for _, edge in stage.edges():
        if edge.stage and edge.stage not in plan.selected and plan.states[edge.stage].state != "done":
            missing.append(f"{edge.text} (made by {edge.stage}: {plan.states[edge.stage].state})")
    if missing:
        fix = (
            f"make it first: `{plan.pipeline.command(stage.name)} --upstream`\n"
            "or run the whole figure: run-all\n"
            "or, if you have it already, give its stage `use: PATH`"
        )
        raise InputError(
            f"{stage.name} needs what is not made yet: {', '.join(missing)}",
            str(plan.folder.path),
            fix,
        )


def why_not_isolated(plan: Plan) -> str | None:
    """Why code cannot be executed in isolation here; None if it can.

    Raises:
        MissingToolError: it cannot, and the config says `isolation: required`.
    """
    from r1pipe.rewards.sandbox import available

    reason = available()
    if reason is not None and plan.pipeline.isolation == "required":
        what = f"the config says isolation: required, but code cannot be isolated here: {reason}"
        fix = (
            "install bubblewrap (apt install bubblewrap; it needs unprivileged user namespaces)\n"
            "or write isolation: auto, which leaves code rows out"
        )
        raise MissingToolError(
            what,
            str(plan.pipeline.file),
            fix,
        )
    return reason


# --- the hub and the machine ------------------------------------------------------------------------------------------


def fetch_hub(plan: Plan, note: Callable[[str], None]) -> None:
    """Download what the stages to run read from the hub.

    Args:
        note: takes one sentence for every input that is not pinned, with the commit that is used.

    Raises:
        InputError: the hub does not give it.
    """
    for stage in plan.to_launch:
        for _, edge in stage.edges():
            if edge.origin == "hub":
                fetch(edge)
    for _, _, edge in _unpinned(plan, plan.todo):
        note(
            f"{edge.text} is not pinned; this run reads hub:{hub_commit(edge)} (write this to keep the commit)"
        )


def _unpinned(plan: Plan, names: Sequence[str]) -> Iterator[tuple[Stage, str, Edge]]:
    """Inputs on the hub that name no commit: what they stand for may change from one day to the next."""
    for name in names:
        stage = plan.pipeline.stages[name]
        if stage.use:
            continue
        for port, edge in stage.edges():
            if edge.origin == "hub" and not is_pinned(edge):
                yield stage, port, edge


def check_machine(plan: Plan) -> None:
    """Check tools, batch sizes and disk space for what will run.

    Raises:
        R1PipeError: one of them does not do.
    """
    check_tools({stage.name: stage.config.launch for stage in plan.to_launch})
    check_batches({stage.name: stage.config for stage in plan.to_launch})
    plan.folder.check_writable(sum(_bytes_at_least(stage) for stage in plan.to_launch))


def _bytes_at_least(stage: Stage) -> int:
    """A lower bound for what a stage writes: the size of the largest checkpoint that the user brings to it."""
    sizes = []
    for _, edge in stage.edges():
        if edge.path is not None and edge.path.is_dir():
            sizes.append(sum(file.stat().st_size for file in edge.path.glob("*.safetensors")))
    return max(sizes, default=0)
