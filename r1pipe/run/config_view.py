"""`r1pipe config show`: the resolved config, each value with its origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from r1pipe.config.loader import Edges, Pipeline
from r1pipe.config.yamltree import find

MAX_WIDTH = 72  # columns before the origins, unless a value is longer


def resolved(pipeline: Pipeline) -> dict[str, Any]:
    """The config with every default filled in and every path absolute."""
    stages = {}
    for name, stage in pipeline.stages.items():
        block: dict[str, Any] = {
            "kind": stage.kind.name,
            "inputs": {port: _as_written(edges) for port, edges in stage.inputs.items()},
            "outputs": stage.outputs,
        }
        if stage.use:
            block["use"] = {port: str(path) for port, path in stage.use.items()}
        stages[name] = block | stage.config.model_dump(mode="json")
    return {"run": pipeline.run, "isolation": pipeline.isolation, "stages": stages}


def _as_written(edges: Edges) -> Any:
    if isinstance(edges, dict):
        return {key: edge.text for key, edge in edges.items()}
    return None if edges is None else edges.text


def config_lines(pipeline: Pipeline, defaults: bool) -> list[str]:
    """`key: value  # origin`, one value a line."""
    lines = list(
        _lines(
            resolved(pipeline),
            (),
            pipeline,
            defaults,
        )
    )
    width = min(MAX_WIDTH, max((len(left) for left, origin in lines if origin), default=0))
    return [f"{left:{width}}  # {origin}" if origin else left for left, origin in lines]


def _lines(
    value: dict[str, Any], keys: tuple[str, ...], pipeline: Pipeline, defaults: bool
) -> Iterator[tuple[str, str]]:
    """(`key: value` with its indent, origin) of every value below `keys`; the origin of a mapping is empty."""
    for key, child in value.items():
        path = (*keys, key)
        node, walked = find(pipeline.tree, path)
        stated = walked == path
        # Values of the defaults have no node in the tree; `find` then stops above them.
        if not stated and not defaults:
            continue

        indent = "  " * len(keys)
        if isinstance(child, dict) and child:
            yield f"{indent}{key}:", ""
            yield from _lines(child, path, pipeline, defaults)
            continue

        if stated:
            origin = str(node.origin)
        elif key == "seed" and "seed" in pipeline.tree.value:
            # A stage's seed comes from the one at the top of the YAML.
            origin = f"{pipeline.tree.value['seed'].origin} (seed)"
        else:
            origin = "default"
        yield f"{indent}{key}: {json.dumps(child, ensure_ascii=False)}", origin
