"""The main path: load -> plan -> refuse what is stale -> skip or run each stage -> record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r1pipe.config.yamltree import plain
from r1pipe.errors import GateError
from r1pipe.launch.launcher import Launcher
from r1pipe.run.ahead import Ahead
from r1pipe.run.checkpoint_checks import checkpoint_findings
from r1pipe.run.console import Console
from r1pipe.run.findings import Teller, findings_of, refuse_errors
from r1pipe.run.gate_checks import check_gates
from r1pipe.run.interrupts import TimeLimit, interruptible
from r1pipe.run.lock import write_lock
from r1pipe.run.plan import Plan, check_machine, fetch_hub, refuse, why_not_isolated
from r1pipe.run.planning.grading import predictions
from r1pipe.run.report import LiveReport, write_config_view
from r1pipe.run.stage_runner import adopt, run_stage
from r1pipe.run.states import StageState
from r1pipe.run.store import whole_manifest, write_json
from r1pipe.run.summary import summarise, write_summary
from r1pipe.run.tracking import Tracking, check_trackers


def run(replan: Callable[[], Plan], console: Console, minutes: float | None = None) -> dict[str, Any]:
    """Run the stages that are not done, and return the summary.

    Args:
        replan: reads the states from disk; called a second time when the lock is held.
        console: what the user sees.
        minutes: from now on, after which the run stops; None = no limit.

    Raises:
        Interrupted: a signal came, or the time is up; the same call goes on.
        GateError: a stage that is done does not meet what it requires; nothing behind it was run.
        R1PipeError: the run is refused, or a stage failed; the stages before it stay done.
    """
    limit = TimeLimit(minutes)
    plan = replan()
    refuse(plan)
    refuse_errors(plan, findings_of(plan))
    console.figure(plan)
    check_gates_above(plan)
    if not plan.todo:
        # A run that has nothing to do touches no file, so this summary is shown and not written.
        return console.finish(plan, summarise(plan))

    reason = why_not_isolated(plan)
    if reason is not None:
        console.note(
            f"code cannot be isolated here ({reason}), so no code is executed: code rows are left out"
        )
    # Downloads come before the lock: they may take hours, and they change nothing in the run.
    fetch_hub(plan, console.note)
    checkpoints = Teller(console.note)
    checkpoints.tell(plan, checkpoint_findings(plan, plan.todo))
    check_machine(plan)
    check_trackers(plan.pipeline)

    with (
        LiveReport(plan.folder, console.note) as live,
        plan.folder as lock,
        interruptible() as hurried,
        Tracking(plan.pipeline.track, plan.folder, console.note, hurried) as tracking,
        Launcher(plan.folder.path / ".forkserver.log", console.note, hurried) as launcher,
    ):
        # Another driver may have run stages, or the hub may have given another commit, since the first plan.
        plan = replan()
        refuse(plan)
        # Importing torch takes seconds; the fork server does it while the driver still writes and moves files.
        launcher.warm([stage.config.launch for stage in plan.to_launch])
        # `status`, `logs` and `data` read a run without its YAML, which may have changed or moved since.
        write_json(plan.folder.path / "config.json", plain(plan.pipeline.tree))
        write_config_view(plan.pipeline, plan.folder)
        retire(plan, console)

        def beat() -> None:
            lock.beat()
            live.beat()
            tracking.beat()

        with Ahead(plan, launcher, isolated=reason is None, planned=predictions(plan.pipeline)) as ahead:
            for name in plan.selected:
                stage = plan.pipeline.stages[name]
                if name not in plan.todo:
                    check_gates(plan, stage)
                    continue
                limit.check()
                if stage.use:
                    adopt(plan, stage)
                else:
                    # What the stages above have made is there now.
                    checkpoints.tell(plan, checkpoint_findings(plan, [name]))
                    tracking.begin(stage)
                    run_stage(
                        plan,
                        stage,
                        launcher,
                        console,
                        beat=beat,
                        limit=limit,
                        ahead=ahead,
                    )
                    tracking.end(whole_manifest(plan.folder.stage(name)).get("metrics"))
                plan.states[name] = StageState("done")
                # After each stage, so that a kill loses no hashes: many gigabytes take minutes to hash.
                write_lock(plan, stage)
                plan.digests.save()
                write_summary(plan)
                live.write()
                for outcome in check_gates(plan, stage):
                    console.note(f"{name} {outcome.line}")
    return console.finish(plan, summarise(plan))


def check_gates_above(plan: Plan) -> None:
    """Check the gates of what is done above the first stage to run, before anything is loaded or written for it.

    Raises:
        GateError: one is not met.
    """
    for name in plan.selected:
        if name in plan.todo:
            return
        try:
            check_gates(plan, plan.pipeline.stages[name])
        except GateError:
            # The limit may be another one than that of which the run's folder tells.
            write_summary(plan)
            raise


def retire(plan: Plan, console: Console) -> None:
    """Move what --rebuild redoes to .old/, all of it before anything runs.

    So an interrupted rebuild needs no --rebuild to go on: what is still to be redone is missing.
    """
    for name in plan.rebuild:
        if plan.folder.stage(name).path.exists():
            target = plan.folder.retire(name)
            plan.states[name] = StageState("missing")
            console.note(f"{name}: the old one is now {target.relative_to(plan.folder.path.parent.parent)}")
