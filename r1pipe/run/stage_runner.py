"""One stage from its inputs to its manifest."""

from __future__ import annotations

import time
from collections.abc import Callable

from r1pipe.config.loader import Stage
from r1pipe.config.yamltree import shorten
from r1pipe.errors import GateError, R1PipeError, UserCodeError
from r1pipe.launch.launcher import Launcher
from r1pipe.run.ahead import Ahead
from r1pipe.run.console import Console
from r1pipe.run.failure import explain, mistake_of
from r1pipe.run.gpu_watch import GpuWatch
from r1pipe.run.interrupts import TimeLimit
from r1pipe.run.manifest import adopted_manifest, describe_output, finished_manifest
from r1pipe.run.plan import Plan
from r1pipe.run.planning.grading import remark
from r1pipe.run.planning.seen import peak_of
from r1pipe.run.records import read_object, sealed
from r1pipe.run.store import StageFolder, last_progress, write_json


def run_stage(
    plan: Plan,
    stage: Stage,
    launcher: Launcher,
    console: Console,
    *,
    beat: Callable[[], None],
    limit: TimeLimit,
    ahead: Ahead,
) -> None:
    """Run a stage and publish what it made.

    Args:
        beat: called several times a second while the stage runs; keeps the run's lock alive.
        limit: ends the stage's processes when the time is up; what they have finished by then is published.
        ahead: has started the stage, perhaps, and starts the next one beside it where it can.

    Raises:
        InputError: a published input is not what was published.
        R1PipeError: what the stage itself raised.
        StageError: the stage's process failed.
    """
    started = time.time()
    # Durations by a clock that nobody sets.
    began = time.monotonic()
    attempt = ahead.attempt(stage)
    folder, record = attempt.folder, attempt.record
    console.begin(stage, attempt.number, record["resumed"])
    for name, path in stage.own_files.items():
        console.note(f"{stage.name}: reads {shorten(path)} in place of the {name} that ships")

    def seconds_so_far() -> float:
        return round(attempt.earlier_s + time.monotonic() - began, 3)

    def tick() -> None:
        beat()
        console.tick(last_progress(folder.progress), folder.notes)

    def tick_in_time() -> None:
        tick()
        limit.check()
        ahead.start_beside(stage)

    def once() -> list[int]:
        return launcher.run(
            stage.config.launch,
            folder.stage_json,
            lambda rank: folder.log(attempt.number, rank),
            tick_in_time,
        )

    try:
        with GpuWatch() as watch:
            codes = once()
            while any(codes) and (reason := folder.take_reason_to_start_again()):
                console.note(f"{stage.name}: {reason}")
                console.close()
                attempt.begin_again()
                console.begin(stage, attempt.number, resumed=True)
                codes = once()
    finally:
        # Also when the stage failed or the driver was interrupted: the next attempt adds to these seconds.
        tick()
        attempt.write(wall_s=seconds_so_far())

    if any(codes):
        raise _failure(stage, folder, attempt.number, codes)
    result = read_object(folder.result)
    if not isinstance(result.get("metrics"), dict):
        raise mistake_of(
            stage.kind,
            f"stage {stage.name} ended without a result",
            "its run() must return, not leave the process",
        )

    outputs = {
        port: describe_output(
            stage,
            folder,
            port,
            plan.digests,
        )
        for port in stage.outputs
    }
    record["wall_s"] = seconds_so_far()
    # Of this attempt: how long it took until the stage's own code began, and how busy the GPUs were.
    record["start_s"] = round(max(0.0, result["began"] - started), 3)
    record["gpu"] = watch.seen() | peak_of(folder.metrics)
    manifest = finished_manifest(stage, record, result, outputs)
    folder.publish(manifest)
    plan.digests.moved(folder.partial, folder.out)
    console.end(stage, manifest["wall_s"], manifest["metrics"])
    off = remark(manifest)
    if off:
        console.note(f"{stage.name}: {off}")


def _failure(
    stage: Stage,
    folder: StageFolder,
    attempt: int,
    codes: list[int],
) -> R1PipeError:
    """The error of a stage that failed. What it left is removed where it refused its inputs before it made anything.

    A GuardError or BudgetError, which are GateErrors too, comes after something was made, and that stays. So does the
    log of a stage whose own code failed.
    """
    error = explain(stage.name, folder, attempt, codes)
    if (error.exit_code == 2 and not isinstance(error, UserCodeError)) or type(error) is GateError:
        folder.discard()
    return error


def adopt(plan: Plan, stage: Stage) -> None:
    """Take what lies at the paths of `use:` as what the stage has made."""
    folder = plan.folder.stage(stage.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json(folder.manifest_json, sealed(adopted_manifest(plan, stage)))
