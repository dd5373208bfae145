"""Imports point one way, the driver stays light, and every module has a name of its own."""

import ast
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from engine import CHAIN, ROOT, config, environment

PACKAGE = ROOT / "r1pipe"

# A package imports only from those before it, inside functions too. What stands at the top of r1pipe imports none of
# them.
ORDER = (
    "schema", "text", "models", "embedded", "rewards", "judges", "data", "generation", "evaluation", "training",
    "stages", "config", "launch", "run", "serving", "cli",
)  # fmt: skip

# The driver and the declarations of stages must start at once: these take seconds to import.
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "datasets",
    "deepspeed",
    "accelerate",
    "peft",
    "pandas",
    "pyarrow",
    "numpy",
}

# File names that several modules have, each with the reason.
SHARED_NAMES = {
    "arguments.py": "training/grpo's are those of training/, and what only GRPO has",
    "checks.py": "rewards/sandboxed/ holds what rewards/ runs in the sandbox",
    "judge.py": "rewards/judge.py is the reward that asks a judge of judges/judge.py",
    "sampling.py": "schema/ holds the settings of generation/, and GRPO samples in the trainer",
    "scoring.py": "evaluation/ scores a benchmark, rewards/ a response",
}


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
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ORDER)
    for depth, package in enumerate(ORDER):
        later = set(ORDER[depth + 1 :])
        for path in (PACKAGE / package).rglob("*.py"):
            forbidden = sorted(imported(path) & later)
            assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}, which come after {package}"
    for path in PACKAGE.glob("*.py"):
        assert not imported(path) & folders, path


def test_the_top_of_the_package_is_seen_at_a_glance():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "py.typed", "__pycache__"}
    assert len(entries) <= 20, sorted(entries)


def test_every_module_has_a_name_of_its_own():
    modules = defaultdict(list)
    for package in ORDER:
        for path in (PACKAGE / package).rglob("*.py"):
            if path.name != "__init__.py":
                modules[path.name].append(path.relative_to(PACKAGE).as_posix())
    shared = {name: paths for name, paths in modules.items() if len(paths) > 1}
    assert set(shared) == set(SHARED_NAMES), shared


def test_stages_import_only_contracts_and_light_modules_at_module_level():
    code = """
import json, sys
from r1pipe.config.registry import builtin_kinds, load_kind
for kind in builtin_kinds():
    load_kind(kind)
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(json.loads(done.stdout))
    for path in (ROOT / "stages").glob("*.py"):
        assert not imported(path) & {"config", "launch", "run", "serving", "cli"}, path


@pytest.mark.parametrize(
    "arguments",
    [["run-all", "t.yaml"], ["plan", "t.yaml"], ["status", "t"], ["config", "show", "t.yaml"]],
    ids=lambda arguments: arguments[0],
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
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not HEAVY & set(json.loads(done.stdout.splitlines()[-1]))
