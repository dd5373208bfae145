"""Reading a run's folder without its config: `status`, `logs`; and a config with origins: `config show`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from r1pipe.config.loader import Pipeline
from r1pipe.config.yamltree import find, nearest
from r1pipe.errors import InputError
from r1pipe.run.console import MARKS, score_lines, seconds, shown
from r1pipe.run.store import RUNS, RunFolder, StageFolder, last_line, read_json


def newest_run() -> str:
    """The run whose lock or summary was touched last.

    Raises:
        InputError: there is no run here.
    """
    found = sorted(RUNS.glob("*/config.json"), key=lambda path: max(p.stat().st_mtime for p in path.parent.glob("*")))
    if not found:
        raise InputError("there is no run here", str(RUNS.absolute()), "r1pipe run-all CONFIG")
    return found[-1].parent.name


def run_folder(run: str) -> RunFolder:
    folder = RunFolder(run)
    if not folder.path.is_dir():
        there = sorted(p.parent.name for p in RUNS.glob("*/config.json"))
        raise InputError(
            f"there is no run '{run}'", str(RUNS.absolute()), nearest(run, there) if there else "r1pipe run-all CONFIG"
        )
    return folder


def _driver(folder: RunFolder) -> dict[str, Any] | None:
    """Who holds the lock, by the lock itself: its text is left behind by a driver that was killed."""
    import fcntl

    try:
        with (folder.path / ".lock").open("r", encoding="utf8") as stream:
            told = json.loads(stream.read() or "null")
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return told
    except (OSError, ValueError):
        pass
    return None


def run_status(run: str) -> dict[str, Any]:
    """Each stage's state as its folder tells it, progress of the running one, and the scores."""
    folder = run_folder(run)
    config, driver = read_json(folder.path / "config.json") or {"stages": {}}, _driver(folder)
    stages = []
    for name in config["stages"]:
        here = folder.stage(name)
        manifest, told = read_json(here.manifest_json), read_json(here.stage_json)
        state = "done" if manifest else "partial" if told else "missing"
        entry: dict[str, Any] = {"name": name, "state": state, "wall_s": (manifest or told or {}).get("wall_s", 0.0)}
        if state == "partial":
            entry |= {
                "attempts": here.attempts,
                "progress": last_line(here.progress),
                "log": str(here.log(max(1, here.attempts))),
            }
            if driver and here.partial.exists() and not any(here.path.glob("error.*.json")):
                entry["state"] = "running"
        stages.append(entry)
    summary = read_json(folder.path / "summary.json") or {}
    return {
        "run": run,
        "folder": str(folder.path),
        "driver": driver,
        "stages": stages,
        "scores": summary.get("scores", {}),
    }


def status_lines(found: dict[str, Any]) -> list[str]:
    done = sum(stage["state"] == "done" for stage in found["stages"])
    driver = found["driver"]
    by = (
        f"; a driver works on it: pid {driver['pid']} on {driver['host']} since {time.strftime('%H:%M:%S', time.localtime(driver['since']))}"
        if driver
        else ""
    )
    lines = [f"run {found['run']}: {done} of {len(found['stages'])} stages done{by}  ({found['folder']})"]
    for stage in found["stages"]:
        line = f"  {MARKS.get(stage['state'], '◐')} {stage['state']:8} {stage['name']}"
        if stage["wall_s"]:
            line += f"  {seconds(stage['wall_s'])}"
        progress = stage.get("progress")
        if progress:
            line += f"  {progress['done']}/{progress['total']}  {shown(progress)}"
        lines.append(line)
    return lines + score_lines(found["scores"])


def print_log(run: str, stage: str, rank: int, follow: bool) -> None:
    """Print a log; with `follow`, until the stage ends."""
    folder = run_folder(run)
    config = read_json(folder.path / "config.json") or {"stages": {}}
    here = folder.stage(stage)
    if stage not in config["stages"]:
        raise InputError(
            f"run '{run}' has no stage '{stage}'", str(folder.path), nearest(stage, list(config["stages"]))
        )
    log = here.log(here.attempts, rank)
    if not here.attempts or not log.is_file():
        raise InputError(
            f"stage '{stage}' has no log{'' if rank == 0 else f' of rank {rank}'} yet",
            str(here.path),
            "r1pipe status shows what has run",
        )
    with log.open("rb") as stream:
        while True:
            running = _running(folder, here)  # asked before reading, so that what is written last is still printed
            for block in iter(lambda: stream.read(65536), b""):
                print(block.decode("utf8", "replace"), end="", flush=True)
            if not follow or not running:
                return
            time.sleep(0.3)


def _running(folder: RunFolder, here: StageFolder) -> bool:
    return not here.manifest_json.exists() and here.partial.exists() and _driver(folder) is not None


# --- config show ------------------------------------------------------------------------------------------------------


def resolved(pipeline: Pipeline) -> dict[str, Any]:
    """The config with every default filled in and every path absolute."""
    stages = {}
    for name, stage in pipeline.stages.items():
        stages[name] = {
            "kind": stage.kind.name,
            "inputs": {
                port: {k: one.text for k, one in s.items()} if isinstance(s, dict) else s and s.text
                for port, s in stage.inputs.items()
            },
            "outputs": stage.outputs,
            **({"use": {port: str(path) for port, path in stage.use.items()}} if stage.use else {}),
            **stage.config.model_dump(mode="json"),
        }
    return {"run": pipeline.run, "isolation": pipeline.isolation, "stages": stages}


def config_lines(pipeline: Pipeline, defaults: bool) -> list[str]:
    """`key: value  # origin`, one value a line."""
    lines = list(_lines(resolved(pipeline), (), pipeline, defaults))
    width = min(72, max((len(left) for left, right in lines if right), default=0))
    return [f"{left:{width}}  # {right}" if right else left for left, right in lines]


def _lines(
    value: dict[str, Any], keys: tuple[str, ...], pipeline: Pipeline, defaults: bool
) -> Iterator[tuple[str, str]]:
    for key, child in value.items():
        path = (*keys, key)
        node, walked = find(pipeline.tree, path)
        stated = walked == path
        if not stated and not defaults:
            continue
        indent = "  " * len(keys)
        if isinstance(child, dict) and child:
            yield f"{indent}{key}:", ""
            yield from _lines(child, path, pipeline, defaults)
        else:
            origin = str(node.origin) if stated else "default"
            if not stated and key == "seed" and "seed" in pipeline.tree.value:
                origin = f"{pipeline.tree.value['seed'].origin} (seed)"
            yield f"{indent}{key}: {json.dumps(child, ensure_ascii=False)}", origin
