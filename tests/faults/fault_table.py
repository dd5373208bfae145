"""Which fault in which kind of stage: one line a case, and docs/faults.md, which is made of them.

    python tests/faults/fault_table.py > docs/faults.md

A case is a test in which a fault of this sort is done to this kind of stage. Kills of trainings and of data stages are
read from the tables of their tests; the others stand in cases.txt. test_table.py looks whether each test is there, and
whether the page is that of these cases.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [*(str(TESTS / name) for name in ("", "training", "stages", "faults")), str(TESTS.parent)]

from killed_runs import KINDS as DATA_KINDS  # noqa: E402
from resume_on_gpu import PLACES as GPU_PLACES  # noqa: E402
from test_exact_resume import PLACES  # noqa: E402
from without_protection import seen  # noqa: E402

RESUME = "training/test_exact_resume.py::test_"
ON_A_GPU = "training/test_resume_on_gpu.py::test_stopped_anywhere_it_ends_the_same"
TEN_PLACES = "stages/test_data_stages_killed.py::test_killed_at_ten_places_it_publishes_the_same"
# Of the tests' parameters: the checkpoint whose borders are taken, and the last update.
BORDERS = {"sft": 4, "grpo": 6, "pairwise": 4, "pointwise": 4, "dpo": 4, "pretrain": 6}
LAST_UPDATES = {"sft": 7, "grpo": 8, "pairwise": 8, "pointwise": 8, "dpo": 8, "pretrain": 10}
SINCE = "the updates since the last checkpoint"
NOTHING = "nothing"

INTRODUCTION = """# Faults

What was done to which kind of stage, what has to be done again afterwards, and the test that shows it: {count} cases,
made by `tests/faults/fault_table.py`. Where something goes on, its result equals that of a run that nobody disturbed,
bit for bit on a CPU. `make test` has those that take seconds, `make slow` all of them, `pytest -m fault` these alone:
30 minutes on two cores with other work beside (2026-11-30, 9740360). Those of a GPU need one.

Where memory runs out in an update, the stage says so, starts again by itself and makes that update and those after it
in passes of half the size, with the same batch. A single process goes on from the state before the update, several
ranks from the last checkpoint. An update that does not fit then either ends the stage.

A stage that gives no sign of life for `launch.hang_minutes` is ended, and the stacks of all its ranks are in its logs.

A vLLM server that gives no answers any more ends a training with the reason, and what was done before that rollout is
saved. vLLM in the training's own process ends with it, as a kill of the rank does.

`tests/faults/without_protection.py` runs a case's test with its protection switched off (`protections.txt` says which
function that is), in all processes that the test starts, and the test must then fail. {shown} cases were seen failing
in this way, and the last column says which: what each test said, and the seconds that it took on a busy machine, stand
in `seen.txt`. Not shown are those of a GPU and of Ray, where neither was at hand.

`tests/faults/soak.py` kills a whole recipe of all kinds of stages at random moments: of the driver, of one process, of
all. 200 kills over two runs changed no weight, row or score; a kill cost 4.3 s (median), 21.9 s at most (2026-11-30,
454389c, two cores).

| fault | kind | to be done again | test, below `tests/` | fails without its protection |
| --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Case:
    """A fault in a kind of stage.

    Attributes:
        kind: the training, or the kind of data stage; or what has the fault, whatever the stage.
        lost: what has to be done again.
        test: file::function, with the parameter in brackets where it is one of several.
    """

    fault: str
    kind: str
    lost: str
    test: str


def cases() -> list[Case]:
    """All cases, in the order of the page."""
    return [*killed(), *written()]


def killed() -> Iterator[Case]:
    """What the tables of the tests hold."""
    for kind, places in PLACES.items():
        for place in places:
            test = f"{RESUME}killed_anywhere_it_ends_the_same[{kind}-{place}]"
            yield Case(f"kill -9 {place}", kind, SINCE, test)
    for kind, step in BORDERS.items():
        test = f"{RESUME}killed_at_each_file_border_of_a_checkpoint_it_ends_the_same[{kind}-{step}]"
        yield Case("kill -9 at each file border of a checkpoint", kind, SINCE, test)
    for kind, update in LAST_UPDATES.items():
        test = f"{RESUME}killed_when_the_last_update_was_saved_it_makes_no_further_one[{kind}-{update}]"
        yield Case("kill -9 between the last checkpoint and the end", kind, NOTHING, test)
    for kind in ("sft", "grpo"):
        test = f"{RESUME}a_signal_makes_a_checkpoint_of_the_last_update[{kind}]"
        yield Case("SIGTERM", kind, NOTHING, test)
    for place in GPU_PLACES:
        lost = NOTHING if "SIGTERM" in place else SINCE
        yield Case(f"on a GPU: {place}", "grpo", lost, f"{ON_A_GPU}[{place}]")
    for kind in DATA_KINDS:
        yield Case("kill -9 at ten places", kind, "what was not in the journal", f"{TEN_PLACES}[{kind}]")


def written() -> Iterator[Case]:
    """The lines of cases.txt."""
    for line in Path(__file__).with_name("cases.txt").read_text(encoding="utf8").splitlines():
        fault, kind, lost, test = line.split(" | ")
        yield Case(fault, kind, lost, test)


def page() -> str:
    """docs/faults.md."""
    found = cases()
    failing = {test for test, told in seen().items() if told.what == "fails"}
    lines = []
    for case in found:
        shown = "seen" if case.test in failing else ""
        lines.append(f"| {case.fault} | {case.kind} | {case.lost} | `{case.test}` | {shown} |")
    count = sum(case.test in failing for case in found)
    return INTRODUCTION.format(count=len(found), shown=count) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
