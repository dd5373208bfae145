"""docs/faults.md names tests that are there."""

from __future__ import annotations

import ast
from functools import cache

from fault_table import TESTS, cases, page


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
