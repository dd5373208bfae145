"""YAML text as PyYAML's nodes: which scalars are numbers, and how large and how deep a config may be.

Scalars follow the core schema of YAML 1.2: `1e-4` is a number, and `no`, `off` and `on` are strings. PyYAML's own rules
are those of YAML 1.1, by which `1e-4` is a string and `no` is false.

Depth is checked while the text is parsed, since parsers need quadratic time for deep brackets and a frame of the stack
for each level. Aliases are counted before any of them is followed: nine lines can stand for a billion values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import yaml

from r1pipe.errors import ConfigError

# A config has some ten levels and a few hundred values; all limits are our choice.
MOST_CHARACTERS = 2**20
MOST_LEVELS = 64
MOST_VALUES = 100_000  # with each alias counted as what it stands for

# libyaml where PyYAML was built with it: 8 times as fast
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """SafeLoader with the core schema of YAML 1.2."""


_FLOAT = r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"

# The types of plain scalars, in the order in which they are tried: tag, pattern, first characters (PyYAML's index).
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
    ("merge", r"<<", "<"),
)
_TAG = "tag:yaml.org,2002:"

_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _construct_float(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node).replace("_", "").lower()
    if text == ".nan":
        # which does not even equal itself, so no config with it could be compared with another
        raise ValueError(".nan is not a number, and no setting takes it")
    return float(text.replace(".inf", "inf"))


def _construct_int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node).replace("_", "")
    # Python refuses to read 4,300 digits, and nothing that a number is passed on to holds more than 64 bits.
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(
            f"the integer has {len(text.lstrip('+-')):,} digits, and no setting takes one of more than 64 bits"
        )
    return int(text)


_Loader.add_constructor(f"{_TAG}float", _construct_float)
_Loader.add_constructor(f"{_TAG}int", _construct_int)

# What JSON can hold; YAML has sets, dates and bytes too.
_TYPES = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


@contextmanager
def composed(text: str, shown: str) -> Iterator[tuple[Any, yaml.Node | None]]:
    """The loader that constructs scalars, and the root of a text; None where it is empty.

    Args:
        shown: the file, as errors name it.

    Raises:
        yaml.YAMLError: the text is not YAML.
        ConfigError: it is too large or too deep, has a type that JSON lacks, or a mapping repeats a key.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(
            f"a config has at most {MOST_CHARACTERS:,} characters, and this one has {len(text):,}",
            shown,
            "keep data and long texts in files of their own, and name them here",
        )
    _refuse_depth(text, shown)
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is not None:
            _extent(root, shown, {})
            # before `<<` is flattened: a merged key may be repeated, a written one may not
            _refuse_repeated_keys(root, shown)
        yield loader, root
    finally:
        loader.dispose()


def scalar(loader: Any, node: yaml.Node, shown: str) -> Any:
    """The value of a scalar.

    Raises:
        ConfigError: the text is none of its type.
    """
    where = f"{shown}:{node.start_mark.line + 1}"
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError) as error:
        what = (
            str(error)
            if isinstance(error, ValueError)
            else f"{node.value!r:.60} is no {node.tag.replace(_TAG, '')}"
        )
        raise ConfigError(what, where) from None


def _refuse_depth(text: str, shown: str) -> None:
    levels = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            levels += 1
            if levels > MOST_LEVELS:
                raise _too_deep(f"{shown}:{event.start_mark.line + 1}")
        elif isinstance(event, yaml.CollectionEndEvent):
            levels -= 1


def _too_deep(where: str) -> ConfigError:
    return ConfigError(f"nested more than {MOST_LEVELS} levels deep", where, "a config has about ten levels")


class _Extent(NamedTuple):
    values: int
    levels: int


def _extent(node: yaml.Node, shown: str, known: dict[int, _Extent | None]) -> _Extent:
    """The values and the levels that a node stands for, with aliases followed.

    An alias is the node of its anchor, which stands before it. So each node is looked into once, and one that is looked
    into at the moment holds itself.
    """
    where = f"{shown}:{node.start_mark.line + 1}"
    if id(node) in known:
        extent = known[id(node)]
        if extent is None:
            raise ConfigError(
                "an alias (*name) stands inside of what it names (&name)", where, "write it out"
            )
        return extent
    if node.tag not in _TYPES:
        tag = node.tag.replace(_TAG, "!!")
        raise ConfigError(f"a config has no values of the type {tag}", where, "write it without the tag")
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    extents = [_extent(child, shown, known) for child in children]
    extent = _Extent(
        1 + sum(child.values for child in extents), 1 + max((child.levels for child in extents), default=0)
    )
    if extent.values > MOST_VALUES:
        raise ConfigError(
            f"with its aliases (*name) this stands for more than {MOST_VALUES:,} values",
            where,
            "name files in place of values, or use fewer aliases",
        )
    if extent.levels > MOST_LEVELS + 1:
        raise _too_deep(where)
    known[id(node)] = extent
    return extent


def _refuse_repeated_keys(root: yaml.Node, shown: str) -> None:
    waiting = [root]
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        # an alias is the node of its anchor
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            _refuse_repeated(node, shown)
            waiting += [child for _, child in node.value]


def _refuse_repeated(node: yaml.MappingNode, shown: str) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
            continue
        line = key.start_mark.line + 1
        if key.value in lines:
            raise ConfigError(
                f"the key '{key.value}' appears twice", f"{shown}:{line}", f"first: line {lines[key.value]}"
            )
        lines[key.value] = line
