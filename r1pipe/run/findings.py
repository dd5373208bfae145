"""What a plan finds in the files that its stages will read: checkpoints and rows, told in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from r1pipe.config.yamltree import shorten
from r1pipe.errors import InputError
from r1pipe.run.checkpoint_checks import checkpoint_findings
from r1pipe.run.first_rows import row_findings
from r1pipe.run.plan import Plan
from r1pipe.text.checkpoint_contract import Finding
from r1pipe.text.collector import paused_collector


def findings_of(plan: Plan) -> list[Finding]:
    """What is to be said of the checkpoints and of the first rows that the stages to run will read."""
    # Of the rows all objects stay until the end, and thousands of them are made.
    with paused_collector():
        return [*checkpoint_findings(plan, plan.todo), *row_findings(plan)]


class Teller:
    """Says what is found, each thing once in a run, and refuses errors.

    Args:
        note: takes one sentence for each finding that is no error.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._said: set[str] = set()

    def tell(self, plan: Plan, findings: Iterable[Finding]) -> None:
        """Tell what is found of a plan.

        Raises:
            InputError: there is an error among the findings.
        """
        findings = list(findings)
        for finding in findings:
            # A checkpoint that was trained has what was said of the one that it was trained from.
            if finding.level != "error" and finding.what not in self._said:
                self._said.add(finding.what)
                self._note(str(finding))
        refuse_errors(plan, findings)


def refuse_errors(plan: Plan, findings: Iterable[Finding]) -> None:
    """Raise what must not run.

    Raises:
        InputError: there is an error among the findings; with all of them.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    if len(errors) == 1:
        raise InputError(errors[0].what, errors[0].where, errors[0].fix)
    lines = [str(error).replace("\n", "; ") for error in errors]
    raise InputError(
        f"{len(errors)} mistakes:\n" + "\n".join(lines),
        shorten(plan.pipeline.file.absolute()),
        "each line says where, what, and what to do; nothing was started",
    )
