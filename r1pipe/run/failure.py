"""From a failed stage's exit codes and files to the error that the user sees."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import r1pipe
from r1pipe import errors
from r1pipe.config.registry import Kind
from r1pipe.config.yamltree import shorten
from r1pipe.errors import R1PipeError, StageError, UserCodeError
from r1pipe.run.records import read_object
from r1pipe.run.store import StageFolder

OWN_FOLDER = Path(r1pipe.__file__).parent
TAIL_LINES = 15
TAIL_BYTES = 16384
LINE_CHARACTERS = 300


def explain(
    stage: str,
    folder: StageFolder,
    attempt: int,
    codes: Sequence[int],
) -> R1PipeError:
    """The worker's own error if it left one, else a StageError with the log's last lines."""
    own = _own_error(stage, folder)
    if own is not None:
        return own

    rank = _first_to_fail(codes)
    code = codes[rank]
    log = folder.log(attempt, rank)
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
    if code == 128 + signal.SIGTERM:
        ended = "was ended by SIGTERM"
    what = f"stage {stage} {ended}"
    if len(codes) > 1:
        what += f" on rank {rank}"
    tail = _tail(log)
    if tail:
        what += f"; the last lines of its log:\n{tail}"

    fix = "the log has everything it printed; the same command again goes on from what the stage has saved"
    if code == -signal.SIGKILL:
        memory = "SIGKILL mostly means that the machine ran out of memory: use smaller batches or fewer ranks"
        fix = f"{memory}\n{fix}"
    return StageError(what, shorten(log), fix)


def mistake_of(kind: Kind, what: str, fix: str) -> R1PipeError:
    """The error that a kind of stage does not keep the contract of stages: the user's mistake where it is theirs."""
    if kind.source.is_relative_to(OWN_FOLDER):
        return StageError(what, kind.module.__name__, fix)
    return UserCodeError(what, str(kind.source), fix)


def _own_error(stage: str, folder: StageFolder) -> R1PipeError | None:
    """The error of the lowest rank that wrote one (error.<rank>.json)."""
    for file in sorted(folder.path.glob("error.*.json"), key=lambda path: int(path.suffixes[0][1:])):
        record = read_object(file)
        if not {"class", "what", "where", "fix"} <= record.keys():
            continue
        where = f"stage {stage}"
        if record["where"] not in ("", stage):
            # A stage may name itself; once is enough.
            where += f", {record['where'].removeprefix(f'{stage}: ')}"
        # A class that a user's own stage defines is not in r1pipe.errors.
        kind = getattr(errors, record["class"], StageError)
        return kind(record["what"], where, record["fix"])
    return None


def _first_to_fail(codes: Sequence[int]) -> int:
    """The rank that failed by itself, which is rarely rank 0. Those that we ended carry SIGTERM."""
    failed = [rank for rank, code in enumerate(codes) if code]
    by_itself = [rank for rank in failed if codes[rank] not in (-signal.SIGTERM, 128 + signal.SIGTERM)]
    return (by_itself or failed)[0]


def _tail(log: Path) -> str:
    """The last lines that say something; long ones cut."""
    try:
        with log.open("rb") as stream:
            # Only the end is read: the log of a long training may have gigabytes.
            stream.seek(max(0, stream.seek(0, 2) - TAIL_BYTES))
            lines = stream.read().decode("utf8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line[:LINE_CHARACTERS] for line in lines if line.strip()][-TAIL_LINES:])
