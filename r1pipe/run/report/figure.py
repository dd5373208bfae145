"""The figure of a run as boxes in rows, from its config alone: each box stands below those that it reads from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Kinds without a box: their scores stand in the boxes of the checkpoints.
WITHOUT_A_BOX = frozenset(("prompts", "evaluate", "compare"))


@dataclass
class Box:
    """A box of the figure.

    Attributes:
        kind: of the stage; `given` where no stage makes it.
        makes: names of artifacts.
        level: 0 is on top.
        place: in its level, from the left.
    """

    name: str
    kind: str
    makes: list[str]
    level: int = 0
    place: float = 0


def draw(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The boxes, as the fields of Box, and the arrows, as [from, to] by the boxes' names.

    Args:
        stages: the blocks of a run's config, in their order.
    """
    makers: dict[str, str] = {}
    for name, block in stages.items():
        for artifact in texts(block.get("outputs")):
            makers[artifact] = name

    boxes: dict[str, Box] = {}
    above: dict[str, list[Box]] = {}
    for name, block in stages.items():
        kind = kind_of(name, block)
        if kind in WITHOUT_A_BOX:
            continue
        above[name] = []
        for artifact in texts(block.get("inputs")):
            if artifact not in makers:
                boxes.setdefault(artifact, Box(artifact, "given", [artifact]))
            read = boxes.get(makers.get(artifact, artifact))
            # Prompts have no box, and two outputs of one stage are one arrow.
            if read is not None and read not in above[name]:
                above[name].append(read)
        box = Box(name, kind, list(texts(block.get("outputs"))))
        for read in above[name]:
            box.level = max(box.level, read.level + 1)
        boxes[name] = box

    # What reads nothing stands on top so far, maybe far from what reads it.
    _lower(boxes, above)
    _place(boxes, above)
    arrows: list[list[str]] = []
    for name, read in above.items():
        for box in read:
            arrows.append([box.name, name])
    return {"boxes": [asdict(box) for box in boxes.values()], "arrows": arrows}


def kind_of(name: str, block: Mapping[str, Any]) -> str:
    """The kind of a stage: the name where it states none."""
    return str(block.get("kind") or name)


def texts(ports: Any) -> Iterator[str]:
    """The names of artifacts in a block's inputs or outputs, however deep."""
    if isinstance(ports, str):
        yield ports
        return
    if isinstance(ports, Mapping):
        ports = list(ports.values())
    if isinstance(ports, list):
        for value in ports:
            yield from texts(value)


def _lower(boxes: Mapping[str, Box], above: Mapping[str, list[Box]]) -> None:
    """Put what reads nothing right above its first reader, so that few arrows are long."""
    for box in boxes.values():
        if above.get(box.name):
            continue
        below = []
        for reader, read in above.items():
            if box in read:
                below.append(boxes[reader].level)
        if below:
            box.level = min(below) - 1


def _place(boxes: Mapping[str, Box], above: Mapping[str, list[Box]]) -> None:
    """Order each level by the places of what its boxes read, so that few arrows cross."""
    levels: dict[int, list[Box]] = {}
    for box in boxes.values():
        levels.setdefault(box.level, []).append(box)

    for level in sorted(levels):
        for box in levels[level]:
            read = above.get(box.name)
            if read:
                box.place = sum(other.place for other in read) / len(read)
        levels[level].sort(key=lambda box: box.place)
        for place, box in enumerate(levels[level]):
            box.place = place
