"""The code reward on published programs: how many pass their own tests, and how many mutants of them are caught.

    python tests/bench/code_table.py        # about ten minutes

A mutant has one operator or constant changed. It is kept if its values on the tests' calls differ. That is found in a
way of its own: both programs print their values, in the sandbox but without the checker.
"""

from __future__ import annotations

import ast
import gzip
import json
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from r1pipe.rewards.bubblewrap import find_bwrap
from r1pipe.rewards.isolation import Limits, Runner
from r1pipe.rewards.sandbox import CodeJob, run_tests, same_output

DATA = Path(__file__).parents[3] / "shared" / "data"
SETS = ("humaneval", "mbpp", "mbpp_plus")
# Its reference sums ranges of up to a hundred million numbers, dozens of times.
SLOW = {"mbppplus-599": 300.0}
_SHOW = """
def _show(x, depth=3):
    if isinstance(x, (set, frozenset)) and depth: return 'set ' + ' '.join(sorted(_show(y, depth - 1) for y in x))
    if isinstance(x, dict) and depth: return 'dict ' + ' '.join(sorted(_show(y, depth - 1) for y in x.items()))
    if isinstance(x, (list, tuple)) and depth:
        return type(x).__name__ + ' ' + ' '.join(_show(y, depth - 1) for y in x)
    return repr(list(x)[:1000]) if hasattr(x, '__next__') else repr(x)[:5000]
def _try(f):
    try: print(_show(f()))
    except Exception as error: print(type(error).__name__)
"""


class Task(NamedTuple):
    """A published program, its tests, and source that prints its values on the tests' calls."""

    name: str
    program: str
    tests: dict[str, Any]
    entry_point: str | None
    shown: str


def rows(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf8") as stream:
        yield from map(json.loads, stream)


def like(value: Any, model: Any) -> Any:
    """A value that went through JSON, in the types of the same argument in MBPP's own asserts."""
    if isinstance(value, list) and isinstance(model, list | tuple | set):
        known = list(model)
        paired = known if len(known) == len(value) else known[:1] * len(value)
        parts = [like(part, typed) for part, typed in zip(value, paired, strict=True)] if paired else value
        return type(model)(map(_hashable, parts) if isinstance(model, set) else parts)
    if isinstance(value, dict) and isinstance(model, dict) and model:
        key, content = next(iter(model.items()))
        return {
            ast.literal_eval(k) if isinstance(key, int | float) else k: like(v, content)
            for k, v in value.items()
        }
    return ast.literal_eval(value) if isinstance(value, str) and isinstance(model, complex) else value


def literal(args: list[Any]) -> str | list[Any]:
    return args if json.loads(json.dumps(args, default=str)) == args else repr(args)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def calls(asserts: list[str], names: set[str]) -> list[ast.Call]:
    """The calls of `names` in the asserts."""
    nodes = [node for source in asserts for node in ast.walk(ast.parse(source.strip()))]
    all_calls = [node for node in nodes if isinstance(node, ast.Call)]
    return [call for call in all_calls if isinstance(call.func, ast.Name) and call.func.id in names]


def models(row: dict[str, Any], asserts: list[str]) -> list[Any]:
    """Arguments of the first call in MBPP's asserts that is all literals."""
    for call in calls(asserts, {row["entry_point"]}):
        try:
            return [ast.literal_eval(argument) for argument in call.args]
        except ValueError:
            continue
    return []


def tasks(name: str) -> Iterator[Task]:
    asserts = {row["task_id"]: row["tests"]["asserts"] for row in rows("mbpp")} if name == "mbpp_plus" else {}
    for row in rows(name):
        if name == "humaneval":
            program = row["prompt"] + row["solution"]
            # Its check is called with a function that prints its values, instead of being judged.
            function = row["entry_point"]
            shown = (
                f"\n{row['tests']['code']}\n"
                f"try: check(lambda *a: (_try(lambda: {function}(*a)), {function}(*a))[1])\n"
                "except BaseException: pass\n"
            )
            yield Task(row["id"], program, row["tests"], row["entry_point"], _SHOW + shown)
        elif name == "mbpp":
            defined = {
                node.name
                for node in ast.walk(ast.parse(row["solution"]))
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }
            shown = "".join(
                f"_try(lambda: {ast.unparse(call)})\n" for call in calls(row["tests"]["asserts"], defined)
            )
            yield Task(row["id"], row["solution"], row["tests"], None, _SHOW + shown)
        else:
            typed = models(row, asserts[row["task_id"]])
            # Beside a complex number, other numbers were written as strings as well.
            if any(isinstance(model, complex) for model in typed):
                typed = [complex(model) for model in typed]
            inputs = [
                like(args, typed) if len(args) == len(typed) else args
                for args in row["base_inputs"] + row["plus_inputs"]
            ]
            # As literals where JSON would lose a type again; it knows infinity, which literals do not.
            tests = {
                "kind": "calls",
                "inputs": [literal(args) for args in inputs],
                "reference": row["solution"],
                "atol": row["atol"],
            }
            shown = (
                "inf, nan = float('inf'), float('nan')\n"
                f"for _args in {inputs!r}:\n"
                f"    _try(lambda: {row['entry_point']}(*_args))\n"
            )
            yield Task(row["id"], row["solution"], tests, row["entry_point"], _SHOW + shown)


def failures(published: list[Task], timeout: float = 60) -> dict[str, float | None]:
    """Published programs that do not score 1."""
    verdicts: list[tuple[str, float | None]] = []
    for limit in {timeout, *SLOW.values()}:
        chosen = [task for task in published if SLOW.get(task.name, timeout) == limit]
        scores = run_tests([job(task) for task in chosen], Limits(cpu_s=limit))
        verdicts += zip([task.name for task in chosen], scores, strict=True)
    return {name: verdict for name, verdict in verdicts if verdict != 1.0}


def job(task: Task, program: str | None = None) -> CodeJob:
    return CodeJob(program or task.program, task.tests, task.entry_point)


class Mutate(ast.NodeTransformer):
    """Change the `target`-th operator or constant."""

    swaps = {
        ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add,
        ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
        ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    }  # fmt: skip

    def __init__(self, target: int) -> None:
        self.left = target
        self.done = False

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
        if type(node.value) is int and self._mine():
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node


def mutants(published: list[Task], each: int, seed: int = 0) -> list[tuple[Task, str]]:
    """Up to `each` mutants a program whose printed values differ from the program's own."""
    draw = random.Random(seed)
    wanted: list[tuple[Task, list[str]]] = []
    for task in published:
        tried: dict[str, None] = {}
        for target in draw.sample(range(12), 12):
            mutation = Mutate(target)
            mutated = mutation.visit(ast.parse(task.program))
            if mutation.done:
                tried[ast.unparse(ast.fix_missing_locations(mutated))] = None
        wanted.append((task, list(tried)[:each]))

    def kept(candidate: tuple[Task, list[str]]) -> list[tuple[Task, str]]:
        task, programs = candidate
        runner = Runner(find_bwrap() or "bwrap")
        try:
            own, *others = [
                runner.ask({"source": program + "\n" + task.shown, "stdin": ""}, None, Limits(cpu_s=3))
                for program in (task.program, *programs)
            ]
        finally:
            runner.close()
        if not own["ok"] or not own["out"].strip():
            return []
        return [
            (task, program)
            for program, reply in zip(programs, others, strict=True)
            if reply["ok"] and not alike(reply["out"], own["out"])
        ]

    with ThreadPoolExecutor(2) as threads:
        return [pair for pairs in threads.map(kept, wanted) for pair in pairs]


def alike(a: str, b: str) -> bool:
    """Whether two programs printed the same, up to rounding and where objects lie in memory."""
    return same_output(*(re.sub(r"[\[\](){},]| at 0x[0-9a-f]+", " ", text) for text in (a, b)))


def survivors(mutated: list[tuple[Task, str]]) -> list[tuple[str, str]]:
    """Mutants that do not score 0."""
    verdicts = run_tests([job(task, program) for task, program in mutated], Limits(cpu_s=20))
    return [
        (task.name, program)
        for (task, program), verdict in zip(mutated, verdicts, strict=True)
        if verdict != 0.0
    ]


def main() -> None:
    print("| set | programs | score 1 | mutants kept | score 0 | share | seconds |\n|" + " --- |" * 7)
    notes: list[str] = []
    for name in SETS:
        started = time.perf_counter()
        published = list(tasks(name))
        failed = failures(published)
        mutated = mutants([task for task in published if task.name not in SLOW], 2)
        alive = survivors(mutated)
        seconds = time.perf_counter() - started
        caught = len(mutated) - len(alive)
        programs = f"{len(published)} | {len(published) - len(failed)}"
        share = f"{len(mutated)} | {caught} | {caught / len(mutated):.4f}"
        print(f"| {name} | {programs} | {share} | {seconds:.0f} |")
        notes += [f"{name}: {task} scores {verdict}" for task, verdict in failed.items()]
        notes += [f"{name}: a mutant of {task} survives:\n{program}" for task, program in alive]
    print("\n".join(["", *notes]))


if __name__ == "__main__":
    main()
