"""Whose names the tests see, and that no sandbox outlives the process that started it."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from r1pipe.rewards import bubblewrap, isolation
from r1pipe.rewards.code import code
from r1pipe.rewards.remote import _harness_input
from r1pipe.rewards.sandbox import CodeJob
from tests.public_rows import fenced, load
from tests.rewards.test_sandbox import needs_isolation, run

pytestmark = needs_isolation

# Tests that use a builtin beside the function under test, as many of HumanEval's do.
BUILTIN_TESTS = {
    "abs": "assert abs(candidate(3) - 4) < 1e-6",
    "range": "for i in range(3):\n        assert candidate(i) == i + 1",
    "len": "assert len(str(candidate(99))) == 3",
    "print": "print(candidate(1)); assert candidate(1) == 2",
    "str": "assert str(candidate(1)) == '2'",
    "sorted": "assert sorted([candidate(2), candidate(1)]) == [2, 3]",
    "all": "assert all(candidate(i) == i + 1 for i in (1, 2))",
    "any": "assert not any(candidate(i) != i + 1 for i in (1, 2))",
    "sum": "assert sum([candidate(1), candidate(2)]) == 5",
    "set": "assert set([candidate(1)]) == set([2])",
    "list": "assert list(map(candidate, [1, 2])) == [2, 3]",
    "isinstance": "assert isinstance(candidate(1), int) and candidate(1) == 2",
    "round": "assert round(candidate(1), 3) == 2",
    "zip": "for a, b in zip([1, 2], [2, 3]):\n        assert candidate(a) == b",
}
# What a program may make of them: each would let wrong values pass in one of the tests above.
FORGERIES = ("lambda *a, **k: 0", "lambda *a, **k: []", "lambda *a, **k: True", "lambda *a, **k: 1 / 0")


@pytest.mark.parametrize("name", BUILTIN_TESTS)
def test_builtins_are_the_interpreters_in_tests_that_name_nothing_else(name: str) -> None:
    """`def abs(x): return 0` passed HumanEval/2's own test; a `range` that raises gave None."""
    tests = {"kind": "check", "code": f"def check(candidate):\n    {BUILTIN_TESTS[name]}"}
    for forgery in FORGERIES:
        wrong = f"{name} = {forgery}\ndef f(x): return 7"
        assert run(wrong, tests, "f") == 0.0, forgery
    right = f"{name} = {FORGERIES[0]}\ndef f(x): return x + 1"
    assert run(right, tests, "f") == 1.0, "a harmless name costs nothing"


def test_every_builtin_of_the_interpreter_at_once() -> None:
    names = [
        name for name in dir(builtins) if not name.startswith("_") and name not in ("None", "True", "False")
    ]
    program = "\n".join(f"{name} = lambda *a, **k: 0" for name in names) + "\ndef f(x): return 7"
    for source in BUILTIN_TESTS.values():
        assert run(program, {"kind": "check", "code": f"def check(candidate):\n    {source}"}, "f") == 0.0


def test_humaneval_2_with_an_abs_of_its_own() -> None:
    row = next(row for row in load("humaneval") if row["id"].endswith("/2"))
    program = "def abs(x): return 0\ndef truncate_number(number): return 0.5"
    columns = {name: [row[name]] for name in ("tests", "entry_point", "prompt")}
    assert code([fenced(program)], **columns) == [0.0]


def test_a_questions_own_helper_is_not_the_programs() -> None:
    """HumanEval/32 checks the root with `poly`, which the question defines and a program may define again."""
    row = next(row for row in load("humaneval") if row["id"].endswith("/32"))
    columns = {name: [row[name]] for name in ("tests", "entry_point", "prompt")}
    forged = "def poly(xs, x): return 0\ndef find_zero(xs): return 1"
    assert code([fenced(forged)], **columns) == [0.0]
    assert code([fenced(row["prompt"] + row["solution"])], **columns) == [1.0]


def test_a_programs_helper_that_fails_is_a_failure_and_not_broken_tests() -> None:
    tests = {
        "kind": "check",
        "code": "EXPECTED = helper(1)\ndef check(candidate):\n    assert candidate(1) == 2",
    }
    assert run("def helper(x): raise ValueError\ndef f(x): return 2", tests, "f") == 0.0
    assert run("def f(x): return 2", tests, "f") == 0.0


@pytest.mark.parametrize(
    "error", ["StopIteration", "StopAsyncIteration", "GeneratorExit", "KeyboardInterrupt"]
)
def test_no_error_ends_a_loop_of_the_tests(error: str) -> None:
    """`all` takes a StopIteration inside map for the end of the values, and is true of none."""
    tests = {
        "kind": "check",
        "code": "def check(candidate):\n    assert all(map(lambda i: candidate(i) == i, (1, 2)))",
    }
    assert run(f"def f(x): raise {error}", tests, "f") == 0.0


def test_the_function_under_test_may_have_a_builtins_name() -> None:
    """MBPP/126 asks for a `sum` of two numbers; nothing else in its asserts is the program's then."""
    tests = {"kind": "asserts", "setup": "", "asserts": ["assert sum(10, 15) == 6", "assert sum(4, 2) == 3"]}
    program = (
        "def sum(a, b): return 1 + builtins_sum(i for i in range(2, min(a, b) + 1) if a % i == b % i == 0)"
    )
    assert run(f"builtins_sum = sum\n{program}", tests) == 1.0
    two_names = {**tests, "asserts": ["assert abs(sum(10, 15) - 6) == 0"]}
    assert run("def sum(a, b): return 1\ndef abs(x): return 0", two_names) == 0.0


@pytest.mark.parametrize("name", BUILTIN_TESTS)
def test_a_services_harness_keeps_builtins_too(name: str, tmp_path: Path) -> None:
    """Where a service runs the programs, tests share the program's process; its names are not theirs all the same."""
    tests = {"kind": "check", "code": f"def check(candidate):\n    {BUILTIN_TESTS[name]}"}
    for forged in (f"{name} = lambda *a, **k: 0", f"import builtins\nbuiltins.{name} = lambda *a, **k: 0"):
        assert not passes_on_a_service(CodeJob(f"{forged}\ndef f(x): return 7", tests, "f"), tmp_path)
    assert passes_on_a_service(CodeJob("def f(x): return x + 1", tests, "f"), tmp_path)


def passes_on_a_service(job: CodeJob, folder: Path) -> bool:
    """The harness as a service runs it: a program with its input. (These programs are harmless.)"""
    from r1pipe.rewards.remote import HARNESS

    (folder / "main.py").write_text(HARNESS)
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=folder,
        input=_harness_input(job, "w0rd"),
        capture_output=True,
        text=True,
    )
    return '"word": "w0rd", "passed": 1, "total": 1' in done.stdout


# --- the end of the process that started them -------------------------------------------------------------------------

WORKER = """
from r1pipe.rewards import symbolic
from r1pipe.rewards.sandbox import CodeJob, Limits, run_tests
import threading

# In threads that end, as in training; each runner is used again afterwards.
easy = {"kind": "stdio", "inputs": [""], "outputs": ["1"]}
assert run_tests([CodeJob(f"print(1) # {i}", easy) for i in range(2)], workers=2) == [1.0, 1.0]
hard = [CodeJob(f"while True: pass # {i}", easy) for i in range(2)]
threading.Thread(target=run_tests, args=(hard, Limits(cpu_s=60)), kwargs={"workers": 2}).start()
threading.Thread(target=symbolic.equal, args=([("x", "\\\\int_0^1 e^{x^{x^x}} dx")], 60)).start()
threading.Timer(1.0, print, ("busy",), {"flush": True}).start()
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_no_sandbox_outlives_a_killed_worker(ending: signal.Signals) -> None:
    """It took up to 41 s at full load: a runner looked at its pipe only after the program's time was up."""
    worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
    assert worker.stdout and worker.stdout.readline() == "busy\n"
    below = processes_below(worker.pid)
    assert len(below) >= 2 * 3 + 1, "two sandboxes with a program each, and a process for algebra"
    os.kill(worker.pid, ending)
    worker.wait()
    # All cores are busy with what is to be killed. The programs had a minute of CPU time left.
    deadline = time.monotonic() + 20
    while alive(below) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(below)


def test_a_sandbox_that_is_ended_in_its_first_milliseconds_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bubblewrap's inside waits for its outside, which was killed alone: 14 of 60 waited for ever."""
    mark = f"MARK_OF_A_TEST={os.getpid()}"
    monkeypatch.setenv(*mark.split("="))
    bwrap = bubblewrap.find_bwrap() or "bwrap"
    for i in range(60):
        runner = isolation.Runner(bwrap)
        time.sleep(i / 60 * 0.005)
        runner.close()
    deadline = time.monotonic() + 10
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left


def marked(mark: str) -> list[int]:
    """The other processes that were started with this in their environment, and run."""
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        process = int(environment.parent.name)
        try:
            is_marked = mark.encode() in environment.read_bytes()
        except OSError:
            continue
        if is_marked and process != os.getpid():
            found.append(process)
    return alive(found)


def processes_below(process: int) -> list[int]:
    found: list[int] = []
    todo = [process]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            children = [int(word) for word in task.read_text().split()]
            found += children
            todo += children
    return found


def alive(processes: list[int]) -> list[int]:
    """Those that run. A dead one is a zombie until the machine's first process asks for it."""
    running = []
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            running.append(process)
    return running
