"""The main path: load -> plan -> refuse what is stale -> skip or run each stage -> record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM, Signals, getsignal, signal
from typing import Any

from r1pipe.config.artifact_checks import missing_parts
from r1pipe.config.loader import Edge, Pipeline, Stage
from r1pipe.config.yamltree import plain, shorten
from r1pipe.errors import GateError, InputError, StageError
from r1pipe.launch.launcher import Launcher
from r1pipe.run.console import Console
from r1pipe.run.failure import explain
from r1pipe.run.hub_models import fetch
from r1pipe.run.manifest import Standing, changed_files, together, versions
from r1pipe.run.plan import Plan, check_machine, fetch_hub, isolation, refuse
from r1pipe.run.store import StageFolder, last_line, read_json, write_json
from r1pipe.run.summary import summarise, write_summary


class Interrupted(BaseException):
    """SIGINT or SIGTERM reached the driver; its workers are ended on the way out."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def run(replan: Callable[[], Plan], console: Console) -> dict[str, Any]:
    """Run what is to be run and return the summary.

    Args:
        replan: reads config and disk anew; called again once the lock is held, since another driver may have been faster.
        console: what the user sees.
    """
    plan = replan()
    refuse(plan)
    console.figure(plan)
    if not plan.todo:
        return console.finish(plan, summarise(plan.pipeline, plan.folder, plan.standings))
    unisolated = isolation(plan)
    if unisolated:
        console.note(f"no code is executed here ({unisolated}); the code kind is left out of prompts and suites")
    if fetch_hub(plan):
        plan = replan()
    check_machine(plan)
    with plan.folder as lock, interruptible(), Launcher(plan.folder.path / ".forkserver.log", console.note) as launcher:
        plan = replan()
        refuse(plan)
        launcher.warm([stage.config.launch for stage in map(plan.pipeline.stage, plan.todo) if not stage.use])
        write_json(plan.folder.path / "config.json", plain(plan.pipeline.tree))
        retire(plan, console)
        for name in plan.selected:
            if name not in plan.todo:
                console.skip(name)
                continue
            stage = plan.pipeline.stages[name]
            plan.standings[name] = Standing("partial")
            if stage.use:
                adopt(plan, stage)
            else:
                run_stage(plan, stage, launcher, console, lock.beat, unisolated is None)
            plan.standings[name] = Standing("done")
            plan.digests.save()
            summary = write_summary(plan.pipeline, plan.folder, plan.standings)
    return console.finish(plan, summary)


def run_stage(
    plan: Plan, stage: Stage, launcher: Launcher, console: Console, beat: Callable[[], None], isolated: bool
) -> None:
    """One stage from inputs to manifest."""
    folder, started = plan.folder.stage(stage.name), time.time()
    inputs, read = resolve(plan, stage)
    before = (read_json(folder.stage_json) or {}).get("wall_s", 0.0)
    attempt = folder.begin(list(stage.outputs))
    told = tell(plan, stage, folder, inputs, read, isolated) | {"attempt": attempt, "wall_s": before}
    write_json(folder.stage_json, told)
    console.begin(stage, attempt, told["resumed"])
    for name, path in stage.own_files.items():
        console.note(f"{stage.name}: reads {shorten(path)} in place of the {name} that ships")

    def tick() -> None:
        beat()
        console.tick(last_line(folder.progress), folder.notes)

    try:
        codes = launcher.run(stage.config.launch, folder.stage_json, lambda rank: folder.log(attempt, rank), tick)
    finally:
        tick()
        told["wall_s"] = round(before + time.time() - started, 3)
        write_json(folder.stage_json, told)
    if any(codes):
        error = explain(stage.name, folder, attempt, codes)
        if (
            error.exit_code == 2 or type(error) is GateError
        ):  # refused before it made anything; what a guard stopped stays
            folder.discard()
        raise error
    result = read_json(folder.result)
    if result is None:
        raise StageError(
            f"stage {stage.name} ended without a result", stage.kind.module.__name__, "did its run() leave the process?"
        )
    outputs = {port: describe(plan, stage, folder, port) for port in stage.outputs}
    told["wall_s"] = round(before + time.time() - started, 3)
    manifest = {
        key: told[key] for key in ("stage", "kind", "fingerprint", "material", "read", "isolation", "wall_s")
    } | {
        "outputs": outputs,
        "metrics": result["metrics"],
        **({"launched": result["launched"]} if result.get("launched") else {}),
        "attempts": attempt,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(stage),
    }
    folder.publish(manifest)
    plan.digests.moved(folder.partial, folder.out)
    console.end(stage, manifest["wall_s"], manifest["metrics"])


def adopt(plan: Plan, stage: Stage) -> None:
    """`use:`: write a manifest that points at what exists."""
    folder = plan.folder.stage(stage.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    outputs = {}
    for port, path in stage.use.items():
        files = plan.digests.files(path)
        digest = plan.digests.path(path)
        outputs[port] = {
            "type": stage.kind.outputs[port].type.kind,
            "name": stage.outputs.get(port, port),
            "path": str(path),
            "digest": digest,
            "files": files,
        }
    fingerprint, material = plan.prints.of(stage.name), plan.prints.material(stage.name)
    manifest = {
        "stage": stage.name,
        "kind": stage.kind.name,
        "fingerprint": fingerprint,
        "material": material,
        "read": {},
        "adopted": True,
    }
    manifest |= {
        "wall_s": 0.0,
        "outputs": outputs,
        "metrics": {},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": versions(stage),
    }
    write_json(folder.manifest_json, manifest)


def resolve(plan: Plan, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where the inputs lie (for the worker), and what exactly is read (for the record).

    Raises:
        InputError: a published input is not what was published.
    """
    read: dict[str, Any] = {}

    def one(port: str, source: Edge) -> dict[str, str]:
        if source.origin == "stage":
            maker = plan.folder.stage(source.stage)
            manifest = read_json(maker.manifest_json)
            assert manifest is not None, f"{source.stage} is not done"
            changed = changed_files(manifest, maker, plan.digests, fresh=source.stage not in plan.todo)
            if changed:
                fix = f"put it back, or make it again: --rebuild {source.stage}"
                raise InputError(
                    f"{changed[0]} is not what {source.stage} published", f"input {port} of {stage.name}", fix
                )
            made = manifest["outputs"][source.port]
            path, digest = maker.path / made["path"], made["digest"]
        else:
            path = fetch(source) if source.origin == "hub" else source.path
            assert path is not None
            lacks = missing_parts(source.type, path)
            if lacks:
                raise InputError(lacks, f"input {port} of {stage.name}")
            digest = plan.digests.path(path)
        read[port] = {"name": source.text, "from": source.stage or source.origin, "digest": digest}
        return {"type": source.type.kind, "name": source.name, "path": str(path)}

    inputs: dict[str, Any] = {}
    for port, source in stage.inputs.items():
        if isinstance(source, dict):
            inputs[port] = {key: one(f"{port}.{key}", value) for key, value in source.items()}
        else:
            inputs[port] = None if source is None else one(port, source)
    return inputs, read


def tell(
    plan: Plan, stage: Stage, folder: StageFolder, inputs: dict[str, Any], read: dict[str, Any], isolated: bool
) -> dict[str, Any]:
    """stage.json: everything a worker needs, and what the stage was made from."""
    outputs = {
        port: {"type": declared.type.kind, "name": stage.outputs[port], "path": str(folder.partial / port)}
        if port in stage.outputs
        else None
        for port, declared in stage.kind.outputs.items()
    }
    return {
        "stage": stage.name,
        "kind": stage.kind.name,
        "config": stage.config.model_dump(mode="json"),
        "inputs": inputs,
        "outputs": outputs,
        "workdir": str(folder.workdir),
        "metrics": str(folder.metrics),
        "progress": str(folder.progress),
        "resumed": any(folder.workdir.iterdir()),
        "isolation": isolated,
        "search": list(plan.pipeline.search),
        "fingerprint": plan.prints.of(stage.name),
        "material": plan.prints.material(stage.name),
        "read": read,
    }


def describe(plan: Plan, stage: Stage, folder: StageFolder, port: str) -> dict[str, Any]:
    """An output about to be published: hashed, and checked to be what its type says."""
    declared, partial = stage.kind.outputs[port], folder.partial / port
    lacks = missing_parts(declared.type, partial)
    if lacks:
        raise StageError(
            f"stage {stage.name} ended well, but its output '{port}' is incomplete: {lacks}",
            stage.kind.module.__name__,
            "a mistake in the stage's run()",
        )
    files = plan.digests.files(partial)
    return {
        "type": declared.type.kind,
        "name": stage.outputs[port],
        "path": f"out/{port}",
        "digest": together(files),
        "files": files,
    }


def retire(plan: Plan, console: Console) -> None:
    """--rebuild: what is there moves to .old/, all of it before anything runs, so that an interrupted rebuild goes on by itself."""
    for name in plan.rebuild:
        if plan.folder.stage(name).path.exists():
            target = plan.folder.retire(name)
            plan.standings[name] = Standing("missing")
            console.note(f"{name}: the old one is now {target.relative_to(plan.folder.path.parent.parent)}")


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM raise, so that every `finally` on the way out ends its processes."""

    def interrupt(number: int, _: Any) -> None:
        for one in (SIGINT, SIGTERM):
            signal(one, lambda *_: None)  # a second Ctrl-C must not cut the clean-up short
        raise Interrupted(Signals(number))

    old = {number: getsignal(number) for number in (SIGINT, SIGTERM)}
    for number in old:
        signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal(number, handler)


__all__ = ["Interrupted", "Pipeline", "run"]
