"""What fuzzing has found: each input gave a traceback, or an answer too late."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from targets import SECONDS, TARGETS, seeds

from r1pipe.config.loader import load
from r1pipe.errors import ConfigError

FOUND = {
    # KeyError and TypeError in row_checks.py: a dataset of no special type may hold anything under any name.
    "a message without content": (
        "rows",
        b'\x00{"id": "1", "messages": [{"role": "user", "contelt": "a"}]}\n',
    ),
    "messages that are a text": ("rows", b'\x00{"id": "1", "messages": "abc"}\n'),
    "messages that are numbers": ("rows", b'\x00{"id": "1", "messages": [1, [2], {"content": 3}]}\n'),
    # AttributeError and TypeError in io.py, for the same reason.
    "a chosen answer that is a list": ("rows", b'\x00{"id": "1", "chosen": ["a"]}\n'),
    "a name that is a list": ("rows", b'\x00{"id": []}\n'),
    # 44 seconds and all memory of the machine, within the limit of time: a step of C is not interrupted.
    "a text of ten billion characters": ("template", b"{{ 'a' * 10 ** 10 }}"),
    "a filter that makes one": ("template", b"{{ 'a' | center(10 ** 10) }}"),
    "a list of ten billion entries": ("template", b"{{ [1] * 10 ** 10 }}"),
    "a field of a billion characters": ("template", b"{{ '%999999999d' % 1 }}"),
    "a power of powers": ("template", b"{{ 9 ** (9 ** 9) }}"),
    "a number that squares itself": (
        "template",
        b"{% set n = namespace(x=9) %}{% for i in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_it_is_refused_or_taken_in_time(name: str) -> None:
    target, data = FOUND[name]
    started = time.monotonic()
    TARGETS[target](data)
    assert time.monotonic() - started < SECONDS / 2


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_fuzzer_begins_with_is_refused_or_taken(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


def test_the_home_of_a_user_who_is_not_there(tmp_path: Path) -> None:
    """Path.expanduser raised RuntimeError."""
    text = "stages:\n  s: {kind: evaluate, inputs: {model: ~no-such-user/m}, outputs: {report: r}}\n"
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(ConfigError, match="nothing is at .*~no-such-user/m"):
        load(tmp_path / "t.yaml")
