"""What a stage is made from, as one hash.

A fingerprint covers the kind, the config and the identities of the inputs. The identity of an input that a stage made
is that stage's fingerprint and the port; of one that the user brought, the hash of its content; of one on the hub, its
commit. A stage on disk counts as done only while its recorded fingerprint is the one that the config gives.

Left out is how a stage is run and watched (NOT_FINGERPRINTED). The versions of r1pipe, of the stage's module and of the
libraries are recorded and compared, but they only warn (r1pipe/run/manifest.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from r1pipe.config.loader import Edge, Pipeline, Stage
from r1pipe.config.validation import trainings
from r1pipe.config.yamltree import Keys
from r1pipe.data.files import before_pattern, matches
from r1pipe.run.digests import Digests, combined
from r1pipe.run.hub_models import hub_commit
from r1pipe.schema import GRPOParams, Ordered, SamplingEndpoint, ServedModel, StageConfig

FINGERPRINT_VERSION = (
    3  # raise it when a fingerprint covers something else: every stage on disk is then stale
)

# Of a model behind a service, only which model it is and its extra parameters decide what it answers. The rest says
# where and how it is asked, and for how much money.
_HOW_SAMPLED = {"endpoint": set(SamplingEndpoint.model_fields) - {"model", "extra"}}
_HOW_JUDGED = set(ServedModel.model_fields) - {"model", "extra"}

NOT_FINGERPRINTED: dict[str, Any] = {
    "launch": True,
    "audit": True,
    "row_limits": True,
    "engine": True,
    "grpo": {"guards", "responses_every"},
    "judge": _HOW_JUDGED,
    "sampling": _HOW_SAMPLED,
    "passes": {"__all__": {"sampling": _HOW_SAMPLED}},
    "sources": {"__all__": {"sampling": _HOW_SAMPLED}},
    "writer": {"sampling": _HOW_SAMPLED},
    "rewriter": {"sampling": _HOW_SAMPLED},
}


class Fingerprints:
    """Materials and fingerprints of a pipeline's stages; each material is computed once."""

    def __init__(self, pipeline: Pipeline, digests: Digests) -> None:
        self._pipeline = pipeline
        self._digests = digests
        self._materials: dict[str, dict[str, Any]] = {}

    def material(self, name: str) -> dict[str, Any]:
        """What the fingerprint is the hash of; the manifest keeps it, so that a difference can be shown."""
        if name not in self._materials:
            self._materials[name] = self._material(self._pipeline.stages[name])
        return self._materials[name]

    def of(self, name: str) -> str:
        return hashlib.sha256(json.dumps(self.material(name), sort_keys=True).encode()).hexdigest()

    def identity(self, edge: Edge) -> str:
        """What an input is, whatever its path: the same identity means the same content."""
        if edge.origin == "stage":
            return f"{self.of(edge.stage)}:{edge.port}"
        if edge.origin == "hub":
            return f"hub:{hub_commit(edge)}"
        assert edge.path is not None
        return f"sha256:{self._digests.path(edge.path)}"

    def _material(self, stage: Stage) -> dict[str, Any]:
        material: dict[str, Any] = {"version": FINGERPRINT_VERSION, "kind": stage.kind.name}
        if stage.use:
            # An adopted stage is what lies at its paths; the config that would have made it does not matter.
            material["use"] = {port: self._digests.path(path) for port, path in stage.use.items()}
            return material
        material["config"] = self._config(stage)
        material["inputs"] = {port: self.identity(edge) for port, edge in stage.edges()}
        material["order"] = orders(stage)
        return material

    def _config(self, stage: Stage) -> dict[str, Any]:
        """The config as plain values, with every path replaced by the hash of what lies there."""
        config = stage.config.model_dump(mode="json", exclude=NOT_FINGERPRINTED)
        _leave_out_when_checkpoints_are_made(stage.config, config)
        _leave_out_how_judges_are_asked(stage.config, config)
        for keys, path in stage.files.items():
            # A path of a block that is not fingerprinted, for example launch.hostfile.
            if keys[0] not in config:
                continue
            holder: Any = config
            for key in keys[:-1]:
                holder = holder[key]
            holder[keys[-1]] = f"sha256:{self._path_or_pattern(path)}"
        return config

    def _path_or_pattern(self, path: Path) -> str:
        """The hash of what a path or a pattern stands for: of a pattern, names and contents of what it matches."""
        if path.exists():
            return self._digests.path(path)
        start = before_pattern(path)
        return combined({str(match.relative_to(start)): self._digests.path(match) for match in matches(path)})


def _leave_out_when_checkpoints_are_made(config: StageConfig, dumped: dict[str, Any]) -> None:
    """Of every training block: a training that was stopped ends as if it had not been."""
    for keys, _ in trainings(config):
        block: Any = dumped
        for key in keys:
            block = block[key]
        del block["save_every"], block["save_minutes"], block["keep_checkpoints"]


def _leave_out_how_judges_are_asked(config: StageConfig, dumped: dict[str, Any]) -> None:
    """Of the reward `judge`, whose parameters are a plain mapping, which NOT_FINGERPRINTED cannot name."""
    for keys, training in trainings(config):
        if not isinstance(training, GRPOParams):
            continue
        block: Any = dumped
        for key in keys:
            block = block[key]
        for phase in block["phases"]:
            for reward in phase["rewards"]:
                if reward["name"] == "judge":
                    params = reward["params"].items()
                    reward["params"] = {name: value for name, value in params if name not in _HOW_JUDGED}


# --- order ------------------------------------------------------------------------------------------------------------


def orders(stage: Stage) -> dict[str, list[str]]:
    """The keys, in order, of every mapping whose order decides something (marked `Ordered` in Config or Inputs).

    The fingerprint sorts keys, so that two ways to write one config are the same. These mappings are the exception:
    a mix that reads its inputs in another order is another mix.
    """
    found = {".".join(map(str, keys)): names for keys, names in _ordered_mappings(stage.config)}
    for port, field in stage.kind.Inputs.model_fields.items():
        edges = stage.inputs.get(port)
        if _is_ordered(field) and isinstance(edges, dict):
            found[f"inputs.{port}"] = list(edges)
    return found


def _is_ordered(field: FieldInfo) -> bool:
    return any(isinstance(mark, Ordered) for mark in field.metadata)


def _ordered_mappings(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, list[str]]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            child = getattr(value, name)
            if isinstance(child, dict) and _is_ordered(field):
                yield (*keys, name), list(child)
            yield from _ordered_mappings(child, (*keys, name))
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _ordered_mappings(child, (*keys, key))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _ordered_mappings(child, (*keys, number))
