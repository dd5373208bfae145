"""A running stage's surroundings: where it may write, which rank it is, how it reports its progress."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SAVES_WHEN_STOPPED = "saves-when-stopped"
"""A file in a stage's workdir while it answers SIGTERM with a checkpoint: the driver then waits for it."""

STARTS_AGAIN = "starts-again"
"""A file in the workdir of a stage that ended and shall be started once more; it says why, in one line."""

RESPONSES = "responses.jsonl"
"""A file beside metrics.jsonl: responses of a training, some at a time."""

TURN = "turn"
"""A file in the folder of a stage that was started before its turn; there once its turn has come."""

SIGN_EVERY_S = 1.0
LOOK_FOR_TURN_EVERY_S = 0.02
_sign: Path | None = None
_signed = 0.0


def sign_with(path: Path) -> None:
    """From now on, `alive` touches this file."""
    global _sign
    _sign = path


def alive() -> None:
    """A sign of life, for work that writes nothing for a long time: see `hang_minutes` of the launch block.

    At most one a second reaches the disk, so it is cheap to call in every step.
    """
    global _signed
    now = time.monotonic()
    if _sign is not None and now - _signed > SIGN_EVERY_S:
        _signed = now
        _sign.touch()


@dataclass
class Here:
    """Handed to every stage's run().

    Attributes:
        stage: its name in the YAML.
        workdir: survives a kill, for work that is half done; removed when the stage is published.
        metrics_path: metrics.jsonl; one JSON object a line, with `step` where there is one.
        progress_path: progress.jsonl; the console shows its last line.
        rank, world_size: of this process; only rank 0 writes artifacts and metrics.
        resumed: an earlier attempt left something in workdir.
        profile: how the ranks share the training: the `profile` of the stage's launch block.
        optimizer_on_cpu: the optimizer's states lie in CPU memory (the launch block's `offload`).
        isolation: code can be executed in isolation on this machine; if False, rows of the domain `code` are left out.
        hang_minutes: the `hang_minutes` of the stage's launch block.
        turn: of a stage that was started before its turn, the file that says that it has come.
        launched: how a trainer was spread over devices (world size, microbatch, accumulation, ...), for the manifest.
    """

    stage: str
    workdir: Path
    metrics_path: Path
    progress_path: Path
    rank: int = 0
    world_size: int = 1
    resumed: bool = False
    profile: str = "process"
    optimizer_on_cpu: bool = False
    isolation: bool = True
    hang_minutes: float | None = None
    turn: Path | None = None
    launched: dict[str, Any] = field(default_factory=dict)
    _shown: float = field(default=float("-inf"), repr=False)

    @property
    def main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def distributed(self) -> bool:
        """Whether the launcher set up a process group.

        It also does so for a single rank, unless the profile is `process`.
        """
        return self.profile != "process" or self.world_size > 1

    @property
    def sharded_weights(self) -> bool:
        """Whether this rank holds only a part of the weights, and gathers each layer's where they are needed."""
        return self.profile in ("zero3", "fsdp2")

    def wait_for_turn(self) -> None:
        """Return when the stages before this one have ended.

        A stage whose Config says `gets_ready` may be started beside an evaluation. It calls this when all is loaded
        and compiled, before it uses the device for long or takes what memory is free.
        """
        while self.turn is not None and not self.turn.exists():
            alive()
            time.sleep(LOOK_FOR_TURN_EVERY_S)

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl (rank 0)."""
        if self.main:
            _append(self.metrics_path, metrics)

    def show(self, step: int, responses: list[dict[str, Any]]) -> None:
        """Append some responses of an update to responses.jsonl (rank 0).

        Args:
            responses: `prompt`, `response`, `reward` and `rewards` {name: value} of each.
        """
        if self.main:
            _append(self.metrics_path.with_name(RESPONSES), {"step": step, "responses": responses})

    def forget(self, step: int) -> None:
        """Remove the lines of updates after `step`, which will be made again (rank 0).

        What a rollback has led to stays, as does a line that belongs to no update.
        """
        if not self.main:
            return
        for path in (self.metrics_path, self.metrics_path.with_name(RESPONSES)):
            if path.is_file():
                _keep_until(step, path)

    def note(self, text: str) -> None:
        """Append one line that the console shows while the stage runs (rank 0)."""
        if self.main:
            with self.metrics_path.with_name("notes.jsonl").open("a", encoding="utf8") as stream:
                stream.write(json.dumps({"note": text}) + "\n")

    def progress(self, done: int, total: int, **shown: float | str) -> None:
        """Report how much is done (rank 0).

        At most ten calls a second reach the file, so it is cheap to call for every row. The last call always does.
        """
        alive()
        # Not by the time of day, which may step back.
        now = time.monotonic()
        due = now - self._shown > 0.1 or done >= total
        if self.main and due:
            self._shown = now
            line = {"time": round(time.time(), 3), "done": done, "total": total, **shown}
            with self.progress_path.open("a", encoding="utf8") as stream:
                stream.write(json.dumps(line) + "\n")


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf8") as stream:
        stream.write(json.dumps({"time": round(time.time(), 3), **record}) + "\n")


def _keep_until(step: int, path: Path) -> None:
    kept = []
    for line in path.read_text(encoding="utf8").splitlines(keepends=True):
        # A kill may have cut the last line.
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(record, dict):
            continue
        made = record.get("step", -1)
        if not isinstance(made, int | float) or made <= step or record.get("action") == "rollback":
            kept.append(line)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf8")
    partial.replace(path)
