"""runs/<run>/: what lies where, one driver at a time, and how an output becomes visible.

runs/<run>/config.json config_view.json summary.json .lock .digests.json .old/
           report.html report.md report.json samples.parquet
runs/<run>/<stage>/stage.json            what the worker reads; there as soon as the stage was started once
                   logs/attempt_n.log    what it printed
                   workdir/              what survives a kill; removed when the stage is published
                   out.partial/<port>/   being written
                   out/<port>/           published by one rename
                   metrics.jsonl responses.jsonl progress.jsonl notes.jsonl
                   tensorboard/ NAME.json   of trackers (tracking/)
                   manifest.json         written last: the stage is done
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from r1pipe.config.edges import CAPITALS
from r1pipe.errors import BusyError, ConfigError, InputError
from r1pipe.here import STARTS_AGAIN, TURN
from r1pipe.run.records import read_sealed, refuse_odd_files, sealed
from r1pipe.text.regular_files import open_regular

RUNS = Path("runs")
HEARTBEAT_S = 10.0  # how often the holder touches the lock
DEAD_AFTER_S = (
    60.0  # a lock of another machine, where flock may not reach, ends this long after its last touch
)
MIN_FREE_BYTES = 512 * 2**20  # with less, no stage is started (our choice)
TAIL_BYTES = 4096  # of a file that is being appended to, enough for its last line


# --- JSON on disk -----------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Write all of it or nothing: a reader never sees half a file."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write all of it or nothing, as `write_json`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("w", encoding="utf8") as stream:
        stream.write(text)
        stream.flush()
        # Without it, a crash of the machine may leave an empty file under the final name.
        os.fsync(stream.fileno())
    partial.replace(path)


def last_progress(path: Path) -> dict[str, Any] | None:
    """The last whole line of a progress.jsonl: `done`, `total`, `time` and what is shown. None where there is none."""
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            lines = stream.read().split(b"\n")
    except OSError:
        return None
    # What stands behind the last line break is still being written.
    for line in reversed(lines[:-1]):
        try:
            progress = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(progress, dict) and all(
            isinstance(progress.get(name), int | float) for name in ("done", "total", "time")
        ):
            return progress
    return None


# --- a stage ----------------------------------------------------------------------------------------------------------


class StageFolder:
    """One stage's folder inside a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stage_json = path / "stage.json"
        self.manifest_json = path / "manifest.json"
        self.result = path / "result.json"
        self.logs = path / "logs"
        self.workdir = path / "workdir"
        self.partial = path / "out.partial"
        self.out = path / "out"
        self.metrics = path / "metrics.jsonl"
        self.progress = path / "progress.jsonl"
        self.notes = path / "notes.jsonl"
        self.turn = path / TURN

    def manifest(self) -> dict[str, Any] | None:
        """The record of a stage that is done; None where it is not.

        Raises:
            InputError: there is one, and it is damaged.
        """
        return read_sealed(self.manifest_json)

    def record(self) -> dict[str, Any] | None:
        """What the stage was last started with; None where it never was.

        Raises:
            InputError: there is one, and it is damaged.
        """
        return read_sealed(self.stage_json)

    def log(self, attempt: int, rank: int = 0) -> Path:
        return self.logs / (f"attempt_{attempt}.log" if rank == 0 else f"attempt_{attempt}.rank{rank}.log")

    @property
    def attempts(self) -> int:
        """How often the stage was started."""
        # The logs of other ranks have a second dot in their names.
        numbers = [log.stem.removeprefix("attempt_") for log in self.logs.glob("attempt_*.log")]
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def begin(self, ports: list[str]) -> int:
        """Make the folders of an attempt and return its number; what an earlier attempt wrote to workdir stays.

        Raises:
            InputError: something lies there that is neither a file nor a folder.
        """
        if self.path.exists():
            refuse_odd_files(self.path)
        for folder in (self.logs, self.workdir):
            folder.mkdir(parents=True, exist_ok=True)
        # An `out` without a manifest: the driver died between the rename and the manifest.
        for leftover in (self.partial, self.out):
            if leftover.exists():
                shutil.rmtree(leftover)
        for port in ports:
            (self.partial / port).mkdir(parents=True)
        asked = self.workdir / STARTS_AGAIN
        for file in (self.result, self.progress, self.notes, self.turn, asked):
            file.unlink(missing_ok=True)
        for file in (*self.path.glob("error.*.json"), *self.path.glob("alive.*")):
            file.unlink(missing_ok=True)
        return self.attempts + 1

    def take_reason_to_start_again(self) -> str | None:
        """Why a stage that has ended asks to be started once more; None where it does not."""
        path = self.workdir / STARTS_AGAIN
        if not path.is_file():
            return None
        reason = path.read_text(encoding="utf8", errors="replace")
        path.unlink()
        return reason

    def publish(self, manifest: dict[str, Any]) -> None:
        """One rename makes the output visible; the manifest, last, makes the stage done."""
        self.partial.rename(self.out)
        write_json(self.manifest_json, sealed(manifest))
        shutil.rmtree(self.workdir, ignore_errors=True)
        for file in (self.result, self.turn, *self.path.glob("alive.*")):
            file.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove a first attempt that has made nothing: it refused its inputs, or its turn did not come."""
        worked = any(path.is_file() for path in self.workdir.rglob("*"))
        if self.manifest_json.exists() or self.attempts > 1 or worked:
            shutil.rmtree(self.partial, ignore_errors=True)
        else:
            shutil.rmtree(self.path)


def whole_manifest(folder: StageFolder) -> dict[str, Any]:
    """The manifest of a stage; {} where it is not done, or its manifest is damaged."""
    try:
        return folder.manifest() or {}
    except InputError:
        return {}


def outputs_of(folder: StageFolder) -> Iterator[tuple[dict[str, Any], Path]]:
    """The outputs in a stage's manifest, each with its folder; none where it is not done."""
    outputs = whole_manifest(folder).get("outputs", {})
    for output in outputs.values():
        yield output, folder.path / output["path"]


# --- a run ------------------------------------------------------------------------------------------------------------


class RunFolder:
    """One run's folder; a context manager that holds its lock."""

    def __init__(self, run: str, root: Path = RUNS) -> None:
        self.run = run
        self.path = (root / run).absolute()
        self._lock: Any = None
        self._beat = float("-inf")

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.path / name)

    def retire(self, name: str) -> Path:
        """Move a stage's folder to .old/; nothing is overwritten there."""
        old = self.path / ".old"
        old.mkdir(exist_ok=True)
        suffixes = [path.name.rpartition(".")[2] for path in old.glob(f"{name}.*")]
        number = 1 + max((int(suffix) for suffix in suffixes if suffix.isdigit()), default=0)
        target = old / f"{name}.{number}"
        (self.path / name).rename(target)
        return target

    def refuse_twin(self) -> None:
        """Refuse a new run whose name differs from that of an older one in capitals alone.

        Raises:
            ConfigError: there is one. On many disks (macOS, Windows) the two would be one folder.
        """
        runs = self.path.parent
        names = os.listdir(runs) if runs.is_dir() else []
        twins = [name for name in names if name.lower() == self.run.lower()]
        if twins and self.run not in twins:
            raise ConfigError(
                f"runs '{twins[0]}' and '{self.run}': {CAPITALS}",
                str(runs / twins[0]),
                f"--run {twins[0]} to go on with it, or another name",
            )

    def check_writable(self, need: int = 0) -> None:
        """Refuse before anything starts.

        Args:
            need: bytes that the stages are known to write, beside MIN_FREE_BYTES.

        Raises:
            InputError: the folder cannot be made or written, or the disk is nearly full.
        """
        # Permission bits do not tell (root, read-only mounts, quotas), so a file is written.
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe.{os.getpid()}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            what = f"the run folder cannot be written: {error.strerror}"
            raise InputError(
                what,
                str(self.path),
                "make it writable, or start from another folder",
            ) from None

        free = shutil.disk_usage(self.path).free
        wanted = MIN_FREE_BYTES + need
        if free < wanted:
            what = f"not enough disk space: {free / 2**20:,.0f} MiB free, at least {wanted / 2**20:,.0f} MiB needed"
            fix = "remove old results (runs/<run>/.old/ first), or start from a folder on another disk"
            raise InputError(what, str(self.path), fix)

    def __enter__(self) -> RunFolder:
        """Take the lock.

        Raises:
            BusyError: another driver holds it.
            InputError: something that is no file lies in its place.
        """
        path = self.path / ".lock"
        if not path.is_file() and os.path.lexists(path):
            raise InputError(".lock is in the way of the run: it is not a file", str(path), "remove it")
        stream = path.open("a+", encoding="utf8")
        holder = self._other_holder(stream, path)
        if holder is not None:
            stream.close()
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder.get("since", 0)))
            process = f"pid {holder.get('pid')} on {holder.get('host')}"
            what = f"another command works on the run '{self.run}': {process}, since {since}"
            fix = f"wait for it (`r1pipe status {self.run}` shows its progress), or start another run with --run NAME"
            raise BusyError(what, str(path), fix)

        self._lock = stream
        stream.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}, stream)
        stream.flush()
        return self

    def _other_holder(self, stream: Any, path: Path) -> dict[str, Any] | None:
        """Who else holds the lock; None if it is ours now.

        On one machine flock alone decides. A network file system may not pass flock on to other machines, so a lock
        that names another host counts until its holder has not touched it for a while.
        """
        holder = holder_in(stream)
        mine = socket.gethostname()
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return holder or {"pid": "?", "host": mine, "since": time.time()}
        if holder is None or holder.get("host") == mine:
            return None
        return None if _age_s(path) > DEAD_AFTER_S else holder

    def __exit__(self, *_: object) -> None:
        self._lock.truncate(0)
        self._lock.close()

    def beat(self) -> None:
        """Touch the lock now and then, so that other machines see that its holder lives.

        Raises:
            BusyError: another driver has taken the lock over, since this one did not touch it for long.
        """
        # Not by the time of day: after a step back it would not be touched for as long as the step.
        now = time.monotonic()
        if now - self._beat <= HEARTBEAT_S:
            return
        self._beat = now
        holder = holder_in(self._lock)
        if holder is not None and (holder["host"], holder["pid"]) != (socket.gethostname(), os.getpid()):
            raise BusyError(
                f"pid {holder['pid']} on {holder['host']} has taken over the run '{self.run}'",
                str(self.path / ".lock"),
                "let that one go on; this one was stopped for more than a minute, and leaves",
            )
        os.utime(self.path / ".lock")


def _age_s(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its file system: the machines' own clocks differ."""
    probe = path.with_name(f".now.{os.getpid()}")
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    return now - path.stat().st_mtime


def holder_in(stream: TextIO) -> dict[str, Any] | None:
    """Who wrote a lock: `pid`, `host` and `since`; None where it is empty or holds something else."""
    stream.seek(0)
    try:
        holder = json.loads(stream.read() or "null")
    except (ValueError, RecursionError):
        return None
    known = isinstance(holder, dict) and isinstance(holder.get("since"), int | float)
    return holder if known and {"pid", "host"} <= holder.keys() else None
