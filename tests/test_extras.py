"""The extras and the pins: each extra has a lower bound, and all of them fit together."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from engine import ROOT
from packaging.requirements import Requirement

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
# They bring pins of their own, for torch, numpy and FastAPI among others, and are installed without ours.
WITH_OWN_PINS = ("vllm", "flash")
# What any version of goes.
WITHOUT_BOUND = {"ninja"}
NO_NETWORK = ("Failed to fetch", "error sending request", "Could not connect", "network was disabled")


def test_extras_have_lower_bounds():
    """Without one a resolver may go back years: gradio 3 or trackio 0.1 in place of a conflict that is told."""
    unbounded = []
    for name, requirements in EXTRAS.items():
        for text in requirements:
            requirement = Requirement(text)
            if requirement.name not in WITHOUT_BOUND and not any(
                bound.operator in (">=", "==", "~=") for bound in requirement.specifier
            ):
                unbounded.append(f"{name}: {text}")
    assert not unbounded


def resolved(extras: list[str], out: Path, *, pinned: bool) -> dict[str, str]:
    """Package -> version, as a fresh environment would get them."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: pip install uv")
    command = [uv, "pip", "compile", "pyproject.toml", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11", "--output-file", str(out)]
    for extra in extras:
        command += ["--extra", extra]
    if pinned:
        command += ["--constraint", "constraints.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if any(words in done.stderr for words in NO_NETWORK):
        pytest.skip(f"no package registry can be reached: {done.stderr.strip().splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    pairs = (line.split("==") for line in out.read_text().splitlines() if "==" in line)
    return {name.partition("[")[0]: version.partition(" ")[0] for name, version in pairs}


@pytest.mark.slow
def test_all_extras_fit_the_pins_together(tmp_path: Path):
    extras = [name for name in EXTRAS if name not in WITH_OWN_PINS]
    versions = resolved(extras, tmp_path / "all.txt", pinned=True)
    wanted = [Requirement(text) for name in extras for text in EXTRAS[name]]
    assert {requirement.name for requirement in wanted} <= set(versions)


@pytest.mark.slow
@pytest.mark.parametrize("extra", WITH_OWN_PINS)
def test_an_extra_with_pins_of_its_own_fits_what_we_need(tmp_path: Path, extra: str):
    resolved([extra], tmp_path / "own.txt", pinned=False)
