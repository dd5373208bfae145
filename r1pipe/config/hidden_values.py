"""Keys and passwords anywhere in a config: refused before anything else is said, and never shown.

Fields that expect the address or the key of a service have checks of their own (r1pipe/schema/secrets.py). This is for
the others: options that are passed on to a library or a service, and texts into which a key was copied.
"""

from __future__ import annotations

from collections.abc import Iterator

from r1pipe.config.mistakes import Mistakes
from r1pipe.config.yamltree import Keys, Node
from r1pipe.text.key_shapes import SECRET_NAME, SECRET_VALUE


def refuse_secrets(tree: Node, shown: str) -> None:
    """Refuse a config that holds a secret.

    Args:
        shown: the file, as errors name it.

    Raises:
        ConfigError: with the place of each, without its value.
    """
    problems = Mistakes()
    for keys, node in _texts(tree, ()):
        if (keys and SECRET_NAME.fullmatch(str(keys[-1])) and node.value) or SECRET_VALUE.search(node.value):
            dotted = ".".join(map(str, keys))
            problems.add(
                f"{dotted} holds a key or a password, which would be written down and shown",
                # the argument of a --set states it
                str(node.origin).partition("=")[0],
                "put it into an environment variable; a service's is named in api_key_env",
            )
    problems.raise_all(shown)


def _texts(node: Node, keys: Keys) -> Iterator[tuple[Keys, Node]]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _texts(child, (*keys, key))
    elif isinstance(node.value, list):
        for number, child in enumerate(node.value):
            yield from _texts(child, (*keys, number))
    elif isinstance(node.value, str):
        yield keys, node
