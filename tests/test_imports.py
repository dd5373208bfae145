"""Imports point one way, and the driver stays light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from engine import CHAIN, ROOT, config, environment

# A package imports only from those before it, inside functions too; what stands at the top of r1pipe imports none of them.
ORDER = [
    "schema",
    "text",
    "models",
    "embedded",
    "rewards",
    "judges",
    "data",
    "generation",
    "evaluation",
    "training",
    "stages",
    "config",
    "launch",
    "run",
    "cli",
]
HEAVY = ("torch", "transformers", "trl", "datasets", "deepspeed", "accelerate", "peft", "pandas", "pyarrow", "numpy")


def imported(path: Path, everywhere: bool = True) -> set[str]:
    """The packages and modules at the top of r1pipe that a file imports; at module level only, or anywhere."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef) and not everywhere:
            return
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf8")))
    return {name.split(".")[1] for name in names if name.startswith("r1pipe.")}


def test_imports_go_one_way():
    folders = {path.parent.name for path in (ROOT / "r1pipe").glob("*/__init__.py")}
    assert folders == set(ORDER)
    for depth, package in enumerate(ORDER):
        for path in (ROOT / "r1pipe" / package).rglob("*.py"):
            assert not imported(path) & set(ORDER[depth + 1 :]), path
    for path in (ROOT / "r1pipe").glob("*.py"):
        assert not imported(path) & folders, path


def test_stages_import_only_contracts_and_light_modules_at_module_level():
    code = """
import json, sys
from r1pipe.config.registry import builtin_kinds, load_kind
for kind in builtin_kinds():
    load_kind(kind)
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(json.loads(done.stdout))
    for path in (ROOT / "stages").glob("*.py"):
        assert not imported(path) & {"config", "launch", "run", "cli"}, path


@pytest.mark.parametrize(
    "arguments",
    [["run-all", "t.yaml"], ["plan", "t.yaml"], ["status", "t"], ["config", "show", "t.yaml"]],
    ids=lambda a: a[0],
)
def test_the_driver_never_imports_torch(tmp_path: Path, arguments: list[str]):
    config(tmp_path, CHAIN)
    (tmp_path / "runs/t").mkdir(parents=True)
    code = f"""
import json, sys
sys.argv = ['r1pipe', *{arguments!r}]
from r1pipe.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(json.loads(done.stdout.splitlines()[-1]))
