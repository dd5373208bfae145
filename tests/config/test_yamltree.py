"""YAML as a tree with origins."""

from pathlib import Path
from typing import Any

import pytest

from r1pipe.config.yamltree import assign, find, leaves, merge, plain, read
from r1pipe.errors import ConfigError


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf8")
    return path


def test_scalars_follow_yaml_1_2(tmp_path: Path):
    """PyYAML's own rules read 1e-4 as a string, and `no` (the language) and `on` as booleans."""
    tree = read(
        write(
            tmp_path,
            "a.yaml",
            "lr: 1e-4\n"
            "language: no\n"
            "switch: on\n"
            "yes: 5e5\n"
            "flag: true\n"
            "gone: ~\n"
            "empty:\n"
            "name: '12'\n"
            "big: 10_000\n"
            "inf: .inf\n",
        )
    )
    assert plain(tree) == {
        "lr": 1e-4,
        "language": "no",
        "switch": "on",
        "yes": 5e5,
        "flag": True,
        "gone": None,
        "empty": None,
        "name": "12",
        "big": 10000,
        "inf": float("inf"),
    }


def test_every_value_knows_its_file_and_line(tmp_path: Path):
    write(tmp_path, "base.yaml", "a: 1\nb:\n  c: 2\n  d: 3\n")
    tree = read(write(tmp_path, "child.yaml", "extends: base.yaml\n\nb: {d: 4}\n"))
    origins = {".".join(map(str, keys)): str(node.origin) for keys, node in leaves(tree)}
    assert origins["a"].endswith("base.yaml:1")
    assert origins["b.c"].endswith("base.yaml:3")
    assert origins["b.d"].endswith("child.yaml:3")


def test_extends_merges_mappings_replaces_lists_and_null_removes(tmp_path: Path):
    write(tmp_path, "base.yaml", "a: {x: 1, y: [1, 2], z: 3}\nkeep: null\n")
    tree = read(write(tmp_path, "child.yaml", "extends: base.yaml\na: {y: [9], z: null, new: null}\n"))
    assert plain(tree) == {"a": {"x": 1, "y": [9], "new": None}, "keep": None}


def test_a_new_key_goes_above_the_next_one_that_the_base_has(tmp_path: Path):
    """Without it, a config that extends another could never put a stage above one that reads from it."""
    write(tmp_path, "base.yaml", "stages: {one: {}, two: {}, three: {}}\n")
    tree = read(
        write(
            tmp_path,
            "child.yaml",
            "extends: base.yaml\nstages: {new: {k: 1}, two: {in: new}, last: {k: 2}}\n",
        )
    )
    assert list(plain(tree)["stages"]) == ["one", "new", "two", "three", "last"]


def test_extends_of_several_files_later_wins_and_may_be_nested(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "one.yaml", "a: 1\nb: 1\nc: 1\n")
    write(tmp_path / "sub", "two.yaml", "extends: one.yaml\nb: 2\n")
    write(tmp_path, "three.yaml", "c: 3\n")
    tree = read(write(tmp_path, "all.yaml", "extends: [sub/two.yaml, three.yaml]\nd: 4\n"))
    assert plain(tree) == {"a": 1, "b": 2, "c": 3, "d": 4}
    assert find(tree, ("a",))[0].origin.base == tmp_path / "sub"  # so its relative paths start there


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("a: 1\na: 2\n", "appears twice", 2),
        ("a: [1, 2\nb: 3\n", "not YAML", 2),
        ("- a\n", "mapping", 1),
        ("a: 1\nextends: nothing.yaml\n", "no such file", 2),
        ("extends: t.yaml\n", "circle", None),
        ("a:\n\t- b\n", "not YAML", 2),
    ],
)
def test_a_broken_file_is_reported_with_its_line(tmp_path: Path, text: str, what: str, line: int | None):
    with pytest.raises(ConfigError, match=what) as caught:
        read(write(tmp_path, "t.yaml", text))
    assert line is None or caught.value.where.endswith(f"t.yaml:{line}")


def test_a_missing_file_says_what_to_do(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such config") as caught:
        read(tmp_path / "none.yaml")
    assert "init" in caught.value.fix


def test_anchors_and_merge_keys(tmp_path: Path):
    tree = read(write(tmp_path, "t.yaml", "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n"))
    assert plain(tree)["b"] == {"x": 1, "y": 3}


def test_set_takes_yaml_steps_into_lists_and_merges_mappings(tmp_path: Path):
    tree = read(write(tmp_path, "t.yaml", "a: {b: [{c: 1, d: 2}, 5]}\n"))
    tree = assign(tree, "a.b.0.c=1e-3")
    tree = assign(tree, "a.b.0={d: 7}")
    tree = assign(tree, "x.y=[1, 2]")
    assert plain(tree) == {"a": {"b": [{"c": 1e-3, "d": 7}, 5]}, "x": {"y": [1, 2]}}
    assert str(find(tree, ("a", "b", 0, "c"))[0].origin) == "--set a.b.0.c=1e-3"


@pytest.mark.parametrize("statement", ["a.b", "=3", "a.b.9.c=1", "a.b.x=1", "a=[1", "stages.tow.x=1"])
def test_a_wrong_set_is_refused(tmp_path: Path, statement: str):
    tree = read(write(tmp_path, "t.yaml", "a: {b: [1]}\nstages: {two: {}}\n"))
    with pytest.raises(ConfigError) as caught:
        assign(tree, statement)
    assert caught.value.where == f"--set {statement}"


def test_merge_leaves_its_arguments_alone(tmp_path: Path):
    base, over = (
        read(write(tmp_path, "a.yaml", "x: {y: 1}\n")),
        read(write(tmp_path, "b.yaml", "x: {y: 2, z: 3}\n")),
    )
    merge(base, over)
    assert plain(base) == {"x": {"y": 1}}


def test_an_anchor_that_merges_and_overrides_may_be_used_twice(tmp_path: Path) -> None:
    """Flattening `<<` changes the node that every alias of the anchor is."""
    text = "base: &base {n: 4, top_p: 1}\none: &one {<<: *base, n: 1}\ntwo: [*one, *one, {<<: *one, n: 2}]\n"
    tree: Any = plain(read(write(tmp_path, "c.yaml", text)))
    assert tree["two"] == [{"n": 1, "top_p": 1}] * 2 + [{"n": 2, "top_p": 1}]
