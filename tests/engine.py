"""Shared by the tests of the engine: the command line as a process, in a folder of its own, with the fake kinds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from command_server import CommandServer

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "tests" / "fixtures"

ROW = (
    '{"id": "0", "prompt": "1+1", "messages": [{"role": "user", "content": "1+1"}, {"role": '
    '"assistant", "content": "<think>1+1=2</think>2"}], "domain": "math", "answer": "2"}\n'
)

CHAIN = """
stages:
  rows: {kind: r1pipe_fakes.rows, outputs: {rows: first}}
  more: {kind: r1pipe_fakes.rows, inputs: {source: first}, outputs: {rows: second}, count: 5}
  score: {kind: r1pipe_fakes.score, inputs: {prompts: second}, outputs: {report: scores-base}}
"""


def environment(**extra: str) -> dict[str, str]:
    return {
        **os.environ,
        # what is already there may hold the libraries
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(ROOT), str(FIXTURES), os.environ.get("PYTHONPATH", "")))
        ),
        "PYTHONSAFEPATH": "1",
        "R1PIPE_FORKSERVER": "0",
        # said, so that no stage looks whether the machine is busy
        "OMP_WAIT_POLICY": "PASSIVE",
        "COLUMNS": "200",
        **extra,
    }


def r1pipe(
    folder: Path, *arguments: str, timeout: float = 120, own_process: bool = False, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end: in a fork, unless asked otherwise or the interpreter is told something."""
    if not own_process and not any(name.startswith("PYTHON") for name in extra):
        return _server().run(list(arguments), folder, environment(**extra), timeout)
    command = [sys.executable, "-m", "r1pipe.cli.main", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=timeout
    )


@cache
def _server() -> CommandServer:
    return CommandServer(environment())


def start(folder: Path, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "r1pipe.cli.main", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def config(folder: Path, text: str = CHAIN, name: str = "t.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf8")
    return path


def manifest(folder: Path, stage: str, run: str = "t") -> dict[str, Any]:
    return json.loads((folder / "runs" / run / stage / "manifest.json").read_text())


def edit_manifest(folder: Path, stage: str, edit: Callable[[dict[str, Any]], object], run: str = "t") -> None:
    """Change a manifest as another version of r1pipe would have written it: its checksum is right."""
    from r1pipe.run.records import sealed

    record = manifest(folder, stage, run)
    edit(record)
    path = folder / "runs" / run / stage / "manifest.json"
    path.write_text(json.dumps(sealed(record)), encoding="utf8")


def rows(folder: Path, stage: str, run: str = "t") -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (folder / "runs" / run / stage / "out/rows/rows.jsonl").read_text().splitlines()
    ]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.time() + seconds
    while time.time() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {condition}")


def alive(pid: int) -> bool:
    """A zombie counts as dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def states(folder: Path, *arguments: str) -> dict[str, str]:
    """What `plan --json` says."""
    done = r1pipe(folder, "plan", "t.yaml", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {stage["name"]: stage["state"] for stage in json.loads(done.stdout)["stages"]}


def stage_json(
    folder: Path,
    kind: str,
    config: dict[str, Any],
    inputs: dict[str, tuple[str, Path]],
    outputs: dict[str, tuple[str, Path]],
    search: tuple[str, ...] = (),
) -> Path:
    """A stage.json as the driver writes it for its workers, and the folders it names.

    Args:
        inputs, outputs: role -> (type of the artifact, its folder).
        search: folders whose kinds the worker may import.
    """
    for path in (folder / "workdir", *(path for _, path in outputs.values())):
        path.mkdir(parents=True, exist_ok=True)
    told = {
        "stage": "a",
        "kind": kind,
        "config": config,
        "inputs": {
            role: {"type": type_, "name": role, "path": str(path)} for role, (type_, path) in inputs.items()
        },
        "outputs": {
            role: {"type": type_, "name": role, "path": str(path)} for role, (type_, path) in outputs.items()
        },
        "workdir": str(folder / "workdir"),
        "metrics": str(folder / "metrics.jsonl"),
        "progress": str(folder / "progress.jsonl"),
        "resumed": False,
        "isolation": True,
        "ahead": False,
        "search": list(search),
    }
    (folder / "stage.json").write_text(json.dumps(told), encoding="utf8")
    return folder / "stage.json"


def finished_run(run: Path, checkpoint: Path) -> Path:
    """What continue.yaml reads of a run."""
    for stage in ("evaluate-dev3", "evaluate-r1"):
        report = run / stage / "out" / "report"
        report.mkdir(parents=True)
        (report / "scores.json").touch()
    chats = run / "sft-mix" / "out" / "chats"
    chats.mkdir(parents=True)
    (chats / "rows.jsonl").write_text("{}\n", encoding="utf8")
    (run / "alignment-rl" / "out").mkdir(parents=True)
    (run / "alignment-rl" / "out" / "checkpoint").symlink_to(checkpoint)
    return run
