"""The next training gets ready while an evaluation draws.

Until its first rollout or update a training imports, reads rows, loads weights and compiles layers, and the GPU has
nothing to do: 10 to 20 s of each training of a 0.5B model on an H200. An evaluation changes nothing that a training
reads. So the training's process is started beside it, and waits with all that behind it until the evaluation has ended.

It is done where there is room for both: on a GPU with memory for what both are planned to use, and with cores that do
not draw. What comes out is the same as one after the other. A training that fails before its turn is forgotten, and
starts again in its turn.

R1PIPE_AHEAD=0 runs without it; with R1PIPE_AHEAD=always the room is not looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

from r1pipe.config.loader import Stage
from r1pipe.config.machine import cpu_cores
from r1pipe.errors import R1PipeError
from r1pipe.launch.launcher import Launcher
from r1pipe.run.attempts import Attempt, begin_attempt
from r1pipe.run.plan import Plan

# Of the GPU's memory, what both stages are planned to use at most (our choice).
SHARE_OF_MEMORY = 0.8
# The evaluation draws with two threads, and a training compiles with many (our choice).
LEAST_CORES = 4


class Ahead:
    """Begins stages, at most one of them before its turn; a context manager that ends it if its turn does not come.

    Args:
        launcher: starts it.
        isolated: code can be executed in isolation on this machine.
        planned: stage -> what was planned for it.
    """

    def __init__(
        self,
        plan: Plan,
        launcher: Launcher,
        *,
        isolated: bool,
        planned: Mapping[str, dict[str, float]],
    ) -> None:
        self._plan = plan
        self._launcher = launcher
        self._isolated = isolated
        self._planned = planned
        self._attempt: Attempt | None = None
        self._looked_beside = ""

    def __enter__(self) -> Ahead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()

    def start_beside(self, running: Stage) -> None:
        """Start the next stage if it can get ready beside this one; cheap to call again."""
        if self._looked_beside == running.name:
            return
        self._looked_beside = running.name
        stage = self._next(running)
        if stage is None or not self._launcher.can_start_ahead(stage.config.launch):
            return
        wanted = os.environ.get("R1PIPE_AHEAD", "1")
        if wanted == "0":
            return
        both = (self._planned.get(name, {}) for name in (running.name, stage.name))
        if wanted != "always" and not room_for_both(*both):
            return
        # What is wrong with it is said in its turn.
        with suppress(R1PipeError):
            self._attempt = attempt = self._begin(stage, ahead=True)
            log = attempt.folder.log(attempt.number)
            self._launcher.start_ahead(stage.config.launch, attempt.folder.stage_json, log)

    def attempt(self, stage: Stage) -> Attempt:
        """The attempt of a stage whose turn has come: the one that was started ahead, else a new one.

        Raises:
            InputError: as begin_attempt.
        """
        attempt = self._attempt
        if attempt is not None and attempt.stage is stage:
            if self._launcher.waits(attempt.folder.stage_json):
                self._attempt = None
                attempt.record["ahead_s"] = round(time.monotonic() - attempt.began, 3)
                attempt.folder.turn.touch()
                return attempt
            self._forget()
        return self._begin(stage)

    def _begin(self, stage: Stage, *, ahead: bool = False) -> Attempt:
        predicted = self._planned.get(stage.name)
        return begin_attempt(self._plan, stage, isolated=self._isolated, predicted=predicted, ahead=ahead)

    def _next(self, running: Stage) -> Stage | None:
        """The stage behind this one, if it can get ready beside it and reads nothing that is still to be made."""
        plan = self._plan
        behind = plan.todo[plan.todo.index(running.name) + 1 :]
        if not running.kind.Config.lets_get_ready or not behind:
            return None
        stage = plan.pipeline.stages[behind[0]]
        if stage.use or not stage.kind.Config.gets_ready:
            return None
        makers = {edge.stage for _, edge in stage.edges() if edge.origin == "stage"}
        return stage if all(plan.states[maker].state == "done" for maker in makers) else None

    def _forget(self) -> None:
        self._launcher.end_ahead()
        if self._attempt is not None:
            self._attempt.folder.discard()
            self._attempt = None


def room_for_both(planned: Mapping[str, float], planned_beside: Mapping[str, float]) -> bool:
    """Whether two stages fit beside each other on this machine's GPU, with cores for both."""
    # Loaded late: it asks the driver of the GPU.
    from r1pipe.run.planning.cards import GIB
    from r1pipe.run.planning.figure_plan import this_card

    if "memory_gib" not in planned or "memory_gib" not in planned_beside or cpu_cores() < LEAST_CORES:
        return False
    card = this_card()
    both = planned["memory_gib"] + planned_beside["memory_gib"]
    return card is not None and both * GIB <= SHARE_OF_MEMORY * card.memory
