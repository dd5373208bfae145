"""Published solutions pass their published tests, and mutated ones do not."""

from __future__ import annotations

import pytest

from r1pipe.rewards import sandbox
from r1pipe.rewards.code import code
from r1pipe.rewards.sandbox import CodeJob, run_tests
from tests.bench import code_table as table
from tests.public_rows import fenced, load

pytestmark = pytest.mark.skipif(
    sandbox.available() is not None, reason=f"no isolation: {sandbox.available()}"
)


def test_humaneval_solutions_pass() -> None:
    rows = load("humaneval")
    columns = {name: [row[name] for row in rows] for name in ("tests", "entry_point", "prompt")}
    assert code([fenced(row["prompt"] + row["solution"]) for row in rows], **columns) == [1.0] * len(rows)
    assert code([fenced(row["solution"].rstrip()) for row in rows], **columns) == [1.0] * len(rows), (
        "the body alone"
    )
    assert code([fenced(row["prompt"] + "    return None") for row in rows], **columns) == [0.0] * len(rows)


def tasks(name: str, step: int = 1) -> list[table.Task]:
    load(name)
    return list(table.tasks(name))[::step]


@pytest.mark.parametrize(("name", "step"), [("mbpp", 15), ("mbpp_plus", 20)])
def test_some_solutions_pass(name: str, step: int) -> None:
    slow = {f"mbppplus-{number}" for number in (84, 123, 255, 389, 392, 583, 589, 592, 603, 630)} | set(
        table.SLOW
    )
    assert table.failures([task for task in tasks(name, step) if task.name not in slow]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", table.SETS)
def test_all_solutions_pass(name: str) -> None:
    assert table.failures(tasks(name)) == {}


@pytest.mark.parametrize(("name", "step"), [("humaneval", 10), ("mbpp", 60)])
def test_some_mutants_fail(name: str, step: int) -> None:
    made = table.mutants(tasks(name, step), 1)
    assert len(made) >= 4
    assert table.survivors(made) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", table.SETS)
def test_mutants_fail(name: str) -> None:
    made = table.mutants([task for task in tasks(name) if task.name not in table.SLOW], 1)
    alive = table.survivors(made)
    assert len(made) >= 50
    assert len(alive) <= 0.01 * len(made), alive


def test_values_that_json_lacks_reach_the_tests_as_literals() -> None:
    tests = {"kind": "calls", "inputs": ["((1, 2), {3})", "((), set())"], "outputs": [[1, 2, 3], []]}
    program = "def f(a, b): return a + tuple(b)"
    assert run_tests([CodeJob(program, tests, "f")]) == [1.0]
    assert run_tests([CodeJob(program, {**tests, "inputs": [[[1, 2], [3]], [[], []]]}, "f")]) == [0.0], (
        "lists are lists"
    )
    assert run_tests([CodeJob(program, {**tests, "inputs": ["f()", "1"]}, "f")]) == [None]


def test_values_too_large_to_hand_over_are_not_held_against_the_program() -> None:
    program = "def f(n): return [0] * n"
    tests = {"kind": "calls", "inputs": [[3], [2_000_000]], "reference": program}
    assert run_tests([CodeJob(program, tests, "f"), CodeJob("def f(n): return [1] * n", tests, "f")]) == [
        1.0,
        0.0,
    ]


def test_code_contests_by_a_program_that_looks_the_answers_up() -> None:
    """The data set has no solutions; this checks input, output and comparison on its real tests."""
    rows = load("code_contests")[:40]
    jobs, wrong = [], []
    for row in rows:
        table = dict(zip(row["tests"]["inputs"], row["tests"]["outputs"], strict=True))
        program = f"import sys\ntable = {table!r}\nsys.stdout.write(table[sys.stdin.read()])"
        jobs.append(CodeJob(program, row["tests"]))
        wrong.append(CodeJob(program.replace("sys.stdout.write(", "sys.stdout.write('1 ' + "), row["tests"]))
    assert run_tests(jobs) == [1.0] * len(rows)
    assert run_tests(wrong) == [0.0] * len(rows)


# Ours, since the data set has none; each with a change that makes it wrong.
CONTEST_PROGRAMS = {
    "code_contests-140": (
        """
from math import isqrt
for _ in range(int(input())):
    n = int(input())
    cubes = sum(x**3 <= n for x in range(1, 1001))
    print(isqrt(n) + cubes - sum(x**6 <= n for x in range(1, 33)))
""",
        "range(1, 33)",
        "range(1, 3)",
    ),
    "code_contests-52": (
        """
for _ in range(int(input())):
    n, k = map(int, input().split())
    print(sum(pow(n, i, 10**9 + 7) for i in range(31) if k >> i & 1) % (10**9 + 7))
""",
        "range(31)",
        "range(8)",
    ),
    "code_contests-75": (
        """
def first_wins(a):
    n = len(a)
    up, down = [1] * n, [1] * n
    for i in range(n - 2, -1, -1):
        if a[i] < a[i + 1]:
            up[i] = up[i + 1] + 1
    for i in range(1, n):
        if a[i] < a[i - 1]:
            down[i] = down[i - 1] + 1
    left, right, last, mover = 0, n - 1, -1, True
    while left <= right:
        size = right - left + 1
        runs = [min(up[left], size) if a[left] > last else 0, min(down[right], size) if a[right] > last else 0]
        if runs[0] % 2 or runs[1] % 2:
            return mover
        if not all(runs) or a[left] == a[right]:
            return not mover
        if a[left] < a[right]:
            last, left = a[left], left + 1
        else:
            last, right = a[right], right - 1
        mover = not mover
    return not mover

input()
print("Alice" if first_wins(list(map(int, input().split()))) else "Bob")
""",
        "-1, True",
        "-1, False",
    ),
}


@pytest.mark.parametrize("name", CONTEST_PROGRAMS)
def test_code_contests_by_programs_of_ours(name: str) -> None:
    row = next(row for row in load("code_contests") if row["id"] == name)
    program, old, new = CONTEST_PROGRAMS[name]
    assert old in program
    columns = {"tests": [row["tests"]] * 2, "prompt": [row["prompt"]] * 2}
    assert code([fenced(program), fenced(program.replace(old, new))], **columns) == [1.0, 0.0]
