"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        ".accuracy",
        ".adversarial",
        ".answers",
        ".code",
        ".format",
        ".language",
        ".latin",
        ".repetition",
        ".scoring",
        ".texts",
    ],
)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"r1pipe.rewards{name}"))
    assert result.attempted > 0
    assert result.failed == 0
