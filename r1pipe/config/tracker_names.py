"""The key `track:`: who else than the run's folder gets the curves of a run."""

from __future__ import annotations

from r1pipe.config.mistakes import Mistakes
from r1pipe.config.yamltree import Node, nearest, plain

# Each is called like its package on PyPI, and like the extra of r1pipe that installs it.
TRACKERS = ("tensorboard", "trackio", "wandb")


def read_trackers(tree: Node, problems: Mistakes) -> tuple[str, ...]:
    """The trackers that a config names, each once.

    Args:
        tree: the config.
        problems: gets what is wrong.
    """
    node = tree.value.get("track")
    if node is None or node.value is None:
        return ()
    entries = node.value if isinstance(node.value, list) else [node]
    names: list[str] = []
    for entry in entries:
        if entry.value in TRACKERS:
            names.append(entry.value)
            continue
        name = plain(entry)
        if isinstance(name, str):
            problems.add(f"track: there is no tracker '{name}'", entry.origin, nearest(name, TRACKERS))
        else:
            what = f"track should be a list of names; it holds {name!r}"
            problems.add(what, entry.origin, f"track: [{', '.join(TRACKERS)}], or some of them")
    return tuple(dict.fromkeys(names))
