"""The built wheel: what is in it, and that it works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from engine import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is under version control or would be, so that no build folder is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("r1pipe", "stages", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    (source / "README.md").touch()
    (source / "tests").mkdir()  # must not get in
    (source / "tests" / "__init__.py").touch()
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(folder),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("r1pipe-*.whl"))


def test_top_level_names(wheel: Path) -> None:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"r1pipe", "stages", "configs"}
    assert sum(name.endswith(".dist-info") for name in names) == 1


def test_everything_is_in_it(wheel: Path) -> None:
    """Each file of the three folders, the bases, templates and profiles among them, and nothing else."""
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = {
        path.relative_to(ROOT).as_posix()
        for top in ("r1pipe", "stages", "configs")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".sh"
    }
    assert inside == tracked
    for needed in (
        "r1pipe/embedded/data/base/model.safetensors",
        "configs/templates/r1-zero.txt",
        "configs/accelerate/zero3.yaml",
        "configs/accelerate/zero3.json",
        "r1pipe/py.typed",
    ):
        assert needed in inside


def test_installed_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """init, plan and a stage, beside a `stages` folder of the user's that must neither be imported nor hide ours."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    python = venv / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
        ).stdout.strip()
    )
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # The dependencies of this environment, after the venv's own; its editable r1pipe is a .pth or finder there, which a path entry does not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    folder = tmp_path / "empty"
    (folder / "stages").mkdir(parents=True)
    (folder / "stages" / "__init__.py").write_text("raise SystemExit('the user\\'s own stages were imported')\n")
    (folder / "stages" / "prompts.py").write_text("raise SystemExit('the user\\'s own stages were imported')\n")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "R1"))}

    def r1pipe(*arguments: str) -> str:
        done = subprocess.run(
            [venv / "bin" / "r1pipe", *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [python, "-c", "import r1pipe; print(r1pipe.__file__)"], cwd=tmp_path, env=clean, capture_output=True, text=True
    ).stdout
    assert Path(where.strip()).is_relative_to(venv), "the wheel's r1pipe, not the checkout's"
    r1pipe("init")
    assert (folder / "configs" / "templates" / "r1-zero.txt").is_file()
    stages = json.loads(r1pipe("plan", "configs/r1.yaml", "--json"))["stages"]
    assert len(stages) > 20
    r1pipe("run-stage", "reasoning-prompts", "-c", "configs/smoke.yaml")
    assert (folder / "runs/smoke/reasoning-prompts/manifest.json").is_file()
