"""YAML as a tree that remembers where every value was written.

`read` parses a file and what it extends, `assign` applies one --set, `plain` gives the bare values. Scalars follow YAML 1.2's
core schema: `1e-4` is a number, and `no`, `off` and `on` are strings (PyYAML's own 1.1 rules read them otherwise).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from r1pipe.errors import ConfigError

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Origin:
    """Who stated a value: a file and line, or a --set; `base` is what relative paths start from."""

    text: str
    base: Path

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Node:
    """A value and its origin; the children of mappings and lists are Nodes."""

    value: Any  # dict[str, Node] | list[Node] | str | int | float | bool | None
    origin: Origin


_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where PyYAML was built with it: 8 x faster


class _Loader(_Fast):
    """SafeLoader with the core schema of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _construct_float(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_int(loader: Any, node: Any) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


LISTED = 12  # names shown where none is close


def nearest(word: str, known: Sequence[str]) -> str:
    """`Did you mean ...?`, or the list of what there is.

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


def read(path: Path, seen: tuple[Path, ...] = ()) -> Node:
    """Parse a file and merge it over what it `extends`.

    Raises:
        ConfigError: the file is missing, is not a YAML mapping, repeats a key, or extends itself.
    """
    path = path.absolute()
    if path in seen:
        raise ConfigError(
            "extends goes round in a circle: " + " -> ".join(str(p.name) for p in (*seen, path)), str(path)
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
        target = path.parent / Path(parent.value).expanduser()
        if not target.is_file():
            raise ConfigError(f"extends '{parent.value}': no such file", str(parent.origin), f"looked for {target}")
        tree = read(target, (*seen, path))
        merged = tree if merged is None else merge(merged, tree)
    return node if merged is None else merge(merged, node)


def _parse(path: Path) -> Node:
    shown = shorten(path)
    try:
        text = path.read_text(encoding="utf8")
    except FileNotFoundError:
        raise ConfigError(
            f"no such config: {shown}", fix="give a YAML file; `r1pipe init` copies the shipped ones to edit"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config: {error}", shown) from None
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Node({}, Origin(f"{shown}:1", path.parent))
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError("a config is a mapping of keys to values", f"{shown}:1")
        return _convert(loader, root, shown, path.parent, root.start_mark.line)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not YAML: {error.problem or error.context}", f"{shown}:{line}", error.note or "") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}", shown) from None
    finally:
        loader.dispose()


def shorten(path: Path) -> str:
    """The path as seen from the working folder, where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _convert(loader: Any, node: yaml.Node, shown: str, base: Path, line: int) -> Node:
    origin = Origin(f"{shown}:{line + 1}", base)
    if isinstance(node, yaml.MappingNode):
        firsts: dict[str, int] = {}
        for key, _ in node.value:  # before << is flattened: a merged key may be repeated, a written one not
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in firsts:
                    raise ConfigError(
                        f"the key '{key.value}' stands twice",
                        f"{shown}:{key.start_mark.line + 1}",
                        f"first: line {firsts[key.value]}",
                    )
                firsts[key.value] = key.start_mark.line + 1
        loader.flatten_mapping(node)
        children = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError("a key must be a word", f"{shown}:{key.start_mark.line + 1}")
            children[key.value] = _convert(loader, child, shown, base, key.start_mark.line)
        return Node(children, origin)
    if isinstance(node, yaml.SequenceNode):
        return Node([_convert(loader, child, shown, base, child.start_mark.line) for child in node.value], origin)
    return Node(loader.construct_object(node), origin)


def merge(base: Node, over: Node) -> Node:
    """Deep merge: mappings key by key, anything else replaces, null removes a key that the base has.

    A key that only `over` has is placed before the next key of `over` that the base has, else at the end: so a file that
    extends another can put a new stage above one that reads from it.
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
            "--set takes KEY.KEY=VALUE", str(origin), "for example --set stages.reasoning-rl.grpo.beta=0.01"
        )
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        value = Node(None, origin) if node is None else _restamp(_convert(loader, node, "--set", Path.cwd(), 0), origin)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of --set is not YAML: {text}", str(origin)) from error
    finally:
        loader.dispose()
    keys = dotted.strip().split(".")
    stages = root.value.get("stages") if isinstance(root.value, dict) else None
    if (
        keys[0] == "stages"
        and len(keys) > 2
        and stages
        and isinstance(stages.value, dict)
        and keys[1] not in stages.value
    ):
        raise ConfigError(f"no stage is called '{keys[1]}'", str(origin), nearest(keys[1], list(stages.value)))
    return _assign(root, keys, value, origin)


def _assign(node: Node, keys: list[str], value: Node, origin: Origin) -> Node:
    key, rest = keys[0], keys[1:]
    if isinstance(node.value, list):
        if not key.isdigit() or int(key) >= len(node.value):
            raise ConfigError(
                f"'{key}' is not an item of this list", str(origin), f"it has {len(node.value)} items, counted from 0"
            )
        items = list(node.value)
        items[int(key)] = _assign(items[int(key)], rest, value, origin) if rest else merge(items[int(key)], value)
        return replace(node, value=items)
    if not isinstance(
        node.value, dict
    ):  # a value stood here: the deeper key replaces it, and validation says if that is wrong
        node = Node({}, origin)
    if rest:
        child = _assign(node.value.get(key, Node({}, origin)), rest, value, origin)
        return replace(node, value={**node.value, key: child})
    return merge(node, Node({key: value}, origin)) if node.value else Node({key: value}, origin)


def _restamp(node: Node, origin: Origin) -> Node:
    if isinstance(node.value, dict):
        return Node({key: _restamp(child, origin) for key, child in node.value.items()}, origin)
    if isinstance(node.value, list):
        return Node([_restamp(child, origin) for child in node.value], origin)
    return Node(node.value, origin)


def plain(node: Node) -> Any:
    """The bare values."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def find(node: Node, keys: Sequence[str | int]) -> tuple[Node, Keys]:
    """The deepest node on the way along `keys`, and how far the way went; keys that lead nowhere are passed over."""
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
