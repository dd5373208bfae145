"""Imports point one way, and the driver stays light."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from engine import CHAIN, ROOT, config, environment

# Each module imports, at module level, only from layers above it in this list (design: cli > pipeline > config ... > schema > errors).
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("artifacts", "schema", "here", "endpoint", "batches"),
    ("yamltree", "device"),
    ("looks", "kinds", "profiles"),
    ("validate",),
    ("joins", "environment", "worker"),
    ("config", "store", "hosts", "forkserver"),
    ("hub", "launch", "failure", "slurm", "order"),
    ("manifest",),
    ("console", "summary"),
    ("plan", "status", "audit"),
    ("pipeline", "cli_data"),
    ("cli",),
)
DEPTH = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}
LIBRARY = ("data", "generation", "rewards", "training", "evaluation", "embedded")
HEAVY = ("torch", "transformers", "trl", "datasets", "deepspeed", "accelerate", "peft", "pandas", "pyarrow", "numpy")


def imported(path: Path, everywhere: bool) -> set[str]:
    """r1pipe's modules that a file imports; at module level only, or anywhere; never those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf8"))
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.FunctionDef) and not everywhere:
            return
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return {name.split(".")[1] for name in names if name.startswith("r1pipe.")}


def engine() -> dict[str, list[Path]]:
    """The files of every module of the engine; a package is one module."""
    files = {path.stem: [path] for path in (ROOT / "r1pipe").glob("*.py") if path.stem != "__init__"}
    packages = {path.parent.name: sorted(path.parent.glob("*.py")) for path in (ROOT / "r1pipe").glob("*/__init__.py") if path.parent.name not in LIBRARY}
    return files | packages


def test_every_module_of_the_engine_has_its_layer():
    assert set(engine()) == set(DEPTH)


@pytest.mark.parametrize("module", sorted(engine()))
def test_the_engine_imports_only_downwards(module: str):
    names = set[str]().union(*(imported(path, everywhere=False) for path in engine()[module]))
    assert not {name for name in names & set(DEPTH) if DEPTH[name] >= DEPTH[module]} - {module}


@pytest.mark.parametrize("package", LIBRARY)
def test_the_library_never_imports_the_engine(package: str):
    allowed = {"errors", "artifacts", "schema", "here", "endpoint", "batches"}
    for path in (ROOT / "r1pipe" / package).rglob("*.py"):
        starts = {"kinds"} if path.stem == "cluster" else set()  # a process of Ray's begins as the worker of a stage does: with the stages at hand
        assert not (imported(path, everywhere=True) & set(DEPTH)) - allowed - starts, path


def test_stages_import_only_contracts_and_light_modules_at_module_level():
    code = "import sys, json\nfrom r1pipe.kinds import builtin_kinds, load_kind\nfor k in builtin_kinds(): load_kind(k)\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert not set(HEAVY) & set(json.loads(done.stdout))
    for path in (ROOT / "stages").glob("*.py"):
        assert not (imported(path, everywhere=True) & set(DEPTH)) - {"errors", "artifacts", "schema", "here"}, path


@pytest.mark.parametrize("arguments", [["run-all", "t.yaml"], ["plan", "t.yaml"], ["status", "t"], ["config", "show", "t.yaml"]], ids=lambda a: a[0])
def test_the_driver_never_imports_torch(tmp_path: Path, arguments: list[str]):
    config(tmp_path, CHAIN)
    (tmp_path / "runs/t").mkdir(parents=True)
    code = f"""
import json, sys
sys.argv = ['r1pipe', *{arguments!r}]
from r1pipe.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(json.loads(done.stdout.splitlines()[-1]))
