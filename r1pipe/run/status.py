"""`r1pipe status` and `r1pipe logs`: a run's folder, read without its config."""

from __future__ import annotations

import fcntl
import io
import time
from typing import Any

from r1pipe.config.edges import NAME
from r1pipe.config.yamltree import nearest
from r1pipe.errors import InputError
from r1pipe.run.console import MARKS, seconds, shown
from r1pipe.run.gate_checks import Outcome
from r1pipe.run.planning.grading import graded
from r1pipe.run.records import damaged, read_object
from r1pipe.run.score_tables import score_lines
from r1pipe.run.store import RUNS, RunFolder, StageFolder, holder_in, last_progress
from r1pipe.text.regular_files import open_regular

FOLLOW_EVERY_S = 0.3
_RUN_SOMETHING = "start one: r1pipe run-all CONFIG"


def run_names() -> list[str]:
    return sorted(path.parent.name for path in RUNS.glob("*/config.json"))


def newest_run() -> str:
    """The run whose folder was touched last.

    Raises:
        InputError: there is no run here.
    """

    def touched(run: str) -> float:
        # A folder's own time changes only when something is added or removed, so the newest of its entries decides.
        return max(path.stat().st_mtime for path in (RUNS / run).glob("*"))

    names = run_names()
    if not names:
        raise InputError(
            "there is no run in this folder",
            str(RUNS.absolute()),
            _RUN_SOMETHING,
        )
    return max(names, key=touched)


def run_folder(run: str) -> RunFolder:
    """The folder of a run that is there.

    Raises:
        InputError: there is no such run.
    """
    folder = RunFolder(run)
    if not NAME.fullmatch(run) or not folder.path.is_dir():
        names = run_names()
        fix = nearest(run, names) if names else _RUN_SOMETHING
        raise InputError(
            f"there is no run '{run}'",
            str(RUNS.absolute()),
            fix,
        )
    return folder


def stage_names(folder: RunFolder) -> list[str]:
    """The stages of a run, as its config.json has them; none where nothing was started yet.

    Raises:
        InputError: config.json is damaged.
    """
    path = folder.path / "config.json"
    if not path.exists() and not path.is_symlink():
        return []
    stages = read_object(path).get("stages")
    if not isinstance(stages, dict) or not all(map(NAME.fullmatch, stages)):
        fix = "the same command again writes it anew: r1pipe run-all CONFIG"
        raise damaged(path, "it is no config of a run", fix)
    return list(stages)


# --- status -----------------------------------------------------------------------------------------------------------


def run_status(run: str) -> dict[str, Any]:
    """Each stage's state as its folder shows it, the progress of the running one, and the scores.

    Raises:
        InputError: there is no such run, or its config.json is damaged.
    """
    folder = run_folder(run)
    driver = _driver(folder)
    summary = read_object(folder.path / "summary.json")
    scores = summary.get("scores")
    gates = _gates(summary)
    return {
        "run": run,
        "folder": str(folder.path),
        "driver": driver,
        "stages": [
            _stage_status(
                name,
                folder.stage(name),
                driver is not None,
            )
            | {"gates": gates.get(name, [])}
            for name in stage_names(folder)
        ],
        "scores": scores if isinstance(scores, dict) else {},
    }


def _gates(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Stage -> its gates, as the run's last command has found them."""
    found: dict[str, list[dict[str, Any]]] = {}
    stages = summary.get("stages")
    for stage in stages if isinstance(stages, list) else []:
        if isinstance(stage, dict) and isinstance(stage.get("gates"), list):
            found[str(stage.get("name"))] = [gate for gate in stage["gates"] if isinstance(gate, dict)]
    return found


def _stage_status(
    name: str,
    folder: StageFolder,
    has_driver: bool,
) -> dict[str, Any]:
    try:
        manifest = folder.manifest()
        record = manifest or folder.record() or {}
    except InputError as error:
        return {"name": name, "state": "stale", "wall_s": 0.0, "why": error.what}
    status: dict[str, Any] = {"name": name, "state": "missing", "wall_s": record.get("wall_s", 0.0)}
    if manifest:
        status["state"] = "done"
        status |= graded(manifest)
    elif record:
        # The driver goes on for a moment after a worker has failed.
        failed = any(folder.path.glob("error.*.json"))
        running = has_driver and folder.partial.exists() and not failed
        # Started beside the stage before it.
        waits = running and record.get("ahead") and not folder.turn.exists()
        status |= {
            "state": "waiting" if waits else "running" if running else "partial",
            "attempts": folder.attempts,
            "progress": last_progress(folder.progress),
            "log": str(folder.log(max(1, folder.attempts))),
        }
    return status


def _driver(folder: RunFolder) -> dict[str, Any] | None:
    """Who holds the run's lock. The lock itself decides: a driver that was killed leaves its text behind."""
    try:
        with io.TextIOWrapper(open_regular(folder.path / ".lock"), encoding="utf8") as stream:
            holder = holder_in(stream)
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return holder
    except OSError:
        pass
    return None


def status_lines(status: dict[str, Any]) -> list[str]:
    """run_status() for people."""
    stages = status["stages"]
    done = sum(stage["state"] == "done" for stage in stages)
    driver = status["driver"]
    by = ""
    if driver:
        since = time.strftime("%H:%M:%S", time.localtime(driver["since"]))
        by = f"; running since {since} (pid {driver['pid']} on {driver['host']})"
    lines = [f"run {status['run']}: {done} of {len(stages)} stages done{by}  ({status['folder']})"]
    for stage in stages:
        line = f"  {MARKS.get(stage['state'], '◐')} {stage['state']:8} {stage['name']}"
        if stage["wall_s"]:
            line += f"  {seconds(stage['wall_s'])}"
        line += _planned(stage)
        progress = stage.get("progress")
        if "why" in stage:
            line += f"  {stage['why']}"
        if progress:
            line += f"  {progress['done']}/{progress['total']}  {shown(progress)}"
        lines.append(line)
        for gate in stage["gates"]:
            lines.append(
                f"             {Outcome(gate.get('gate', ''), gate.get('met'), gate.get('said', '')).line}"
            )
    return lines + score_lines(status["scores"])


def _planned(stage: dict[str, Any]) -> str:
    """What was planned, where it was off by more than 30 %."""
    said = []
    for name, ratio in stage.get("off", {}).items():
        value = stage["predicted"][name]
        shown_value = seconds(value) if name == "wall_s" else f"{value:.1f} GiB"
        said.append(f"{shown_value} planned: {ratio:g} x")
    return f"  ({'; '.join(said)})" if said else ""


# --- logs -------------------------------------------------------------------------------------------------------------


def print_log(
    run: str,
    stage: str,
    rank: int,
    follow: bool,
) -> None:
    """Print a log; with `follow`, until the stage ends.

    Raises:
        InputError: there is no such run, stage or log.
    """
    run_files = run_folder(run)
    names = stage_names(run_files)
    if stage not in names:
        raise InputError(
            f"run '{run}' has no stage '{stage}'",
            str(run_files.path),
            nearest(stage, names),
        )
    folder = run_files.stage(stage)
    log = folder.log(folder.attempts, rank)
    if not folder.attempts or not log.is_file():
        of_rank = f" of rank {rank}" if rank else ""
        fix = f"`r1pipe status {run}` shows what has run"
        raise InputError(
            f"stage '{stage}' has no log{of_rank} yet",
            str(folder.path),
            fix,
        )

    with log.open("rb") as stream:
        while True:
            # Looked up before reading, so that what is written last is still printed.
            running = _running(run_files, folder)
            for block in iter(lambda: stream.read(65536), b""):
                print(
                    block.decode("utf8", "replace"),
                    end="",
                    flush=True,
                )
            if not follow or not running:
                return
            time.sleep(FOLLOW_EVERY_S)


def _running(run_files: RunFolder, folder: StageFolder) -> bool:
    return not folder.manifest_json.exists() and folder.partial.exists() and _driver(run_files) is not None
