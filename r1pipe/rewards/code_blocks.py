"""The program of a response: which of its blocks it is, and how a class with a method is run on standard input."""

from __future__ import annotations

import ast
import builtins
import re

from r1pipe.rewards.texts import ANSWER_TAGS, after_thinking

# A block that is never closed, in a response that was cut off, ends with the text.
_FENCED = re.compile(r"```[ \t]*+(?P<language>[\w+#.-]*+)[^\n`]*\n(?P<body>.*?)(?:\n[ \t]*```|\Z)", re.S)
_PYTHON = ("", "python", "py", "python3")
_FIRST_STATEMENT = re.compile(r"^(?:def|class|import|from|async def|@\w)\b", re.M)
_SOLUTION = "Solution"


def extract_code(text: str, entry_point: str | None = None) -> str | None:
    """The program of a response: behind the thinking, in a fenced block, or from the first bare def, class or import.

    Of several Python blocks the last one that defines `entry_point` counts, else the last one that is a program: not
    the output of one, and not an example of how to use what an earlier block defines.

    >>> extract_code("<think>sum</think>Here:\\n```python\\ndef add(a, b):\\n    return a + b\\n```\\nDone.")
    'def add(a, b):\\n    return a + b'
    """
    summary = after_thinking(text)
    # R1-Zero's form puts the program into the answer tags.
    if "</answer>" in summary:
        tagged = ANSWER_TAGS.findall(summary)
        summary = tagged[-1] if tagged else summary

    blocks = [match["body"] for match in _FENCED.finditer(summary) if match["language"].lower() in _PYTHON]
    if len(blocks) > 1:
        defining = [block for block in blocks if entry_point and defines(block, re.escape(entry_point))]
        return (defining or _programs(blocks) or blocks)[-1]
    if blocks:
        return blocks[0]
    start = _FIRST_STATEMENT.search(summary)
    return summary[start.start() :].rstrip() if start else None


def defines(block: str, name: str) -> bool:
    """Whether a block defines a function or class; `name` is a pattern."""
    return bool(re.search(rf"^\s*(?:async )?(?:def|class)\s+{name}\b", block, re.M))


def compiles(source: str) -> bool:
    """Whether a text is Python."""
    return _tree(source) is not None


def _tree(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _programs(blocks: list[str]) -> list[str]:
    """Those blocks that are programs by themselves."""
    programs: list[str] = []
    defined_before: set[str] = set()
    for block in blocks:
        tree = _tree(block)
        if tree is None or all(map(_is_only_a_value, tree.body)):
            continue
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        if not _uses(tree, defined_before - defined):
            programs.append(block)
        defined_before |= defined
    return programs


def _is_only_a_value(statement: ast.stmt) -> bool:
    """Whether a line computes nothing: `42`, `[1, 2]`, `YES` are what a program prints."""
    if not isinstance(statement, ast.Expr):
        return False
    return not any(isinstance(node, ast.Call | ast.Await | ast.Yield) for node in ast.walk(statement))


def _uses(tree: ast.Module, names: set[str]) -> bool:
    """Whether the code uses one of these names, which it does not define, or imports it."""
    names = names - set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            return True
        if isinstance(node, ast.ImportFrom) and any(alias.name in names for alias in node.names):
            return True
    return False


# --- a class with a method, and standard input ------------------------------------------------------------------------

# Behind a program that only defines: call the method with what stands on standard input, and print what it returns.
_DRIVER = """

def _run_the_method():
    import ast, inspect, json, sys

    def value(text):
        for read in (json.loads, ast.literal_eval):
            try:
                return read(text)
            except (ValueError, SyntaxError):
                pass
        words = [value(word) for word in text.split()]
        return words if len(words) > 1 and all(isinstance(word, (int, float)) for word in words) else text

    method = getattr(Solution(), {name!r})
    count = len(inspect.signature(method).parameters)
    if not count:
        result = method()
    else:
        text = sys.stdin.read().strip()
        arguments = [value(line) for line in text.splitlines()]
        if len(arguments) != count:
            arguments = [value(word) for word in text.split()]
        if len(arguments) != count == 1:
            arguments = [arguments]
        result = method(*arguments)
    if result is not None:
        print(result if isinstance(result, str) else json.dumps(result, default=list))


_run_the_method()
"""


def with_driver(program: str, entry_point: str | None) -> str:
    """The program, and where it only defines a class Solution a call of its method: each line of the input an argument.

    Tests that are cases of standard input come with questions whose answers are such classes (LeetCode's, in
    LiveCodeBench), and with answers to other questions that forget the call.
    """
    tree = _tree(program)
    if tree is None or not all(
        isinstance(part, _DEFINITIONS) or _is_only_a_value(part) for part in tree.body
    ):
        return program
    methods = [
        part.name
        for solution in tree.body
        if isinstance(solution, ast.ClassDef) and solution.name == _SOLUTION
        for part in solution.body
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_")
    ]
    if not methods:
        return program
    usual = [name for name in (entry_point, "solve", "main") if name in methods]
    # Helpers stand before or behind the method that is meant; the last one calls them as a rule.
    name = usual[0] if usual else methods[-1]
    return program + _DRIVER.format(name=name)


_DEFINITIONS = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
)
