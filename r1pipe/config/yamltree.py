"""YAML as a tree that remembers where every value was written.

`read` parses a file and what it extends, `assign` applies one --set, `plain` returns the bare values.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from r1pipe.config.yaml_nodes import MOST_LEVELS, composed, scalar
from r1pipe.errors import ConfigError
from r1pipe.text.regular_files import in_home, read_regular, reason

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Where a value is stated: a file and line, or a --set; `base` is the folder that relative paths start from."""

    text: str
    base: Path

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Node:
    """A value and its origin; the children of mappings and lists are Nodes."""

    value: Any  # dict[str, Node] | list[Node] | str | int | float | bool | None
    origin: Origin


LISTED = 12  # names shown where none is close


def nearest(word: str, known: Sequence[str]) -> str:
    """`did you mean ...?`, or the list of what is known.

    >>> nearest("temprature", ["temperature", "top_p"])
    "did you mean 'temperature'?"
    """
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.55)
    if close:
        return f"did you mean '{close[0]}'?"
    if not known:
        return ""
    more = ", ..." if len(known) > LISTED else ""
    return f"known: {', '.join(sorted(known)[:LISTED])}{more}"


MOST_FILES = 64  # that a config extends, those of what it extends included (our choice)


def read(path: Path) -> Node:
    """Parse a file and merge it over what it `extends`.

    Raises:
        ConfigError: the file is missing, is not a YAML mapping, is too large, repeats a key, or extends itself.
    """
    return _read(path.absolute(), (), [])


def _read(path: Path, above: tuple[Path, ...], files: list[Path]) -> Node:
    """Read one file.

    Args:
        above: the files that led to this one by `extends`.
        files: takes all that were read.
    """
    if path in above:
        circle = " -> ".join(file.name for file in (*above, path))
        raise ConfigError(f"configs extend each other in a circle: {circle}", str(path))
    files.append(path)
    # a file that is named twice is read twice, and so is what it extends
    if len(files) > MOST_FILES:
        raise ConfigError(
            f"a config extends at most {MOST_FILES} files, and this one more",
            str(above[0]),
            "name each file once",
        )
    node = _parse(path)
    extends = node.value.pop("extends", None)
    if extends is None or extends.value is None:
        return node
    parents = extends.value if isinstance(extends.value, list) else [extends]
    merged: Node | None = None
    for parent in parents:
        if not isinstance(parent.value, str):
            raise ConfigError("extends takes a path or a list of paths", str(parent.origin))
        target = path.parent / in_home(Path(parent.value))
        if not target.exists():
            raise ConfigError(
                f"extends '{parent.value}': no such file", str(parent.origin), f"looked for {target}"
            )
        tree = _read(target, (*above, path), files)
        merged = tree if merged is None else merge(merged, tree)
    return node if merged is None else merge(merged, node)


def _parse(path: Path) -> Node:
    shown = shorten(path)
    try:
        text = read_regular(path).decode("utf8")
    except FileNotFoundError:
        raise ConfigError(
            f"no such config: {shown}",
            fix="give a YAML file; `r1pipe init` copies the shipped ones to edit",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config: {reason(error)}", shown) from None
    try:
        with composed(text, shown) as (loader, root):
            if root is None:
                return Node({}, Origin(f"{shown}:1", path.parent))
            if not isinstance(root, yaml.MappingNode):
                raise ConfigError("a config is a mapping of keys to values", f"{shown}:1")
            return _convert(loader, root, shown, path.parent, root.start_mark.line)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(
            f"not YAML: {error.problem or error.context}", f"{shown}:{line}", error.note or ""
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}", shown) from None


def shorten(path: Path) -> str:
    """The path as seen from the working folder, where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _convert(loader: Any, node: yaml.Node, shown: str, base: Path, line: int) -> Node:
    origin = Origin(f"{shown}:{line + 1}", base)
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        children = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError("a key must be a word", f"{shown}:{key.start_mark.line + 1}")
            children[key.value] = _convert(loader, child, shown, base, key.start_mark.line)
        return Node(children, origin)
    if isinstance(node, yaml.SequenceNode):
        return Node(
            [_convert(loader, child, shown, base, child.start_mark.line) for child in node.value], origin
        )
    return Node(scalar(loader, node, shown), origin)


def merge(base: Node, over: Node) -> Node:
    """Deep merge: mappings key by key, anything else replaces, null removes a key that the base has.

    A key that only `over` has is placed before the next key of `over` that the base has, else at the end. So a file
    that extends another can put a new stage above a stage that reads from it.
    """
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    result: dict[str, Node] = dict(base.value)
    waiting: list[str] = []
    for key, child in over.value.items():
        if key not in base.value:
            waiting.append(key)
            continue
        result = _insert_before(result, key, {new: over.value[new] for new in waiting})
        waiting = []
        if child.value is None:
            del result[key]
        else:
            result[key] = merge(base.value[key], child)
    result.update({new: over.value[new] for new in waiting})
    return Node(result, over.origin if not base.value else base.origin)


def _insert_before(mapping: dict[str, Node], key: str, new: dict[str, Node]) -> dict[str, Node]:
    result: dict[str, Node] = {}
    for old, value in mapping.items():
        if old == key:
            result.update(new)
        result[old] = value
    return result


def assign(root: Node, statement: str) -> Node:
    """Apply `a.b.c=VALUE` (VALUE is YAML; a number steps into a list: `phases.0.steps=3`).

    Raises:
        ConfigError: no `=`, VALUE is not YAML, or the path does not lead anywhere.
    """
    dotted, equals, text = statement.partition("=")
    origin = Origin(f"--set {statement}", Path.cwd())
    if not equals or not dotted.strip():
        raise ConfigError(
            "--set takes KEY.KEY=VALUE",
            str(origin),
            "for example --set stages.reasoning-rl.grpo.beta=0.01",
        )
    try:
        with composed(text, "--set") as (loader, node):
            value = Node(None, origin)
            if node is not None:
                value = _with_origin(_convert(loader, node, "--set", Path.cwd(), 0), origin)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of --set is not YAML: {text}", str(origin)) from error
    keys = dotted.strip().split(".")
    if len(keys) > MOST_LEVELS:
        raise ConfigError(f"--set steps down {len(keys)} levels; a config has about ten", str(origin)[:80])
    _refuse_unknown_stage(root, keys, origin)
    return _assign(root, keys, value, origin)


def _refuse_unknown_stage(root: Node, keys: list[str], origin: Origin) -> None:
    """One value alone is not a stage, so an unknown name is a misspelt one."""
    stages = root.value.get("stages")
    if keys[0] != "stages" or len(keys) < 3 or stages is None or not isinstance(stages.value, dict):
        return
    name = keys[1]
    if name not in stages.value:
        raise ConfigError(f"no stage is called '{name}'", str(origin), nearest(name, list(stages.value)))


def _assign(node: Node, keys: list[str], value: Node, origin: Origin) -> Node:
    key, *rest = keys
    if isinstance(node.value, list):
        if not key.isdigit() or int(key) >= len(node.value):
            raise ConfigError(
                f"'{key}' is not an item of this list",
                str(origin),
                f"it has {len(node.value)} items, counted from 0",
            )
        items = list(node.value)
        item = items[int(key)]
        items[int(key)] = _assign(item, rest, value, origin) if rest else merge(item, value)
        return replace(node, value=items)

    # a scalar is replaced by the deeper key; validation reports it if that is wrong
    if not isinstance(node.value, dict):
        node = Node({}, origin)
    if rest:
        child = node.value.get(key, Node({}, origin))
        return replace(node, value={**node.value, key: _assign(child, rest, value, origin)})
    assigned = Node({key: value}, origin)
    return merge(node, assigned) if node.value else assigned


def _with_origin(node: Node, origin: Origin) -> Node:
    if isinstance(node.value, dict):
        return Node({key: _with_origin(child, origin) for key, child in node.value.items()}, origin)
    if isinstance(node.value, list):
        return Node([_with_origin(child, origin) for child in node.value], origin)
    return Node(node.value, origin)


def plain(node: Node) -> Any:
    """The bare values."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def find(node: Node, keys: Sequence[str | int]) -> tuple[Node, Keys]:
    """The deepest node along `keys`, and the keys that led to it; keys that lead nowhere are skipped."""
    walked: list[str | int] = []
    for key in keys:
        if isinstance(node.value, dict) and str(key) in node.value:
            node = node.value[str(key)]
            walked.append(str(key))
        elif isinstance(node.value, list) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            walked.append(key)
    return node, tuple(walked)


def leaves(node: Node, prefix: Keys = ()) -> Iterator[tuple[Keys, Node]]:
    """Every value that is not a mapping, with its path."""
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from leaves(child, (*prefix, key))
    else:
        yield prefix, node
