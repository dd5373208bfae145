"""An attempt at a stage, from its folders to the file that its workers read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from r1pipe.config.loader import Stage
from r1pipe.run.inputs import locate_inputs
from r1pipe.run.manifest import stage_record
from r1pipe.run.plan import Plan
from r1pipe.run.records import sealed
from r1pipe.run.store import StageFolder, write_json


@dataclass
class Attempt:
    """One start of a stage.

    Attributes:
        number: the first is 1.
        record: stage.json.
        earlier_s: what the attempts before it took.
        began: when it was made, by a clock that nobody sets.
    """

    stage: Stage
    folder: StageFolder
    number: int
    record: dict[str, Any]
    earlier_s: float
    began: float = field(default_factory=time.monotonic)

    def write(self, **changed: Any) -> None:
        """Write stage.json, with these fields changed."""
        self.record |= changed
        write_json(self.folder.stage_json, sealed(self.record))

    def begin_again(self) -> None:
        """Make the next attempt of it, in its turn."""
        self.number = self.folder.begin(list(self.stage.outputs))
        self.write(attempt=self.number, resumed=True, ahead=False)


def begin_attempt(
    plan: Plan,
    stage: Stage,
    *,
    isolated: bool,
    predicted: dict[str, float] | None,
    ahead: bool = False,
) -> Attempt:
    """Make a stage's folders and its stage.json.

    Args:
        isolated: code can be executed in isolation on this machine.
        predicted: what was planned for the stage, for the record.
        ahead: it is started before its turn.

    Raises:
        InputError: a published input is not what was published, or something odd lies in the stage's folder.
    """
    folder = plan.folder.stage(stage.name)
    inputs, read = locate_inputs(plan, stage)
    earlier_s = (folder.record() or {}).get("wall_s", 0.0)
    number = folder.begin(list(stage.outputs))
    record = stage_record(plan, stage, folder, inputs, read, isolated=isolated, ahead=ahead)
    attempt = Attempt(stage, folder, number, record, earlier_s)
    attempt.write(attempt=number, wall_s=earlier_s, predicted=predicted or {})
    return attempt
