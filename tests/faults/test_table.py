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


def test_every_case_has_its_test() -> None:
    for case in cases():
        file, _, name = case.test.partition("::")
        assert name.partition("[")[0] in functions(file), case


def test_no_case_stands_twice() -> None:
    told = [(case.fault, case.kind, case.test) for case in cases()]
    assert len(told) == len(set(told))


def test_the_page_is_that_of_the_cases() -> None:
    assert (TESTS.parent / "docs/faults.md").read_text(encoding="utf8") == page()


def test_a_protection_names_what_is_there() -> None:
    """A name that is gone would switch nothing off."""
    for pattern, patch in protections():
        assert any(protection_of(case.test) == patch for case in cases()), pattern


def test_a_protection_is_switched_off_in_a_process_of_its_own() -> None:
    off = str(Path(__file__).with_name("off"))
    patch = "r1pipe.launch.watchdog:Watchdog.hangs = lambda self: plain.__name__"
    program = "from r1pipe.launch.watchdog import Watchdog; print(Watchdog.hangs(None))"
    environment = {**os.environ, "FAULTS_OFF": patch, "PYTHONPATH": f"{off}{os.pathsep}{TESTS.parent}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "hangs\n", done.stderr
