"""What a command will do: which stages, in which state, and every reason to refuse before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from r1pipe.config.loader import Pipeline, Stage
from r1pipe.errors import InputError, MissingToolError, StaleError
from r1pipe.launch.launcher import check_batches, check_tools
from r1pipe.run.hub_models import fetch
from r1pipe.run.manifest import Digests, Fingerprints, Standing, standings
from r1pipe.run.store import RunFolder


@dataclass
class Plan:
    """Stages in order with their states; `todo` is what will run."""

    pipeline: Pipeline
    folder: RunFolder
    selected: list[str]
    standings: dict[str, Standing]
    rebuild: list[str]  # asked for, and the selected stages that read from them
    prints: Fingerprints
    digests: Digests
    strict: bool = False
    todo: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.todo = [name for name in self.selected if name in self.rebuild or self.standings[name].state != "done"]


def make_plan(
    pipeline: Pipeline,
    only: Sequence[str] = (),
    until: str | None = None,
    rebuild: Sequence[str] = (),
    upstream: bool = False,
    strict: bool = False,
) -> Plan:
    """Read the states.

    Args:
        only: these stages; all if empty.
        until: up to this one and no further.
        rebuild: redo these, and of the selected stages those that read from them.
        upstream: with `only`, also what these stages need.
        strict: a difference in versions refuses instead of warning.
    """
    for name in (*only, *rebuild, *([until] if until else [])):
        pipeline.stage(name)
    selected = list(pipeline.stages)
    if only:
        wanted = {*only, *(pipeline.ancestors(only) if upstream else ())}
        selected = [name for name in selected if name in wanted]
    if until:
        selected = [
            name for name in selected if name in list(pipeline.stages)[: list(pipeline.stages).index(until) + 1]
        ]
    outside = [name for name in rebuild if name not in selected]
    if outside:
        raise InputError(
            f"--rebuild {outside[0]} is not among the stages to run", fix=f"selected: {', '.join(selected)}"
        )
    again = {*rebuild, *pipeline.descendants(rebuild)}
    folder = RunFolder(pipeline.run)
    digests = Digests(folder)
    prints = Fingerprints(pipeline, digests)
    states = standings(pipeline, folder, prints, digests)
    digests.save()
    return Plan(pipeline, folder, selected, states, [n for n in selected if n in again], prints, digests, strict)


def refuse(plan: Plan) -> None:
    """Everything that would make the run wrong, checked before it starts.

    Raises:
        StaleError: a selected stage was made from another config or other inputs; or, with strict, other versions.
        InputError: a stage reads from one that is neither done nor about to run.
        MissingToolError: the config requires isolation, and it cannot be had.
    """
    stale = [name for name in plan.selected if plan.standings[name].state == "stale" and name not in plan.rebuild]
    if stale:
        roots = [name for name in stale if not set(plan.pipeline.ancestors([name])) & set(stale)]
        lines = [f"{name}: " + "; ".join(plan.standings[name].reasons) for name in stale]
        what = f"{len(stale)} stage(s) on disk no longer match the config:\n" + "\n".join(lines)
        again = " ".join(f"--rebuild {name}" for name in roots)
        fix = f"redo them: {again} (the old ones move to runs/{plan.pipeline.run}/.old/); or keep both: --run NEW-NAME; or put the value back"
        raise StaleError(what, str(plan.folder.path), fix)
    if plan.strict:
        for name in plan.selected:
            if plan.standings[name].warnings and name not in plan.rebuild:
                what = f"{name} was made by other versions: " + "; ".join(plan.standings[name].warnings)
                raise StaleError(what, str(plan.folder.path / name), f"--rebuild {name}, or leave out --strict")
    for name in plan.todo:
        stage = plan.pipeline.stages[name]
        lacking = (
            [m for m in stage.makers if m not in plan.selected and plan.standings[m].state != "done"]
            if not stage.use
            else []
        )
        if lacking:
            needs = ", ".join(
                f"{source.text} (made by {source.stage}: {plan.standings[source.stage].state})"
                for _, source in stage.edges()
                if source.stage in lacking
            )
            what = f"{name} needs what is not there yet: {needs}"
            fix = f"`{plan.pipeline.command(name)} --upstream` makes it first; or run-all; or use: PATH on the stage that makes it"
            raise InputError(what, str(plan.folder.path), fix)
    if plan.todo and plan.pipeline.isolation == "required":
        isolation(plan)


def fetch_hub(plan: Plan) -> bool:
    """Download what the stages to run read from the hub; True if something came anew, so that identities may have moved."""
    sources = [
        source for name in plan.todo for _, source in plan.pipeline.stages[name].edges() if source.origin == "hub"
    ]
    for source in sources:
        fetch(source)
    return bool(sources)


def check_machine(plan: Plan) -> None:
    """Tools, batches and space for what will run."""
    stages = [plan.pipeline.stages[name] for name in plan.todo]
    check_tools({stage.name: stage.config.launch for stage in stages if not stage.use})
    check_batches({stage.name: stage.config for stage in stages if not stage.use})
    plan.folder.check_writable(sum(_bytes_wanted(stage) for stage in stages))


def _bytes_wanted(stage: Stage) -> int:
    """A lower bound for what a stage writes: as much as the largest checkpoint brought to it."""
    sizes = [
        sum(p.stat().st_size for p in source.path.glob("*.safetensors"))
        for _, source in stage.edges()
        if source.path is not None and source.path.is_dir()
    ]
    return max(sizes, default=0)


def isolation(plan: Plan) -> str | None:
    """Why code cannot be executed in isolation here; None if it can.

    Raises:
        MissingToolError: it cannot, and the config says `isolation: required`.
    """
    from r1pipe.rewards.sandbox import available

    reason = available()
    if reason is not None and plan.pipeline.isolation == "required":
        fix = "apt install bubblewrap (it needs unprivileged user namespaces); or isolation: auto, which leaves the code kind out"
        raise MissingToolError(
            f"the config says isolation: required, and code cannot be isolated here: {reason}",
            str(plan.pipeline.file),
            fix,
        )
    return reason
