"""Every example in a docstring is true."""

from __future__ import annotations

import doctest
import importlib
from importlib.util import find_spec

import pytest
from engine import ROOT

FILES = [*(ROOT / "r1pipe").glob("*/*.py"), *(ROOT / "r1pipe").glob("*/*/*.py")]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if ">>> " in path.read_text(encoding="utf8")
)
NEEDS = {"r1pipe.rewards.reasoning_gym": "reasoning_gym", "r1pipe.generation.cached_kernel": "triton"}


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    needed = NEEDS.get(module)
    if needed is not None and find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
