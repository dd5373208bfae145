"""The tests, evaluated in the checker: asserts (MBPP), a check function (HumanEval), calls with expected values (MBPP+)."""

from __future__ import annotations

import ast
import builtins
import copy
import importlib
import json
import math
import re
import sys
import types
import typing

from .wire import MAX_FRAME, Link, decode, encode


class Broken(Exception):
    """The tests themselves cannot be run."""


class Source:
    """Test code, compiled, with the names it leaves open."""

    def __init__(self, source: str) -> None:
        try:
            tree = ast.parse(source, "<tests>")
            self.code = compile(tree, "<tests>", "exec")
        except (SyntaxError, ValueError) as error:
            raise Broken(f"the tests do not compile: {error}") from None
        bound, used, self.bases = set(), set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                self.bases.add(node.value.id)
        self.open = used - bound


def bind(link: Link, sources: list[Source], names: dict[str, object]) -> set[str]:
    """Give the test code what it leaves open: modules are Python's own (`math.isclose` is not for the program to define), and so are
    builtins, unless the tests name nothing else that could be the function under test. The rest the program defines.

    Returns: the names that come from the program.
    """
    wanted = set().union(*(source.open for source in sources)) - set(names)
    modules = {
        name
        for source in sources
        for name in source.bases & wanted
        if name in sys.stdlib_module_names and not hasattr(builtins, name)
    }
    for name in modules:
        names[name] = importlib.import_module(name)
    own = {name for name in wanted - modules if not hasattr(builtins, name)} or wanted - modules
    if not own:
        return set()
    given = typing.cast("dict[str, object]", link.ask({"op": "names", "names": sorted(own)}))
    # What is asked for and not there is a NameError when the test runs; what was not asked for is dropped.
    names.update({name: given[name] for name in own if name in given})
    return own


def prepare(link: Link, setup: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "tests"}
    if setup.strip():
        source = Source(setup)
        foreign = {name for name in bind(link, [source], names) if not hasattr(builtins, name)}
        try:
            exec(source.code, names)
        except Exception as error:
            if foreign:
                raise  # it uses what the program should define
            raise Broken(f"the tests' setup fails: {type(error).__name__}: {error}") from None
    return names


def check_asserts(link: Link, tests: dict) -> dict:
    names = prepare(link, tests.get("setup") or "")
    sources = [Source(source) for source in tests["asserts"]]
    bind(link, sources, names)
    passed, why = 0, ""
    for i, source in enumerate(sources):
        try:
            exec(source.code, names)
            passed += 1
        except Exception as error:
            why = why or f"assert {i + 1}: {type(error).__name__}: {error}"
    return {"passed": passed, "total": len(sources), "why": why}


def check_function(link: Link, tests: dict, entry_point: str | None) -> dict:
    names = prepare(link, tests.get("setup") or "")
    source = Source(tests["code"])
    bind(link, [source], names)
    try:
        exec(source.code, names)
    except Exception as error:
        raise Broken(f"the tests fail before they call anything: {type(error).__name__}: {error}") from None
    check = typing.cast("typing.Callable[[object], object]", names.get("check"))
    if entry_point is None or not callable(check):
        raise Broken("tests of kind `check` need an entry_point and a function check(candidate)")
    try:
        check(defined(link, entry_point))
    except Exception as error:
        return {"passed": 0, "total": 1, "why": f"{type(error).__name__}: {error}"}
    return {"passed": 1, "total": 1, "why": ""}


def defined(link: Link, name: str) -> typing.Callable[..., object]:
    """What the program calls `name`."""
    given = typing.cast("dict[str, typing.Callable[..., object]]", link.ask({"op": "names", "names": [name]}))
    if name not in given:
        raise NameError(f"name '{name}' is not defined")
    return given[name]


def alike(a: object, b: object, tolerance: float) -> bool:
    """Equal, with a tolerance for floats, inside containers as well; True is not 1 here, 1.0 is."""
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if isinstance(a, float) or isinstance(b, float):
        if not isinstance(a, int | float) or not isinstance(b, int | float):
            return False
        return a == b or (a != a and b != b) or math.isclose(a, b, rel_tol=max(tolerance, 1e-9), abs_tol=tolerance)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return (
            type(a) is type(b) and len(a) == len(b) and all(alike(x, y, tolerance) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key], tolerance) for key in a)
    return type(a) is type(b) and a == b


def arguments(given: object) -> list:
    """A call's arguments: a list, or a string with the Python literal of one, for what JSON lacks (tuples, sets, complex numbers)."""
    try:
        return list(ast.literal_eval(given) if isinstance(given, str) else typing.cast(list, given))
    except (ValueError, SyntaxError, TypeError) as error:
        raise Broken(f"arguments that are no list: {error}") from None


def check_calls(link: Link, tests: dict, entry_point: str | None, partial: bool) -> dict:
    entry_point = tests.get("entry_point") or entry_point
    if not entry_point:
        raise Broken("tests of kind `calls` need an entry_point")
    names: dict[str, object] = {"__name__": "reference"}
    if tests.get("reference"):
        try:
            exec(Source(tests["reference"]).code, names)
        except Exception as error:
            raise Broken(f"the reference fails: {type(error).__name__}: {error}") from None
    reference = names.get(entry_point)
    candidate = defined(link, entry_point)
    outputs = tests.get("outputs")
    passed, total, why = 0, 0, ""
    for i, args in enumerate(map(arguments, tests["inputs"])):
        if callable(reference):
            try:
                expected = reference(*copy.deepcopy(args))
                # Through the same coding as the candidate's values, so that both sides have the same types. Of a match only
                # counts that there is one.
                if not isinstance(expected, re.Match):
                    coded = json.dumps(encode(expected, link))
                    if len(coded) > MAX_FRAME // 2:
                        continue  # no candidate could hand over a value as large; half, since it travels in a message
                    expected = decode(json.loads(coded), link)
            except Exception:
                continue  # where the reference itself fails there is nothing to compare with
        elif outputs is not None:
            expected = outputs[i]
        else:
            raise Broken("tests of kind `calls` need outputs or a reference")
        total += 1
        try:
            value = candidate(*copy.deepcopy(args))
            value, expected = (
                (list(x) if isinstance(x, types.GeneratorType | type(iter([]))) else x) for x in (value, expected)
            )
            if not callable(reference):  # JSON knows no tuples
                value = json.loads(json.dumps(value, default=list))
            good = (
                bool(value) if isinstance(expected, re.Match) else alike(value, expected, float(tests.get("atol") or 0))
            )
        except Exception as error:
            good, value = False, error
        passed += good
        if not good:
            why = why or f"call {i + 1}: {value!r:.200}"
            if not partial:
                break
    return {"passed": passed, "total": total if partial or not why else max(total, passed + 1), "why": why}
