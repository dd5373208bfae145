"""Every error that a user can cause, as one small tree.

R1PipeError                 exit code 2, shown as one panel: what is wrong, where, what to do
├── ConfigError             the YAML or --set is wrong (may carry several problems at once)
├── InputError              a file, column, row or checkpoint that a stage reads is wrong
├── StaleError              a finished or partial stage no longer matches the config
├── BusyError               another command works on the run
├── MissingToolError        something the config requires is not installed
├── UserCodeError           a function or stage of the user's own failed; what was saved before stays
├── GateError               a limit that the config declares was not met (exit code 1)
│   ├── GuardError          a guard stopped a training run (exit code 1)
│   └── BudgetError         a budget of tokens or money is used up (exit code 1)
└── StageError              a stage's process failed (exit code 3)

Our own impossibilities are asserts; ignored configuration is a warning.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OWN_FOLDER = str(Path(__file__).parent)


class R1PipeError(Exception):
    """A mistake that we can explain.

    Args:
        what: one sentence: what is wrong.
        where: file:line, stage, row or path; empty where there is none.
        fix: what the user can do about it, the likeliest first, one way a line.
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"where: {self.where}")
        if self.fix:
            lines.append(f"fix: {self.fix}")
        return "\n".join(lines)


class ConfigError(R1PipeError, ValueError):
    """The configuration is wrong."""


class InputError(R1PipeError, ValueError):
    """What a stage reads is wrong."""


class StaleError(R1PipeError):
    """A stage on disk was made from another config or other inputs."""


class BusyError(R1PipeError):
    """Another command works on this run."""


class MissingToolError(R1PipeError):
    """A program or package that the config requires is not installed."""


class UserCodeError(R1PipeError):
    """A function or a stage of the user's own failed; what the stage has saved so far stays."""


class GateError(R1PipeError):
    """A limit that the config declares was not met."""

    exit_code = 1


class GuardError(GateError):
    """A guard stopped a training run; what it has saved so far stays."""


class BudgetError(GateError):
    """A budget is used up; what was paid for stays, and with a larger budget the stage goes on from there."""


class StageError(R1PipeError):
    """A stage's process ended with an error."""

    exit_code = 3


def place_in_users_code(error: BaseException) -> str:
    """file:line of the user's code that raised an error, itself or in a library that it called.

    Empty where r1pipe's own code raised it, or none of the user's was running.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    libraries = (sysconfig.get_path("stdlib"), "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "-packages" in frame.filename or frame.filename.startswith(libraries):
            continue
        if frame.filename.startswith(_OWN_FOLDER):
            return ""
        return f"{frame.filename}:{frame.lineno}"
    return ""
