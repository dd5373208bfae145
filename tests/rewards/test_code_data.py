"""Published solutions pass their published tests, and mutated ones do not."""

from __future__ import annotations

import ast
import random

import pytest

from r1pipe.rewards import sandbox
from r1pipe.rewards.code import code
from r1pipe.rewards.isolation import Limits, Runner
from r1pipe.rewards.sandbox import CodeJob, run_tests
from tests.rewards.shared import fenced, load

pytestmark = pytest.mark.skipif(sandbox.available() is not None, reason=f"no isolation: {sandbox.available()}")


def test_humaneval_solutions_pass() -> None:
    rows = load("humaneval")
    columns = {name: [row[name] for row in rows] for name in ("tests", "entry_point", "prompt")}
    assert code([fenced(row["prompt"] + row["solution"]) for row in rows], **columns) == [1.0] * len(rows)
    assert code([fenced(row["solution"].rstrip()) for row in rows], **columns) == [1.0] * len(rows), "the body alone"
    assert code([fenced(row["prompt"] + "    return None") for row in rows], **columns) == [0.0] * len(rows)


@pytest.mark.slow
def test_mbpp_solutions_pass() -> None:
    rows = load("mbpp")
    verdicts = code([fenced(row["solution"]) for row in rows], tests=[row["tests"] for row in rows], timeout=30)
    failed = [(row["id"], verdict) for row, verdict in zip(rows, verdicts, strict=True) if verdict != 1.0]
    assert len(failed) <= 0.005 * len(rows), failed


# 124, 720: the inputs (complex numbers, tuples) are not what JSON holds, so the reference itself fails on them: None.
# 255, 599: seconds of work for each of many inputs, twice (reference and candidate): out of time.
MBPP_PLUS_KNOWN = {"mbppplus-124": None, "mbppplus-720": None, "mbppplus-255": 0.0, "mbppplus-599": 0.0}


@pytest.mark.slow
def test_mbpp_plus_solutions_pass() -> None:
    rows = [row for row in load("mbpp_plus") if row["id"] not in MBPP_PLUS_KNOWN]
    tests = [{"kind": "calls", "inputs": row["base_inputs"] + row["plus_inputs"], "reference": row["solution"], "atol": row["atol"]} for row in rows]
    verdicts = code([fenced(row["solution"]) for row in rows], tests=tests, entry_point=[row["entry_point"] for row in rows], timeout=60)
    failed = [(row["id"], verdict) for row, verdict in zip(rows, verdicts, strict=True) if verdict != 1.0]
    assert len(failed) <= 0.005 * len(rows), failed


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


class Mutate(ast.NodeTransformer):
    """Change the `target`-th operator or constant."""

    swaps = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
        ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    }  # fmt: skip

    def __init__(self, target: int) -> None:
        self.left, self.done = target, False

    def _mine(self) -> bool:
        self.left -= 1
        self.done |= self.left == -1
        return self.left == -1

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if type(node.op) in self.swaps and self._mine():
            node.op = self.swaps[type(node.op)]()
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if type(node.ops[0]) in self.swaps and self._mine():
            node.ops[0] = self.swaps[type(node.ops[0])]()
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.copy_location(ast.Constant(node.value + 1), node) if type(node.value) is int and self._mine() else node


@pytest.mark.slow
def test_mutated_solutions_fail() -> None:
    """Kept are mutants whose values on the tests' calls differ, as another path tells it: the printed left sides of the asserts."""
    draw, limits = random.Random(0), Limits(cpu_s=2)
    runner = Runner("bwrap")
    jobs: list[CodeJob] = []
    for row in load("mbpp"):
        if len(jobs) >= 300:
            break
        sides = [ast.parse(source.strip()).body[0] for source in row["tests"]["asserts"]]
        calls = [
            side.test.left for side in sides if isinstance(side, ast.Assert) and isinstance(side.test, ast.Compare) and isinstance(side.test.ops[0], ast.Eq)
        ]
        if len(calls) != len(sides) or row["tests"]["setup"]:
            continue
        tree = ast.parse(row["solution"])
        mutation = Mutate(draw.randrange(6))
        mutant = ast.unparse(ast.fix_missing_locations(mutation.visit(tree)))
        if not mutation.done:
            continue
        show = "".join(f"\nprint(repr({ast.unparse(call)}))" for call in calls)
        said = [runner.ask({"source": program + show, "stdin": ""}, None, limits) for program in (row["solution"], mutant)]
        if said[0]["ok"] and said[1]["ok"] and said[0]["out"] != said[1]["out"]:
            jobs.append(CodeJob(mutant, row["tests"]))
    runner.close()
    verdicts = run_tests(jobs, limits)
    passed = [job.program for job, verdict in zip(jobs, verdicts, strict=True) if verdict != 0.0]
    assert len(jobs) >= 150
    assert len(passed) <= 0.01 * len(jobs), passed
