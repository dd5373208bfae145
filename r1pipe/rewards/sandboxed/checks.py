"""The tests, evaluated in the checker: asserts (MBPP), a check function (HumanEval), calls with values (MBPP+)."""

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


class CompiledTests:
    """Test code, compiled.

    Attributes:
        code: the code object.
        open_names: names that the code uses and does not bind.
        bases: names whose attributes the code uses (`math` of `math.isclose`).
    """

    def __init__(self, source: str) -> None:
        try:
            tree = ast.parse(source, "<tests>")
            self.code = compile(tree, "<tests>", "exec")
        except (SyntaxError, ValueError) as error:
            raise Broken(f"the tests do not compile: {error}") from None

        # Without regard to scopes: a name that is bound anywhere counts as bound.
        bound: set[str] = set()
        used: set[str] = set()
        self.bases: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                names = used if isinstance(node.ctx, ast.Load) else bound
                names.add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.alias):
                bound.add((node.asname or node.name).split(".")[0])
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                self.bases.add(node.value.id)
        self.open_names = used - bound


def bind(
    link: Link,
    compiled: list[CompiledTests],
    names: dict[str, object],
    function_under_test: str | None = None,
) -> set[str]:
    """Put the values of the test code's open names into `names`.

    Builtins are the interpreter's, whatever the program calls its own functions; so are modules: `math.isclose` is not
    for the program to define. All other names come from the program.

    Args:
        function_under_test: the one name of a builtin that the program may define.

    Returns:
        the names that come from the program.
    """
    wanted = set().union(*(tests.open_names for tests in compiled)) - set(names)
    own_names = {name for name in wanted if not hasattr(builtins, name)}
    modules = {
        name for tests in compiled for name in tests.bases & own_names if name in sys.stdlib_module_names
    }
    for name in modules:
        names[name] = importlib.import_module(name)
    from_program = own_names - modules
    if function_under_test is not None:
        from_program.add(function_under_test)
    if not from_program:
        return set()

    request = {"op": "names", "names": sorted(from_program)}
    values = typing.cast("dict[str, object]", link.ask(request))
    # A name that the program does not define is a NameError when the test runs. One that was not asked for is dropped.
    names.update({name: values[name] for name in from_program if name in values})
    return from_program


def builtin_under_test(asserts: list[CompiledTests]) -> str | None:
    """The builtin's name that the program's function has, where all asserts together use no other open name.

    MBPP asks for a `sum` of its own; `assert sum(10, 15) == 6` cannot mean the interpreter's.
    """
    open_names = set().union(*(compiled.open_names for compiled in asserts))
    (name,) = open_names if len(open_names) == 1 else (None,)
    return name if name is not None and hasattr(builtins, name) else None


def run_setup(link: Link, setup: str) -> dict[str, object]:
    """Run the tests' setup and return its names."""
    names: dict[str, object] = {"__name__": "tests"}
    if not setup.strip():
        return names
    compiled = CompiledTests(setup)
    needs_the_program = bool(bind(link, [compiled], names))
    try:
        exec(compiled.code, names)
    except Exception as error:
        if needs_the_program:
            # The program may be at fault.
            raise
        raise Broken(f"the tests' setup fails: {type(error).__name__}: {error}") from None
    return names


def check_asserts(link: Link, tests: dict) -> dict:
    names = run_setup(link, tests.get("setup") or "")
    asserts = [CompiledTests(source) for source in tests["asserts"]]
    bind(link, asserts, names, builtin_under_test(asserts))
    passed = 0
    why = ""
    for i, compiled in enumerate(asserts):
        # All asserts run, also behind one that fails: `partial` asks for the share.
        try:
            exec(compiled.code, names)
            passed += 1
        except Exception as error:
            why = why or f"assert {i + 1}: {type(error).__name__}: {error}"
    return {
        "passed": passed,
        "total": len(asserts),
        "why": why,
    }


def check_function(
    link: Link,
    tests: dict,
    entry_point: str | None,
) -> dict:
    names = run_setup(link, tests.get("setup") or "")
    compiled = CompiledTests(tests["code"])
    needs_the_program = bool(bind(link, [compiled], names))
    try:
        exec(compiled.code, names)
    except Exception as error:
        if needs_the_program:
            # The program may be at fault.
            raise
        raise Broken(f"the tests fail before they call anything: {type(error).__name__}: {error}") from None
    check = typing.cast("typing.Callable[[object], object]", names.get("check"))
    if entry_point is None or not callable(check):
        raise Broken("tests of kind `check` need an entry_point and a function check(candidate)")
    try:
        check(program_function(link, entry_point))
    except Exception as error:
        return {
            "passed": 0,
            "total": 1,
            "why": f"{type(error).__name__}: {error}",
        }
    return {
        "passed": 1,
        "total": 1,
        "why": "",
    }


def program_function(link: Link, name: str) -> typing.Callable[..., object]:
    """The function that the program calls `name`."""
    functions = typing.cast(
        "dict[str, typing.Callable[..., object]]", link.ask({"op": "names", "names": [name]})
    )
    if name not in functions:
        raise NameError(f"name '{name}' is not defined")
    return functions[name]


# The source of this function is part of remote.HARNESS: it may use `math` and itself, and nothing else of this module.
def alike(
    a: object,
    b: object,
    tolerance: float,
) -> bool:
    """Equal, with a tolerance for floats, inside containers as well. True is not 1 here, but 1.0 is."""
    # A bool is an int in Python.
    if isinstance(a, bool) is not isinstance(b, bool):
        return False
    if isinstance(a, float) or isinstance(b, float):
        if not isinstance(a, int | float) or not isinstance(b, int | float):
            return False
        both_nan = a != a and b != b
        return (
            a == b
            or both_nan
            or math.isclose(
                a,
                b,
                rel_tol=max(tolerance, 1e-9),
                abs_tol=tolerance,
            )
        )
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if type(a) is not type(b) or len(a) != len(b):
            return False
        return all(alike(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key], tolerance) for key in a)
    return type(a) is type(b) and a == b


def parse_arguments(arguments: object) -> list:
    """A call's arguments: a list, or a string with the Python literal of one, where JSON lacks a type."""
    try:
        if isinstance(arguments, str):
            return list(ast.literal_eval(arguments))
        return list(typing.cast(list, arguments))
    except (ValueError, SyntaxError, TypeError) as error:
        raise Broken(f"the arguments of a call are not a list: {error}") from None


def check_calls(
    link: Link,
    tests: dict,
    entry_point: str | None,
    partial: bool,
) -> dict:
    entry_point = tests.get("entry_point") or entry_point
    if not entry_point:
        raise Broken("tests of kind `calls` need an entry_point")
    reference = load_reference(tests, entry_point)
    candidate = program_function(link, entry_point)
    outputs = tests.get("outputs")
    if reference is None and outputs is None and tests["inputs"]:
        raise Broken("tests of kind `calls` need outputs or a reference")

    passed = 0
    total = 0
    why = ""
    for i, args in enumerate(map(parse_arguments, tests["inputs"])):
        if reference is not None:
            try:
                expected = reference_value(link, reference, args)
            except Exception:
                # Where the reference itself fails there is nothing to compare with.
                continue
        else:
            expected = typing.cast(list, outputs)[i]
        total += 1
        try:
            # A copy of the arguments: a candidate may change its arguments, and the message shows what it was called
            # with.
            value = as_list(candidate(*copy.deepcopy(args)))
            if reference is None:
                # The expected value was written as JSON, which has no tuples.
                value = json.loads(json.dumps(value, default=list))
            is_right = matches(value, as_list(expected), float(tests.get("atol") or 0))
        except Exception as error:
            value = error
            is_right = False
        passed += is_right
        if not is_right:
            why = why or f"call {i + 1}: {value!r:.200}"
            if not partial:
                break
    return {
        "passed": passed,
        "total": total if partial or not why else max(total, passed + 1),
        "why": why,
    }


def load_reference(tests: dict, entry_point: str) -> typing.Callable[..., object] | None:
    """The tests' own solution, which says what is right; None where they hold outputs instead."""
    names: dict[str, object] = {"__name__": "reference"}
    if tests.get("reference"):
        try:
            exec(CompiledTests(tests["reference"]).code, names)
        except Exception as error:
            raise Broken(f"the reference fails: {type(error).__name__}: {error}") from None
    reference = names.get(entry_point)
    return reference if callable(reference) else None


class _TooLarge(Exception):
    """A value that no candidate could return either."""


def reference_value(
    link: Link,
    reference: typing.Callable[..., object],
    args: list,
) -> object:
    """The value of the reference, coded and decoded as the candidate's is, so that both have the same types."""
    value = reference(*copy.deepcopy(args))
    # Of a match counts only that there is one.
    if isinstance(value, re.Match):
        return value
    coded = json.dumps(encode(value, link))
    # Half, since a candidate's value travels in a message.
    if len(coded) > MAX_FRAME // 2:
        raise _TooLarge
    return decode(json.loads(coded), link)


def matches(
    value: object,
    expected: object,
    tolerance: float,
) -> bool:
    """Whether a candidate's value is the expected one."""
    return bool(value) if isinstance(expected, re.Match) else alike(value, expected, tolerance)


def as_list(value: object) -> object:
    """A generator's or iterator's values; other values unchanged."""
    if isinstance(value, types.GeneratorType | type(iter([]))):
        return list(typing.cast("typing.Iterator[object]", value))
    return value
