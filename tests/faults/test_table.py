"""docs/faults.md names tests that are there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from fault_table import TESTS, cases, page
from without_protection import protection_of, protections


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@cache
def names(module: str) -> dict[str, set[str]]:
    """What stands in a module: name -> its methods, where it is a class."""
    tree = ast.parse((TESTS.parent / f"{module.replace('.', '/')}.py").read_text(encoding="utf8"))
    found: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = set()
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name: set() for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id: set() for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_every_case_has_its_test() -> None:
    for case in cases():
        file, _, name = case.test.partition("::")
        assert name.partition("[")[0] in functions(file), case


def test_no_case_stands_twice() -> None:
    told = [(case.fault, case.kind, case.test) for case in cases()]
    assert len(told) == len(set(told))


def test_the_page_is_that_of_the_cases() -> None:
    assert (TESTS.parent / "docs/faults.md").read_text(encoding="utf8") == page()


def test_every_protection_has_a_case() -> None:
    for pattern, patch in protections():
        assert any(protection_of(case.test) == patch for case in cases()), pattern


def test_a_protection_names_what_is_there() -> None:
    """With a name that is gone a test would fail, and show nothing."""
    for pattern, patch in protections():
        for one in patch.split(";;"):
            module, _, attribute = one.partition("=")[0].strip().partition(":")
            if module.startswith("r1pipe."):
                path, _, method = attribute.partition(".")
                known = names(module)
                assert path in known, (pattern, attribute)
                assert not known[path] or not method or method in known[path], (pattern, attribute)


def test_a_protection_is_switched_off_in_a_process_of_its_own() -> None:
    off = str(Path(__file__).with_name("off"))
    patch = "r1pipe.launch.watchdog:Watchdog.hangs = lambda self: plain.__name__"
    program = "from r1pipe.launch.watchdog import Watchdog; print(Watchdog.hangs(None))"
    environment = {**os.environ, "FAULTS_OFF": patch, "PYTHONPATH": f"{off}{os.pathsep}{TESTS.parent}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "hangs\n", done.stderr
