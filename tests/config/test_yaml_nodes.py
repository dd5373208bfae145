"""Configs that would keep a reader busy for ever, or end it with a traceback: refused, with file and line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from r1pipe.config.yamltree import assign, plain, read
from r1pipe.errors import ConfigError

DOUBLED = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))
MERGED = "\n".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], k{i}: 1}}" for i in range(1, 40))

# name -> (YAML, line of the error, what it says)
BOMBS: dict[str, tuple[str, int | None, str]] = {
    "aliases of aliases": (f"a0: &a0 [1, 2]\n{DOUBLED}\n", 16, "stands for more than 100,000 values"),
    "merge keys of merge keys": (f"m0: &m0 {{k: 1}}\n{MERGED}\n", 15, "stands for more than 100,000 values"),
    "an alias in its own list": ("a: 1\nb: &b [*b]\n", 2, "an alias (*name) stands inside of what it names"),
    "a mapping merged into itself": ("a: &a\n  <<: *a\n", 1, "an alias (*name) stands inside of what it names"),
    "a key that is its own mapping": ("a: &a {? *a : 1}\n", 1, "an alias (*name) stands inside"),
    "brackets without end": ("a: 1\nb: " + "[" * 100_000, 2, "nested more than 64 levels deep"),
    "brackets that are closed": ("b: " + "[" * 9000 + "]" * 9000, 1, "nested more than 64 levels deep"),
    "blocks in blocks": ("\n".join(" " * i + "a:" for i in range(900)), 65, "nested more than 64 levels deep"),
    "question marks": ("? " * 50_000, 1, "nested more than 64 levels deep"),
    "depth by aliases": (
        "a0: &a0 [1]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 99)), 65, "nested more than 64",
    ),
    "an integer of 5,000 digits": (f"a: 1\nseed: {'9' * 5000}\n", 2, "has 5,000 digits"),
    "an integer of 65 bits": (f"seed: {2**63}\n", 1, "more than 64 bits"),
    "a word that is said to be a number": ("a: !!int many\n", 1, "invalid literal"),
    "a word that is said to be true": ("a: !!bool perhaps\n", 1, "'perhaps' is no bool"),
    "what is not a number": ("a: 1\nb: [.nan]\n", 2, ".nan is not a number"),
    "a date": ("a: !!timestamp tomorrow\n", 1, "no values of the type !!timestamp"),
    "bytes": ("a: !!binary aGk=\n", 1, "no values of the type !!binary"),
    "an object of Python": ("a: !!python/object/apply:os.system [id]\n", 1, "no values of the type !!python/object"),
    "a name of Python": ("a: !!python/name:os.system\n", 1, "no values of the type !!python/name"),
    "a set": ("a: !!set {b, c}\n", 1, "no values of the type !!set"),
    "characters without end": ("a: " + "x" * 2**20, None, "at most 1,048,576 characters"),
    "a null character": ("a: b\0c\n", None, "not YAML"),
    "another alphabet of bytes": ("a: \x80", None, "not YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_with_its_line(tmp_path: Path, name: str) -> None:
    text, line, what = BOMBS[name]
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    started = time.process_time()
    with pytest.raises(ConfigError) as refused:
        read(path)
    assert time.process_time() - started < 5
    assert what in refused.value.what
    assert refused.value.where.endswith("bomb.yaml" if line is None else f"bomb.yaml:{line}")


@pytest.mark.parametrize(
    "statement",
    [f"a={'[' * 9000}", "a=&a [*a]", f"a={'9' * 5000}", "a=!!binary aGk=", ".".join("a" * 999) + "=1"],
)
def test_a_bomb_in_a_set_is_refused(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("b: 1")
    with pytest.raises(ConfigError):
        assign(read(path), statement)


def test_configs_that_extend_others_twice_over_are_refused(tmp_path: Path) -> None:
    """Each names the one before it twice: the last stands for 2 ** 40 files."""
    (tmp_path / "0.yaml").write_text("a: 1")
    for number in range(1, 41):
        (tmp_path / f"{number}.yaml").write_text(f"extends: [{number - 1}.yaml, {number - 1}.yaml]")
    with pytest.raises(ConfigError, match="extends at most 64 files"):
        read(tmp_path / "40.yaml")


def test_many_aliases_and_a_deep_value_are_taken(tmp_path: Path) -> None:
    """A grid of stages that share one anchor, and about the depth of the deepest field."""
    path = tmp_path / "a.yaml"
    rows = "\n".join(f"s{i}: *a" for i in range(500))
    path.write_text(f"a: &a {{x: [1, 2, 3]}}\n{rows}\ndeep: {'[' * 60}{']' * 60}\n")
    assert plain(read(path))["s499"] == {"x": [1, 2, 3]}
