"""From a failed stage's exit codes and files to the error that the user sees."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from r1pipe import errors
from r1pipe.config.yamltree import shorten
from r1pipe.errors import R1PipeError, StageError
from r1pipe.run.store import StageFolder, read_json

TAIL_LINES = 15


def explain(stage: str, folder: StageFolder, attempt: int, codes: Sequence[int]) -> R1PipeError:
    """The worker's own error if it left one, else a StageError with the log's last lines."""
    for file in sorted(folder.path.glob("error.*.json"), key=lambda path: int(path.suffixes[0][1:])):
        told = read_json(file)
        if told is not None:
            kind = getattr(errors, told["class"], StageError)
            where = f"stage {stage}" + (f", {told['where']}" if told["where"] not in ("", stage) else "")
            where = where.replace(f", {stage}: ", ", ")  # a stage that names itself
            return kind(told["what"], where, told["fix"])
    # the rank that failed first is rarely rank 0; those we ended ourselves carry SIGTERM
    rank = next(
        (r for r, code in enumerate(codes) if code not in (0, -signal.SIGTERM, 128 + signal.SIGTERM)),
        next(r for r, code in enumerate(codes) if code),
    )
    code, log = codes[rank], folder.log(attempt, rank)
    ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
    fix = "run again: it goes on from what it saved"
    if code == -signal.SIGKILL:
        fix = (
            "SIGKILL is most often the kernel running out of memory: smaller batches, fewer ranks, or more memory; "
            + fix
        )
    tail = _tail(log)
    what = f"stage {stage} {ended}" + (f" on rank {rank}" if len(codes) > 1 else "") + (":\n" + tail if tail else "")
    return StageError(what, shorten(log), fix)


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, stream.seek(0, 2) - 16384))
            lines = stream.read().decode("utf8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line[:300] for line in lines if line.strip()][-TAIL_LINES:])
