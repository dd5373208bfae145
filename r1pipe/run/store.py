"""runs/<run>/: what lies where, one driver at a time, and how an output becomes visible.

runs/<run>/config.json summary.json .lock .digests.json .old/
runs/<run>/<stage>/stage.json            what the worker was told; there as soon as the stage was started once
                   logs/attempt_n.log    what it printed
                   workdir/              what survives a kill; removed when the stage is published
                   out.partial/<port>/   being written
                   out/<port>/           published by one rename
                   metrics.jsonl progress.jsonl notes.jsonl
                   manifest.json         written last: the stage is done
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from r1pipe.errors import BusyError, InputError

RUNS = Path("runs")
HEARTBEAT_S = 10.0  # how often the holder touches the lock
DEAD_AFTER_S = (
    60.0  # a lock from another machine, where flock may not reach, counts as held this long after its last touch
)
MIN_FREE_BYTES = 512 * 2**20  # below this no stage is started (our choice)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: a reader never sees half a file."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf8") as stream:
        json.dump(value, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    """The value, or None where there is no such file or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def last_line(path: Path, tail: int = 4096) -> dict[str, Any] | None:
    """The last complete JSON line of a file that is being appended to."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - tail))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None


class StageFolder:
    """One stage's folder inside a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stage_json, self.manifest_json = path / "stage.json", path / "manifest.json"
        self.workdir, self.out, self.partial, self.logs = (
            path / "workdir",
            path / "out",
            path / "out.partial",
            path / "logs",
        )
        self.metrics, self.progress, self.notes = path / "metrics.jsonl", path / "progress.jsonl", path / "notes.jsonl"
        self.result = path / "result.json"

    def error(self, rank: int) -> Path:
        return self.path / f"error.{rank}.json"

    def log(self, attempt: int, rank: int = 0) -> Path:
        return self.logs / (f"attempt_{attempt}.log" if rank == 0 else f"attempt_{attempt}.rank{rank}.log")

    @property
    def attempts(self) -> int:
        """How often the stage was started."""
        return max((int(p.stem.split("_")[1]) for p in self.logs.glob("attempt_*.log") if "." not in p.stem), default=0)

    def begin(self, ports: list[str]) -> int:
        """Make the folders of an attempt and return its number; what an earlier attempt wrote to workdir stays."""
        for folder in (self.logs, self.workdir):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in (self.partial, self.out):  # out without a manifest: the driver died between rename and manifest
            if leftover.exists():
                shutil.rmtree(leftover)
        for port in ports:
            (self.partial / port).mkdir(parents=True)
        for file in (self.result, self.progress, self.notes, *self.path.glob("error.*.json")):
            file.unlink(missing_ok=True)
        return self.attempts + 1

    def publish(self, manifest: dict[str, Any]) -> None:
        """One rename makes the output visible; the manifest, last, makes it done."""
        self.partial.rename(self.out)
        write_json(self.manifest_json, manifest)
        shutil.rmtree(self.workdir, ignore_errors=True)
        self.result.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove a first attempt that refused its input before it had made anything."""
        if self.manifest_json.exists() or self.attempts > 1 or any(p.is_file() for p in self.workdir.rglob("*")):
            shutil.rmtree(self.partial, ignore_errors=True)
            return
        shutil.rmtree(self.path)


class RunFolder:
    """One run's folder; a context manager that holds its lock."""

    def __init__(self, run: str, root: Path = RUNS) -> None:
        self.run, self.path = run, (root / run).absolute()
        self._lock: Any = None
        self._beat = 0.0

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.path / name)

    def retire(self, name: str) -> Path:
        """Move a stage's folder to .old/; nothing is overwritten there."""
        old = self.path / ".old"
        old.mkdir(exist_ok=True)
        number = 1 + max(
            (int(p.name.rpartition(".")[2]) for p in old.glob(f"{name}.*") if p.name.rpartition(".")[2].isdigit()),
            default=0,
        )
        target = old / f"{name}.{number}"
        (self.path / name).rename(target)
        return target

    def check_writable(self, need: int = 0) -> None:
        """Refuse before anything starts.

        Args:
            need: bytes that the stages are known to want, beside MIN_FREE_BYTES.

        Raises:
            InputError: the folder cannot be made or written, or the disk is nearly full.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe.{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"the run folder cannot be written: {error.strerror}",
                str(self.path),
                "free it, or start from another folder",
            ) from None
        free, wanted = shutil.disk_usage(self.path).free, MIN_FREE_BYTES + need
        if free < wanted:
            what = f"no disk space: {free / 2**20:,.0f} MiB free, at least {wanted / 2**20:,.0f} MiB wanted"
            raise InputError(
                what, str(self.path), "remove old runs (runs/<run>/.old/ first), or start from a folder on another disk"
            )

    def __enter__(self) -> RunFolder:
        """Take the lock.

        Raises:
            BusyError: another driver holds it.
        """
        path = self.path / ".lock"
        stream = path.open("a+", encoding="utf8")
        stream.seek(0)
        held: dict[str, Any] | None = None
        try:
            held = json.loads(stream.read() or "null")
        except ValueError:
            held = None
        mine = socket.gethostname()
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held = held or {"pid": "?", "host": mine, "since": time.time()}
        else:
            if held and (held.get("host") == mine or time.time() - path.stat().st_mtime > DEAD_AFTER_S):
                held = None  # its driver is gone: the kernel let go of the lock, or nobody touched it any more
        if held:
            stream.close()
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(held.get("since", 0)))
            what = f"another driver works on the run '{self.run}': pid {held.get('pid')} on {held.get('host')}, since {since}"
            raise BusyError(
                what,
                str(path),
                f"wait for it, or start another with --run NAME; `r1pipe status {self.run}` shows how far it is",
            )
        self._lock = stream
        stream.truncate(0)
        json.dump({"pid": os.getpid(), "host": mine, "since": time.time()}, stream)
        stream.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.truncate(0)
        self._lock.close()

    def beat(self) -> None:
        """Touch the lock now and then, so that other machines see that its holder lives."""
        if time.time() - self._beat > HEARTBEAT_S:
            self._beat = time.time()
            os.utime(self.path / ".lock")
