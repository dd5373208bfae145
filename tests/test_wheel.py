"""The built wheel: what is in it, and that it works where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from engine import ROOT

pytestmark = pytest.mark.slow

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "R1"))}


def run(*command: str | Path, folder: Path | None = None) -> str:
    """Run a command without this checkout on its path; its stdout."""
    done = subprocess.run(command, cwd=folder, env=CLEAN, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(what: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel by setuptools' own hooks, which pip and `python -m build` call too."""
    target.mkdir()
    hook = "import sys; from setuptools import build_meta; "
    hook += "print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"
    name = run(sys.executable, "-c", hook, what, target, folder=source).splitlines()[-1]
    return target / name


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files under version control, so that nothing is built in the checkout; links stay links."""
    source = tmp_path_factory.mktemp("source") / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if path.is_symlink() or path.is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / name, follow_symlinks=False)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel") / "dist")


def venv(folder: Path) -> tuple[Path, Path]:
    """An environment without pip that sees the dependencies of this one: its python, and its site-packages."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # After the venv's own packages. This environment's editable r1pipe does not come along: it is a .pth file or a
    # finder, which a path entry does not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, site


def install(python: Path, *arguments: str | Path) -> None:
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", *arguments)


def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_only_top_level_name_is_r1pipe(wheel: Path) -> None:
    names = {name.split("/")[0] for name in contents(wheel)}
    assert {name for name in names if not name.endswith(".dist-info")} == {"r1pipe"}
    assert sum(name.endswith(".dist-info") for name in names) == 1


def test_everything_is_in_it(wheel: Path, source: Path) -> None:
    """Each file of the package, with stages/ and configs/ inside it, and nothing else."""
    inside = {name for name in contents(wheel) if ".dist-info/" not in name}
    tracked = set()
    for folder, below in (("r1pipe", "r1pipe"), ("stages", "r1pipe/stages"), ("configs", "r1pipe/configs")):
        for path in (source / folder).rglob("*"):
            generated = "__pycache__" in path.parts or path.suffix == ".sh"
            if path.is_file() and not generated:
                tracked.add(f"{below}/{path.relative_to(source / folder).as_posix()}")
    assert inside == tracked
    for name in (
        "r1pipe/embedded/data/base/model.safetensors",
        "r1pipe/stages/r1_zero.py",
        "r1pipe/configs/templates/r1-zero.txt",
        "r1pipe/configs/accelerate/zero3.yaml",
        "r1pipe/configs/accelerate/zero3.json",
        "r1pipe/configs/prompts/few-shot-examples.jsonl",
        "r1pipe/py.typed",
    ):
        assert name in inside


def test_a_wheel_built_from_the_sdist_is_the_same(source: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", source, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build("wheel", unpacked, tmp_path / "wheel")
    assert contents(again) == contents(wheel)


def test_installed_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    """init, plan and a stage, beside a `stages` folder of the user's that must neither be imported nor hide ours."""
    python, _ = venv(tmp_path / "venv")
    install(python, wheel)
    folder = tmp_path / "empty"
    (folder / "stages").mkdir(parents=True)
    for name in ("__init__.py", "prompts.py"):
        (folder / "stages" / name).write_text("raise SystemExit('the user\\'s own stages were imported')\n")

    where = run(python, "-c", "import r1pipe; print(r1pipe.__file__)", folder=tmp_path).strip()
    assert Path(where).is_relative_to(tmp_path / "venv"), "the wheel's r1pipe, not the checkout's"

    command = python.with_name("r1pipe")
    run(command, "init", folder=folder)
    assert (folder / "configs" / "templates" / "r1-zero.txt").is_file()
    stages = json.loads(run(command, "plan", "configs/r1.yaml", "--json", folder=folder))["stages"]
    assert len(stages) > 20
    run(command, "run-stage", "reasoning-prompts", "-c", "configs/smoke.yaml", folder=folder)
    assert (folder / "runs/smoke/reasoning-prompts/manifest.json").is_file()


def test_an_editable_install_runs_what_stands_in_the_checkout(source: Path, tmp_path: Path) -> None:
    python, _ = venv(tmp_path / "venv")
    checkout = tmp_path / "checkout"
    shutil.copytree(source, checkout, symlinks=True)
    install(python, "--no-build-isolation", "-e", checkout)

    code = "import r1pipe.stages.prompts as stage; print(stage.__file__)"
    where = Path(run(python, "-c", code, folder=tmp_path).strip())
    assert where.resolve() == checkout / "stages" / "prompts.py"
    plan = json.loads(run(python.with_name("r1pipe"), "plan", "configs/r1.yaml", "--json", folder=checkout))
    assert len(plan["stages"]) > 20
