"""An update that does not fit into memory: once more, in passes of half the size, with the same batch.

    workdir/smaller_passes.json   [7]: memory ran out in update 7, so passes are halved once
    workdir/starts-again          why the driver starts the stage again by itself

The process leaves, and a new one goes on from a checkpoint. Then the memory is whole again, and ranks agree by
themselves: those that had enough wait in a collective that the one without will never enter, under DDP as under ZeRO.
A single process saves the state before the update first; several ranks go on from the last checkpoint.

accelerate's find_executable_batch_size, transformers' `auto_find_batch_size`, trains from the beginning again, and
with another batch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from accelerate.utils.memory import should_reduce_batch_size

from r1pipe.errors import StageError
from r1pipe.here import STARTS_AGAIN, Here
from r1pipe.training.checkpoints import read_record

# EX_TEMPFAIL of sysexits.h.
EXIT_CODE = 75

# How CUDA's libraries say it, beside the allocator of torch.
ALLOC_FAILED = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")

WAYS_OUT = (
    "shorter rows (max_length, max_tokens), gradient_checkpointing: true, or a smaller model\n"
    "profile: zero3 over more GPUs, or launch.offload: optimizer\n"
    "if another program uses the GPU (nvidia-smi), end it; the same command goes on from what was saved"
)


class OutOfMemory(Exception):
    """Memory ran out in the forward or backward pass of an update; the message says of what."""


@contextmanager
def noticing() -> Iterator[None]:
    """Within this, an error that says that memory ran out becomes OutOfMemory.

    It holds no traceback of the pass, whose frames hold the pass's tensors.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if not ran_out(error):
            raise
        reason = first_line(error)
    raise OutOfMemory(reason)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, Exception) and should_reduce_batch_size(error):
        return True
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in ALLOC_FAILED)


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


@contextmanager
def explained(doing: str, fix: str) -> Iterator[None]:
    """Within this, memory that runs out is the end of the stage: smaller passes would not help.

    Raises:
        StageError: it did.
    """
    try:
        yield
    except RuntimeError as error:
        if not ran_out(error):
            raise
        raise StageError(f"memory ran out while {doing}: {first_line(error)}", fix=fix) from error


def halved_at(here: Here) -> list[int]:
    """The updates for which passes were halved, each once, in this attempt and all that follow.

    Raises:
        InputError: the file that keeps them is damaged.
    """
    return read_record(here.workdir / "smaller_passes.json", here, _updates) or []


def _updates(record: Any) -> list[int]:
    if not isinstance(record, list) or any(type(update) is not int for update in record):
        raise ValueError(record)
    return record


def smaller(microbatch: int, accumulation: int, here: Here) -> tuple[int, int]:
    """Rows of a pass and passes of an update, as often halved as memory has run out.

    Where half of the rows do not divide the update, the next smaller number that does is taken.
    """
    share = microbatch * accumulation
    for _ in halved_at(here):
        divisors = [rows for rows in range(1, microbatch // 2 + 1) if microbatch % rows == 0]
        microbatch = max(divisors, default=1)
    return microbatch, share // microbatch


def smaller_tokens(tokens: int, here: Here) -> int:
    """Tokens of a pass, as often halved."""
    return max(1, tokens >> len(halved_at(here)))


def start_again(here: Here, *, update: int, halved: list[int], divisible: bool, reason: str) -> NoReturn:
    """Leave, and ask for passes of half the size. Ranks that run out at the same time write the same.

    Args:
        update: the one that did not fit.
        halved: `halved_at` when this attempt began.
        divisible: a pass holds more than one row.
        reason: what the library said.

    Raises:
        SystemExit: the driver starts the stage again.
        StageError: the update was tried with half the size already, or a pass is one row.
    """
    if not divisible or update in halved:
        size = "in passes of half the size, too" if update in halved else "where a pass is a single row"
        raise StageError(f"memory ran out in update {update}, {size}: {reason}", fix=WAYS_OUT)
    note = (
        f"memory ran out in update {update}, so it is made again in passes of half the size and with the same batch; "
        f"so are the updates after it ({reason})"
    )
    _write(here.workdir / "smaller_passes.json", json.dumps([*halved, update]), here)
    _write(here.workdir / STARTS_AGAIN, note, here)
    print(note, file=sys.stderr, flush=True)
    raise SystemExit(EXIT_CODE)


def _write(path: Path, text: str, here: Here) -> None:
    """All of it or nothing; each rank has a name of its own until then."""
    partial = path.with_name(f"{path.name}.{here.rank}")
    partial.write_text(text, encoding="utf8")
    partial.replace(path)
